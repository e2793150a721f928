"""What the programs here share: what their tasks do, how they publish, and the files that both are noted in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

Publish = Callable[[str], Awaitable[object]]
Publisher = Callable[[], AbstractAsyncContextManager[Publish]]

URL = os.environ["LOSSES_BROKER"]
SAFE = os.environ["LOSSES_SAFE"] == "True"
RAISES = os.environ["LOSSES_FAULT"] == "raises"
COUNT = int(os.environ["LOSSES_COUNT"])
DIRECTORY = Path(os.environ["LOSSES_LEDGER"])
ONCE = os.environ["LOSSES_FAULT"] == "early"
PUBLISHERS = 10
PAUSE = 0.02  # seconds between two messages of one publisher
WORK = 0.05  # seconds that a task takes


def note(what: str, name: str) -> None:
    """Add a line to a file of the ledger; it stays when the process is killed."""
    with (DIRECTORY / what).open("a") as file:
        file.write(f"{name}\n")


async def task(name: str) -> None:
    """Work on a message; every third one fails the first time, where the fault is that tasks raise."""
    note("begun", name)
    await asyncio.sleep(WORK)
    failed = DIRECTORY / f"{name}.failed"
    if RAISES and int(name.removeprefix("message-")) % 3 == 0 and not failed.exists():
        failed.touch()
        raise ValueError(f"{name} fails the first time")
    note("handled", name)


def blocking(send: Callable[[str], object]) -> Publisher:
    """Publishes by a call that blocks and needs no opening."""

    async def publish(name: str) -> None:
        send(name)

    @asynccontextmanager
    async def publisher() -> AsyncIterator[Publish]:
        yield publish

    return publisher


async def publish_all(publisher: Publisher) -> None:
    """Publish all messages: what raised is published again, except where nothing consumes yet."""
    names = iter(f"message-{number}" for number in range(COUNT))

    async def work(publish: Publish) -> None:
        for name in names:
            while True:
                try:
                    await publish(name)
                except Exception as error:
                    note("refused", f"{name} {error!r}")
                    if ONCE:
                        break
                    await asyncio.sleep(0.1)
                else:
                    note("published", name)
                    break
            await asyncio.sleep(PAUSE)

    async with publisher() as publish:
        await asyncio.gather(*(work(publish) for _ in range(PUBLISHERS)))
