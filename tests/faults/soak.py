"""Random faults for some minutes: `python -m tests.faults.soak SEED MINUTES` (`make soak SEED= MINUTES=`).

The same seed makes the same faults in the same order. Ends with exit code 1 if anything was lost or memory grew.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable

import psutil

from ..brokers import RabbitMQ, rabbitmq
from .load import Load, loads
from .proxy import DOWN, UP, Proxy

MAX_GROWTH = 20 * 1024 * 1024
MESSAGES = 10**9  # more than there is time for
NUMBER_BYTES = 32  # an int or a float of CPython, as it is allocated
PACE = 0.25  # seconds between two messages of a publisher: 200 a second on each loop


def restart(server: RabbitMQ) -> None:
    """SIGKILL, and up again."""
    server.kill()
    server.restart()


def freeze(server: RabbitMQ, seconds: float) -> None:
    """SIGSTOP for a while."""
    assert server.process
    os.killpg(server.process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.killpg(server.process.pid, signal.SIGCONT)


def close_all(server: RabbitMQ) -> None:
    """As an administrator may."""
    server.control("close_all_connections", "soak")


def faults(server: RabbitMQ, proxy: Proxy, chance: random.Random) -> dict[str, Callable[[], None]]:
    """By name, everything that may happen."""
    way = chance.choice([UP, DOWN])
    return {
        "reset": proxy.drop,
        "close": proxy.finish,
        "half-open": proxy.half_open,
        f"black hole {way}": lambda: proxy.black_hole(way),
        f"cut {way}": lambda: proxy.spoil("cut", way),
        f"corrupt {way}": lambda: proxy.spoil("corrupt", way),
        "kill": lambda: restart(server),
        "freeze": lambda: freeze(server, chance.uniform(0.5, 5.0)),
        "closed by the administrator": lambda: close_all(server),
    }


def used(running: list[Load]) -> int:
    """Bytes of memory that this process uses, without the ledgers: they grow with every message."""
    memory: int = psutil.Process().memory_info().rss
    for ledger in (load.ledger for load in running):
        for kept in (ledger.confirmed, ledger.processed, ledger.times):
            memory -= sys.getsizeof(kept) + NUMBER_BYTES * len(kept)
    return memory


def main(seed: int, minutes: float) -> int:
    """Run; 0 if all is well."""
    print(f"seed {seed}, {minutes:g} minutes", flush=True)
    logging.disable(logging.CRITICAL)
    chance = random.Random(seed)
    end = time.monotonic() + 60 * minutes
    memory = grown = 0
    with rabbitmq() as server, Proxy(server.port) as proxy:
        with loads(f"amqp://guest:guest@127.0.0.1:{proxy.port}/?heartbeat=5", MESSAGES, pace=PACE) as running:
            while time.monotonic() < end:
                name, fault = chance.choice(list(faults(server, proxy, chance).items()))
                print(f"{name}", flush=True)
                fault()
                time.sleep(chance.uniform(0.5, 8.0))
                memory = memory or used(running)
            grown = used(running) - memory
            for load in running:
                load.stop = True
                load.finish()
            return verdict(running, grown)


def verdict(running: list[Load], grown: int) -> int:
    """Say what came of it."""
    for load in running:
        print(f"{load.loop_name}: {load}; left in the queues: {load.depths}")
    print(f"memory {grown / 1e6:+.1f} MB, the ledgers not counted")
    lost = any(load.ledger.lost for load in running)
    left = any(depth for load in running for name, depth in load.depths.items() if name != "dead")
    return int(lost or left or grown > MAX_GROWTH)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
