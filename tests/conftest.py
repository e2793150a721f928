"""Fixtures for the whole suite: the real brokers, each started once; no test and no helper of one file."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
import trustme

from mqasync import masking
from mqasync.brokers.broker import Brokers
from mqasync.brokers.connection import Connection, load
from mqasync.brokers.inbox import Inbox
from mqasync.config.settings import Settings
from mqasync.message import new_id
from mqasync.transport import Options

pytest.register_assert_rewrite("tests.conformance", "tests.waiting", "tests.working", "tests.faults.load")

from .brokers import BrokerUnavailable, RabbitMQ, apt_install, rabbitmq  # noqa: E402
from .commands import CommandLine  # noqa: E402
from .servers.activemq import running_activemq  # noqa: E402
from .servers.kafka import kafka  # noqa: E402
from .servers.nats import running_nats  # noqa: E402
from .servers.postgres import running_postgres  # noqa: E402
from .servers.redis import durable_redis  # noqa: E402
from .servers.sqs import CREDENTIALS, moto  # noqa: E402

Broker = TypeVar("Broker")
Connect = Callable[..., Awaitable[Connection]]


def unavailable(error: BrokerUnavailable) -> NoReturn:
    """Skip loudly where a broker cannot be had; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"CI needs every broker: {error}")
    pytest.skip(f"NOT TESTED: {error}")


@contextmanager
def required(broker: AbstractContextManager[Broker]) -> Iterator[Broker]:
    """The running broker; where it cannot be had the test is skipped, but failed in CI."""
    try:
        with broker as server:
            yield server
    except BrokerUnavailable as error:
        unavailable(error)


def installed(program: str, package: str) -> str:
    """`program`, installed first where it is missing."""
    if not shutil.which(program):
        try:
            apt_install(package)
        except BrokerUnavailable as error:
            unavailable(error)
    return program


@pytest.fixture(scope="session")
def graphviz() -> None:
    """The program that makes pictures."""
    installed("dot", "graphviz")


def shared(start: Callable[[], AbstractContextManager[Broker]]) -> Any:
    """A server that all tests share: do not stop it. Where it cannot be had: skipped, but failed in CI."""

    @pytest.fixture(scope="session")
    def server() -> Iterator[Broker]:
        with required(start()) as running:
            yield running

    return server


rabbitmq_server = shared(rabbitmq)
postgres_server = shared(running_postgres)
redis_broker = shared(durable_redis)  # it loses nothing
kafka_server = shared(kafka)
activemq_server = shared(running_activemq)
nats_server = shared(running_nats)
sqs_server = shared(moto)


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq_server: RabbitMQ) -> str:
    """The URL of the shared RabbitMQ."""
    return rabbitmq_server.url


@pytest.fixture(autouse=True)
def forgotten_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test keeps secret may be a plain word in the next."""
    monkeypatch.setattr(masking, "_concealed", masking.Concealed())


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for moto in the environment, also of processes that the test starts."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem and what it vouches for, 127.0.0.1 and client (.pem, or .crt and .key); other-ca.pem and so on."""
    directory = tmp_path_factory.mktemp("certificates")
    for name in ("", "other-"):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / f"{name}ca.pem")
        for owner in ("127.0.0.1", "client@example.org"):
            certificate = authority.issue_cert(owner)
            path = directory / f"{name}{owner.split('@')[0]}"
            certificate.private_key_and_cert_chain_pem.write_to_path(f"{path}.pem")
            certificate.cert_chain_pems[0].write_to_path(f"{path}.crt")
            certificate.private_key_pem.write_to_path(f"{path}.key")
    return directory


@pytest.fixture
def exchange() -> str:
    """A name that nobody else uses on the shared brokers."""
    return f"E{new_id()}"


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open a transport by its URL; it is closed after the test, whether it opened or not."""
    transports: list[Connection] = []

    async def connect(url: str, options: Options | None = None) -> Connection:
        transports.append(load(url, options))
        await transports[-1].open()
        return transports[-1]

    yield connect
    for transport in transports:
        await transport.close()


@pytest.fixture
async def transport(connect: Connect, url: str) -> Connection:
    """Connected to `url`, which is a fixture of the tests that want this."""
    return await connect(url)


@pytest.fixture
async def queue(transport: Connection, exchange: str) -> Inbox:
    """A subscription to the new queue (exchange, "q")."""
    await transport.declare(exchange, "q")
    return await transport.subscribe(exchange, "q", 100)


@pytest.fixture
async def brokers(url: str) -> AsyncIterator[Brokers]:
    """What a process has whose configuration names `url`."""
    brokers = Brokers(Settings(brokers={"main": url}))
    yield brokers
    await brokers.close()


@pytest.fixture
def cli(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CommandLine]:
    """Commands on a SQLite file of their own, or on a broker of the kind that the test names; all ends with it."""
    kind = getattr(request, "param", "")
    command_line = CommandLine(tmp_path, url_of(kind, request, tmp_path) if kind else f"sqlite:{tmp_path}/messages.db")
    yield command_line
    command_line.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"NOT TESTED: a small file system cannot be mounted: {done.stderr.strip()}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def url_of(kind: str, request: pytest.FixtureRequest, directory: Path) -> str:
    """The URL of a broker of that kind, with short leases: messages of a dead process come back soon."""
    if kind == "memory":
        return f"memory:{new_id()}"
    if kind == "sqlite":
        return f"sqlite:{directory}/test.db?lease=1"
    if kind == "sqs":
        request.getfixturevalue("aws")
    server = request.getfixturevalue("redis_broker" if kind == "redis" else f"{kind}_server")
    return str(server.url) + {"redis": "?lease=1", "postgres": "&lease=1", "nats": "?lease=1"}.get(kind, "")
