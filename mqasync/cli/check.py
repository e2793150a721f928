"""`mqasync check`: whether everything is ready for a start, for CI and containers; it creates no queue."""

from collections import Counter

import click
import msgspec

from ..config.settings import Settings
from ..errors import MqasyncError
from ..operate.checks import ERROR, WARNING, Checks
from ..service.discovery import Service
from .arguments import GIVE_UP, SERVICES, Command, connected, settings
from .output import JSON, show


@click.command(cls=Command)
@SERVICES
@settings
@JSON
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@GIVE_UP
async def check(services: list[Service], settings: Settings, as_json: bool, strict: bool, wait: float) -> None:
    """Check the configuration, the brokers, and the queues of each MODULE; without one, all configured brokers.

    Errors: a broker that does not answer, a queue that exists with other arguments than declared. Warnings: a
    broker that can lose messages, queues and outputs that nothing consumes, dead letters. Missing queues are not
    created. Exit code 0 without errors, 1 with errors, 2 for a mistake in the configuration.
    """
    async with connected(settings, wait) as brokers:
        findings = await Checks(services, brokers, wait).run()
    show([msgspec.structs.asdict(finding) for finding in findings], as_json, "nothing to check")
    counts = Counter(finding.result for finding in findings)
    if counts[ERROR] or (strict and counts[WARNING]):
        raise MqasyncError(f"errors: {counts[ERROR]}, warnings: {counts[WARNING]}")
