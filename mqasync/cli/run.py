"""`mqasync run`: services at work until they are stopped or idle; the work itself is the Runner's."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any

import click
from msgspec.structs import replace

from .. import __version__
from ..brokers.broker import Brokers
from ..config.settings import load_settings
from ..errors import ConfigurationError
from ..handlers.step import Around
from ..observe.telemetry import sending_traces
from ..service.discovery import Service, discover
from ..service.loop import run as run_loop
from ..service.runner import Runner, exchanges_of
from ..service.workers import Worker, Workers
from .arguments import BROKER, CONFIG, MODULES, WAIT, duration
from .output import counted, table

log = logging.getLogger("mqasync")

Serve = Callable[[Runner], AbstractAsyncContextManager[Any]]


@click.command()
@MODULES
@CONFIG
@BROKER
@click.option("--until-idle", is_flag=True, help="Run producers once, drain and end when every queue is empty.")
@WAIT
@duration("--grace", default="30s", show_default=True, help="Time that running handlers get at the end.")
@click.option(
    "--http",
    metavar="[HOST]:PORT",
    envvar="MQASYNC_HTTP",
    help="Serve /health/live, /health/ready, /metrics and a live page here; worker 1 uses the next port, and so on.",
)
@click.option(
    "--http-replay",
    is_flag=True,
    help="Let the live page show the bodies of dead letters and replay them: anyone who can open the page can do so.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of processes: worker 0, 1 and so on ($MQASYNC_WORKER). Producers run in worker 0 only. "
    "A worker that dies is restarted after 1 s, then 2 s, up to 60 s.",
)
@click.option("--reload", is_flag=True, help="For development: restart when a .py or .yml file here changes.")
def run(
    modules: tuple[str, ...],
    path: str | None,
    broker: str | None,
    until_idle: bool,
    wait: float | None,
    grace: float,
    http: str | None,
    http_replay: bool,
    workers: int,
    reload: bool,
) -> None:
    """Run the consumers and producers of each MODULE: a module, a package or module:name.

    Ctrl-C or SIGTERM drains and ends with exit code 0 (graceful shutdown); a second one forces the shutdown.
    """
    if workers > 1 and until_idle:
        raise ConfigurationError(f"--until-idle takes one process, not {workers}: none knows if the others are idle")
    worker = Worker.this()
    if not worker and (workers > 1 or reload):
        supervisor = Workers(workers, reload=reload)
        run_loop(supervisor.run(), kill=supervisor.kill)
        raise click.exceptions.Exit(supervisor.code)
    if worker and workers > 1:
        worker.sign_logs()
    settings = load_settings(path, broker)
    services = discover(modules)
    if workers > 1:
        check_shared(services, Brokers(settings))
    number = worker.number if worker else 0
    if number:
        services = [replace(service, producers=[]) for service in services]
    around: list[Around] = []
    serve = serving(http, http_replay, number, around) if http else nullcontext
    with sending_traces(",".join(modules)):
        runner = Runner(services, settings, until_idle=until_idle, wait=wait, grace=grace, around=around)
        run_loop(_run(modules, runner, serve, worker), obedient=worker is not None, grace=grace)


def check_shared(services: Sequence[Service], brokers: Brokers) -> None:
    """Raise ConfigurationError for a broker of which each worker would have its own."""
    for exchange in sorted(exchanges_of(services)):
        broker = brokers.route(exchange)
        if not broker.shared:
            what = f"broker {broker.name} ({broker.address}) keeps the messages of each process to itself"
            raise ConfigurationError(f"--workers needs a broker that processes can share: {what}")


def serving(http: str, replay: bool, worker: int, around: list[Around]) -> Serve:
    """What serves a runner at the address `http`, of each worker at its own; adds to `around` what it has to measure.

    Raises ConfigurationError.
    """
    try:
        from ..web.metrics import Metrics
        from ..web.server import Server, address
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"--http needs {error.name}: pip install 'mqasync[http]'") from error
    where, metrics = address(http, worker), Metrics()
    around.append(metrics.around)
    return lambda runner: Server(where, runner, metrics, replay)


async def _run(modules: tuple[str, ...], runner: Runner, serve: Serve, worker: Worker | None) -> None:
    if worker:
        worker.watch_parent()
    log.info("mqasync %s: %s", __version__, ", ".join(modules))
    try:
        with suppress(asyncio.CancelledError):
            async with serve(runner), runner:
                for line in bindings(runner):
                    log.info("%s", line)
                if worker:
                    worker.at_work()
                await runner.finished()
    finally:
        for line in summary(runner):
            log.info("%s", line)


def bindings(runner: Runner) -> list[str]:
    """What is bound to what, on which broker, a line each."""

    def row(who: str, what: str, exchange: str) -> dict[str, str]:
        broker = runner.brokers.route(exchange)
        return {"who": f"  {who}", "what": what, "where": f"on {broker.name} ({broker.address})"}

    rows = []
    for feed in runner.feeds:
        every = f", every {feed.source.every}" if feed.source.every else ""
        exchange = feed.source.exchange
        rows.append(row(f"producer {feed.name}", f"publishes to {exchange}{every}", exchange))
    for channel in runner.channels:
        to = ", ".join(channel.step.consumer.options.to)
        rows.append(row(f"consumer {channel.name}", f"publishes to {to}" if to else "", channel.exchange))
    return table(rows)[1:]


def summary(runner: Runner) -> list[str]:
    """What was done, a line for each producer and queue."""
    rows: list[dict[str, Any]] = [
        {"": f"  {feed.name}", "published": feed.outputs.total(), "handled": "", "retried": "", "dead_lettered": ""}
        for feed in runner.feeds
    ]
    notes = []
    for channel in runner.channels:
        counts, published = channel.counts, channel.step.outputs.total()
        told = {name: getattr(counts, name) for name in ("handled", "retried", "dead_lettered")}
        rows.append({"": f"  {channel.name}", "published": published, **told})
        if counts.duplicates:
            were = "was" if counts.duplicates == 1 else "were"
            duplicates = counted(counts.duplicates, "duplicate")
            notes.append(f"{duplicates} of {channel.name} {were} not handled again")
        if counts.dead_lettered:
            where = f"in the dead-letter queue of {channel.name}"
            look = f"to see more: mqasync dead list {channel.name.replace('/', ' ')}"
            notes.append(f"{counts.dead_lettered:,} {where}; last error: {counts.last_error}; {look}")
    return [*table(rows), *notes]
