"""Runs a service in memory for its tests: publish, wait, look at its outputs; no real broker.

A pytest plugin: the fixture `mqasync_service` starts services and drains them after the test.
"""

import asyncio
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import ModuleType
from typing import Any

import msgspec
import pytest

from .brokers.broker import Brokers
from .config.settings import ExchangeSettings, Settings
from .handler import Binding, Source
from .handlers.step import outgoing
from .message import Message, NaturalKey, Out, new_id
from .service.discovery import Service, discover
from .service.runner import Runner


class Recorder(Brokers):
    """Brokers that record all published messages; no exchange needs a queue."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.published: dict[str, list[Message]] = defaultdict(list)

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Publish; an exchange without a queue is fine in a test."""
        self.published[message.exchange].append(message)
        if message.exchange not in self.settings.exchanges:
            self.settings.exchanges[message.exchange] = ExchangeSettings(optional=True)
        return super().publish(message)


class RunningService:
    """A service that runs in memory.

    `acknowledged`, `retried` and `dead_lettered` are its messages so far; the headers of a dead letter say why.
    """

    def __init__(self, brokers: Recorder) -> None:
        self._brokers = brokers
        self.runner: Runner
        self.acknowledged: list[Message] = []
        self.retried: list[Message] = []
        self.dead_lettered: list[Message] = []

    def observe(self, event: str, message: Message) -> None:
        """Called by the channels with what became of each message."""
        getattr(self, event).append(message)

    async def publish(self, exchange: str, body: Any, *, key: NaturalKey | None = None, **headers: str) -> str:
        """Publish one body as a producer with the id `test` would; returns the message id."""
        message = outgoing(Out(body, key=key, headers=headers), exchange, "test")
        await self._brokers.publish(message)
        return message.id

    async def quiet(self, within: float = 5.0) -> None:
        """Wait until all queues are empty and nothing is in flight. Raises TimeoutError after `within` seconds."""
        async with asyncio.timeout(within):
            await self.runner.idle()

    def published(self, exchange: str) -> list[Any]:
        """The bodies published to `exchange` so far, decoded from JSON, in order."""
        return [msgspec.json.decode(message.body) for message in self.messages(exchange)]

    def messages(self, exchange: str) -> list[Message]:
        """The messages published to `exchange` so far, with ids and headers, in order."""
        return list(self._brokers.published[exchange])


StartService = Callable[..., Awaitable[RunningService]]
"""The type of the fixture: call it with the arguments of run_service."""


@asynccontextmanager
async def run_service(
    *what: str | ModuleType | Binding | Source[..., Any],
    config: Mapping[str, Mapping[str, Any]] | None = None,
    backoff: float = 0.0,
) -> AsyncIterator[RunningService]:
    """Run modules (by name), consumers and producers in memory; retries wait `backoff` seconds at most.

    `config` is what `services:` in config.yml would say: settings for lifespan(), by module name.
    Producers are not started: publish what they would publish. Raises what the start of the service raises.
    """
    names = [item if isinstance(item, str) else item.__name__ for item in what if isinstance(item, str | ModuleType)]
    services = discover(names) if names else []
    handlers = [item for item in what if isinstance(item, Binding)]
    if handlers:
        services.append(Service("test", handlers, [], None))
    queues = [f"{consumer.exchange}/{consumer.id}" for service in services for consumer in service.consumers]
    settings = Settings(
        brokers={"main": f"memory:{new_id()}"},
        consumers={queue: {"backoff": backoff} for queue in queues},
        services={name: dict(section) for name, section in (config or {}).items()},
    )
    brokers = Recorder(settings)
    running = RunningService(brokers)
    async with Runner(services, settings, grace=1.0, brokers=brokers, observe=running.observe) as running.runner:
        yield running


try:  # pytest-asyncio's own fixtures work in both of its modes
    from pytest_asyncio import fixture
except ImportError:
    from pytest import fixture  # type: ignore[no-redef]


@fixture
async def mqasync_service() -> AsyncIterator[StartService]:
    """`service = await mqasync_service("services.hello")`: see run_service; drained after the test."""
    async with AsyncExitStack() as stack:

        async def start(*what: Any, **options: Any) -> RunningService:
            return await stack.enter_async_context(run_service(*what, **options))

        yield start


# pytest would not say which plugin fits; those that run coroutine functions have replaced them before these hooks
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Say what to install if nothing runs the fixture."""
    if fixturedef.argname == mqasync_service.__name__ and inspect.isasyncgenfunction(fixturedef.func):
        pytest.fail("mqasync_service needs pytest-asyncio: pip install 'mqasync[pytest]'", pytrace=False)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Say what to set if nothing runs a test that uses the fixture."""
    if mqasync_service.__name__ in pyfuncitem.fixturenames and inspect.iscoroutinefunction(pyfuncitem.obj):
        pytest.fail("write `asyncio_mode = auto` below [pytest] in pytest.ini, or mark this test", pytrace=False)
