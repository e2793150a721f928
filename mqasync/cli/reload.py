"""`run --reload`: when files change, the workers are drained and started anew; how they are run is in workers.py."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import Iterable
from contextlib import suppress

from ..errors import ConfigurationError
from .workers import MISTAKE, Workers

log = logging.getLogger("mqasync")

SUFFIXES = (".py", ".yml", ".yaml")
TOGETHER_MS = 200  # changes with less time between them are one


async def reloading(workers: Workers, modules: Iterable[str], config: str | None) -> None:
    """Run the workers, anew after each change, until cancelled or until they find a mistake at the very start.

    Raises ConfigurationError without `watchfiles`.
    """
    try:
        from watchfiles import DefaultFilter, awatch
    except ModuleNotFoundError as error:
        raise ConfigurationError("--reload needs watchfiles: pip install 'mqasync[reload]'") from error
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    ignored = DefaultFilter()
    mistaken = asyncio.Event()
    changes = awatch(
        *directories(modules, config),
        watch_filter=lambda change, path: path.endswith(SUFFIXES) and ignored(change, path),
        step=TOGETHER_MS,
        stop_event=mistaken,
        ignore_permission_denied=True,
    )

    async def run(first: bool) -> None:
        await workers.run()
        if first and workers.code == MISTAKE:
            mistaken.set()
        else:
            log.info("waiting for a change")

    running = asyncio.create_task(run(first=True))
    try:
        async for changed in changes:
            log.info("%s changed: starting anew", listed(path for _, path in changed))
            running.cancel()
            await asyncio.wait([running])
            running = asyncio.create_task(run(first=False))
    finally:
        running.cancel()
        await asyncio.wait([running])
        await workers.drain()  # if that cancelled a drain


def listed(paths: Iterable[str]) -> str:
    """The files by their names from here."""
    return ", ".join(sorted({os.path.relpath(path) for path in paths}))


def directories(modules: Iterable[str], config: str | None) -> set[str]:
    """Those of the modules' top-level packages, of the configuration, and the working directory; none is imported."""
    configuration = config or os.environ.get("MQASYNC_CONFIG") or "config.yml"
    found = {os.getcwd(), os.path.dirname(os.path.abspath(configuration))}
    for module in modules:
        with suppress(ValueError):  # what cannot be the name of a module; the worker says so
            spec = importlib.util.find_spec(module.partition(":")[0].partition(".")[0])
            if spec and spec.submodule_search_locations:
                found |= set(spec.submodule_search_locations)
            elif spec and spec.has_location and spec.origin:
                found.add(os.path.dirname(os.path.abspath(spec.origin)))
    return {directory for directory in found if os.path.isdir(directory)}
