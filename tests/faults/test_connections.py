"""Connections to RabbitMQ broken by the network while messages flow."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from .conftest import Record
from .load import MESSAGES, loads
from .proxy import DOWN, UP, Proxy

HEARTBEAT = 2
SILENT_SECONDS = 15.0

AT_ONCE: dict[str, Callable[[Proxy], None]] = {
    "connections reset": Proxy.drop,
    "connections closed": Proxy.finish,
    "cut in mid-frame, to the broker": lambda proxy: proxy.spoil("cut", UP),
    "cut in mid-frame, from the broker": lambda proxy: proxy.spoil("cut", DOWN),
    "corrupt byte, to the broker": lambda proxy: proxy.spoil("corrupt", UP),
    "corrupt byte, from the broker": lambda proxy: proxy.spoil("corrupt", DOWN),
}
SILENT: dict[str, Callable[[Proxy], None]] = {
    "half-open connections": Proxy.half_open,
    "black hole, both ways": lambda proxy: proxy.black_hole(UP, DOWN),
    "black hole to the broker": lambda proxy: proxy.black_hole(UP),
    "black hole from the broker": lambda proxy: proxy.black_hole(DOWN),
}


def more(proxy: Proxy, connections: int) -> bool:
    return proxy.accepted > connections


@pytest.mark.parametrize("fault", AT_ONCE)
def test_a_connection_that_ends_loses_nothing(fault: str, proxy: Proxy, record: Record) -> None:
    with loads(f"amqp://guest:guest@127.0.0.1:{proxy.port}/?heartbeat={HEARTBEAT}", MESSAGES) as running:
        # When it strikes three times while messages flow
        for part in (0.1, 0.3, 0.5):
            for load in running:
                load.until_confirmed(part)
            connections = proxy.accepted
            AT_ONCE[fault](proxy)
            back = time.monotonic()
            running[0].until(partial(more, proxy, connections), "somebody connects again")
        for load in running:
            load.finish()
    # Then all is handled, and soon
    record("RabbitMQ", f"{fault}, 3 times", running, back)


@pytest.mark.parametrize("fault", SILENT)
def test_a_connection_that_dies_silently_loses_nothing(fault: str, proxy: Proxy, record: Record) -> None:
    with loads(f"amqp://guest:guest@127.0.0.1:{proxy.port}/?heartbeat={HEARTBEAT}", MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        SILENT[fault](proxy)
        back = time.monotonic()
        for load in running:
            load.finish()
    record("RabbitMQ", f"{fault}, heartbeat {HEARTBEAT} s", running, back, within=SILENT_SECONDS)


def test_a_slow_network_loses_nothing(proxy: Proxy, record: Record) -> None:
    with loads(f"amqp://guest:guest@127.0.0.1:{proxy.port}/?heartbeat={HEARTBEAT}", MESSAGES) as running:
        proxy.delay = 0.05
        for load in running:
            load.until_confirmed(0.3)
        proxy.delay = 0.0
        back = time.monotonic()
        for load in running:
            load.finish()
    record("RabbitMQ", "delay of 50 ms each way", running, back)


def test_a_broker_that_refuses_connections_for_a_while_loses_nothing(proxy: Proxy, record: Record) -> None:
    with loads(f"amqp://guest:guest@127.0.0.1:{proxy.port}/?heartbeat={HEARTBEAT}", MESSAGES) as running:
        proxy.refusing = True
        proxy.drop()
        refused = proxy.accepted
        running[0].until(lambda: proxy.accepted > refused + 10, "they try to connect")
        proxy.refusing = False
        back = time.monotonic()
        for load in running:
            load.finish()
    record("RabbitMQ", "connections refused for a while", running, back)
