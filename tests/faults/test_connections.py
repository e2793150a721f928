"""Connections to RabbitMQ broken by the network while messages flow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Record
from .load import Load
from .proxy import DOWN, UP, Proxy

HEARTBEAT = 1
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


def way(proxy: Proxy, query: str = "") -> str:
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/{query}"


def connected_again(load: Load, proxy: Proxy, connections: int) -> None:
    load.until(lambda: proxy.accepted > connections, "somebody connects again, or tries to")


@pytest.mark.parametrize("fault", AT_ONCE)
def test_a_connection_that_ends_loses_nothing(fault: str, proxy: Proxy, record: Record) -> None:
    def strike(running: list[Load]) -> None:
        for part in (0.2, 0.35, 0.5):
            for load in running:
                load.until_confirmed(part)
            connections = proxy.accepted
            AT_ONCE[fault](proxy)
            connected_again(running[0], proxy, connections)

    record.survives("RabbitMQ", f"{fault}, 3 times", way(proxy), strike)


@pytest.mark.parametrize("fault", SILENT)
def test_a_connection_that_dies_silently_loses_nothing(fault: str, proxy: Proxy, record: Record) -> None:
    name, url = f"{fault}, heartbeat {HEARTBEAT} s", way(proxy, f"?heartbeat={HEARTBEAT}")
    record.survives("RabbitMQ", name, url, lambda _: SILENT[fault](proxy), within=SILENT_SECONDS)


def test_a_slow_network_loses_nothing(proxy: Proxy, record: Record) -> None:
    def strike(running: list[Load]) -> None:
        proxy.delay = 0.05
        for load in running:
            load.until_confirmed(0.4)
        proxy.delay = 0.0

    record.survives("RabbitMQ", "delay of 50 ms each way", way(proxy), strike, struck=False)


def test_a_broker_that_refuses_connections_for_a_while_loses_nothing(proxy: Proxy, record: Record) -> None:
    def strike(running: list[Load]) -> None:
        proxy.refusing = True
        proxy.drop()
        connected_again(running[0], proxy, proxy.accepted + 10)
        proxy.refusing = False

    record.survives("RabbitMQ", "connections refused for a while", way(proxy), strike)
