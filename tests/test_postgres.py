"""The postgres transport keeps the contract; and its own: URL, settings, schema, TLS, poolers, lost connections."""

import asyncio

import pytest

from mqasync import BrokerLost, BrokerRefused, Message
from mqasync.brokers.connection import Connection
from mqasync.brokers.inbox import Inbox
from mqasync.message import new_id
from mqasync.transport import Features

from .conformance import Conformance, message, numbers, receive
from .conftest import Connect, required
from .servers.postgres import Postgres, running_pgbouncer
from .waiting import PATIENCE, depth


class TestPostgres(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, postgres_server: Postgres) -> str:
        return f"{postgres_server.url}&lease=2"


@pytest.fixture
def url(postgres_server: Postgres) -> str:
    """In a schema that nobody has used."""
    return f"{postgres_server.url}&schema=s{new_id().replace('-', '')}"


async def test_a_wrong_password_and_a_database_that_is_not_there_are_refused(
    postgres_server: Postgres, connect: Connect
) -> None:
    with pytest.raises(BrokerRefused, match='password authentication failed for user "mqasync"') as refused:
        await connect(postgres_server.url.replace(postgres_server.password, "geheim"))
    assert "geheim" not in str(refused.value)
    with pytest.raises(BrokerRefused, match='database "nowhere" does not exist'):
        await connect(postgres_server.url.replace("/postgres?", "/nowhere?"))


async def test_a_server_as_it_comes_needs_no_warning_and_one_that_does_not_wait_for_its_disk_does(
    postgres_server: Postgres, connect: Connect
) -> None:
    assert (await connect(postgres_server.url)).warning == ""
    role = f"r{new_id()[:8]}"
    postgres_server.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'x'")
    postgres_server.execute(f"ALTER ROLE {role} SET synchronous_commit = off")
    warning = (await connect(f"postgres://{role}:x@{postgres_server.address}?sslmode=off")).warning
    assert warning == "a crash of the server can lose confirmed messages: synchronous_commit = off; set that to on"


async def test_a_server_with_fsync_off_is_warned_of(postgres_server: Postgres, connect: Connect) -> None:
    try:
        postgres_server.set(fsync="off", full_page_writes="off")
        assert "fsync = off, full_page_writes = off; " in (await connect(postgres_server.url)).warning
    finally:
        postgres_server.set(fsync="on", full_page_writes="on")


async def test_many_that_open_an_empty_database_at_once_make_its_tables_once(
    url: str, connect: Connect, exchange: str
) -> None:
    transports = await asyncio.gather(*(connect(f"{url}&connections=2") for _ in range(20)))
    await asyncio.gather(*(transport.declare(exchange, "q") for transport in transports))
    await asyncio.gather(*(transport.publish(exchange, [message(n)]) for n, transport in enumerate(transports)))
    subscription = await transports[0].subscribe(exchange, "q", 100)
    assert sorted(numbers(await receive(subscription, 20))) == list(range(20))


async def test_each_schema_is_a_broker_of_its_own(
    postgres_server: Postgres, url: str, connect: Connect, exchange: str
) -> None:
    ours, theirs = await connect(url), await connect(postgres_server.url)
    for transport in (ours, theirs):
        await transport.declare(exchange, "q")
    await ours.publish(exchange, [message(1)])
    assert await depth(theirs, exchange, "q") == 0
    assert await depth(ours, exchange, "q") == 1


async def test_a_role_that_may_make_nothing_works_with_the_tables_that_are_there(
    postgres_server: Postgres, url: str, connect: Connect, exchange: str
) -> None:
    schema, role = url.rpartition("=")[2], f"r{new_id()[:8]}"
    postgres_server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    theirs = f"postgres://{role}:x@{postgres_server.address}?sslmode=off&schema={schema}"
    with pytest.raises(BrokerRefused, match="permission denied for database"):
        await connect(theirs)
    await connect(url)
    postgres_server.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    postgres_server.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
    transport = await connect(theirs)
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(1)])
    subscription = await transport.subscribe(exchange, "q", 10)
    await subscription.ack(await receive(subscription, 1))
    assert await depth(transport, exchange, "q") == 0


async def test_a_server_that_takes_no_writes_is_not_connected_to(postgres_server: Postgres, connect: Connect) -> None:
    role = f"r{new_id()[:8]}"
    postgres_server.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'x'")
    postgres_server.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    with pytest.raises(BrokerLost, match="it accepts no writes: it is a standby or read-only"):
        await connect(f"postgres://{role}:x@{postgres_server.address}?sslmode=off")


async def test_what_a_closing_transport_held_is_given_to_who_waits_at_once_and_not_counted_as_returned(
    url: str, connect: Connect, exchange: str
) -> None:
    closing, other = await connect(url), await connect(url)
    await closing.declare(exchange, "q")
    await closing.publish(exchange, [message(1)])
    await receive(await closing.subscribe(exchange, "q", 10), 1)
    receiving = asyncio.create_task((await other.subscribe(exchange, "q", 10)).receive(10, PATIENCE))
    await asyncio.sleep(0.1)
    await closing.close()
    (delivery,) = await asyncio.wait_for(receiving, 2.0)  # by its lease it would come after 30 s
    assert (delivery.message.attempt, delivery.returned) == (1, 0)


async def test_a_schema_that_somebody_drops_is_made_again_by_the_next_connection(
    postgres_server: Postgres, url: str, connect: Connect, transport: Connection, exchange: str
) -> None:
    await transport.declare(exchange, "q")
    postgres_server.execute(f"DROP SCHEMA {url.rpartition('=')[2]} CASCADE")
    with pytest.raises(BrokerLost, match='relation "message" does not exist'):
        await transport.publish(exchange, [message(1)])
    again = await connect(url)
    await again.declare(exchange, "q")
    await again.publish(exchange, [message(2)])
    assert numbers(await receive(await again.subscribe(exchange, "q", 10), 1)) == [2]


async def test_a_row_that_a_stranger_wrote_is_a_message_and_one_with_a_broken_envelope_is_unreadable(
    postgres_server: Postgres, url: str, transport: Connection, exchange: str, queue: Inbox
) -> None:
    table = f"{url.rpartition('=')[2]}.message"
    for envelope in ("NULL", "'nonsense'"):
        postgres_server.execute(f"INSERT INTO {table} (queue, due, envelope, body) VALUES (1, now(), {envelope}, '17')")
    deliveries = await receive(queue, 2)
    assert [delivery.unreadable.partition(":")[0] for delivery in deliveries] == ["", "its envelope cannot be read"]
    messages = [delivery.message for delivery in deliveries]
    assert [(one.body, one.exchange, one.id) for one in messages] == [
        (b"17", exchange, f"{exchange}/1"),
        (b"17", exchange, f"{exchange}/2"),
    ]
    await queue.ack(deliveries)
    assert await depth(transport, exchange, "q") == 0


async def test_what_is_too_much_for_one_statement_arrives_in_several(
    transport: Connection, exchange: str, queue: Inbox
) -> None:
    await transport.publish(exchange, [Message(body=b"%03d" % n * 400_000, exchange=exchange) for n in range(100)])
    received = await receive(queue, 100)
    assert {delivery.message.body for delivery in received} == {b"%03d" % n * 400_000 for n in range(100)}


# PgBouncer


async def test_pgbouncer_in_session_mode_needs_no_settings(
    postgres_server: Postgres, connect: Connect, exchange: str
) -> None:
    with required(running_pgbouncer(postgres_server, "session")) as pooler:
        url = f"{pooler.url}&schema=s{new_id().replace('-', '')}"
        transport, other = await connect(url), await connect(url)
        await transport.declare(exchange, "q")
        subscription = await transport.subscribe(exchange, "q", 10)
        receiving = asyncio.create_task(subscription.receive(10, PATIENCE))
        await other.publish(exchange, [message(1)])
        assert numbers(await receiving) == [1]
        await subscription.ack(await receiving)
        assert await depth(other, exchange, "q") == 0


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("more", ["", "server_round_robin = 1"])
async def test_pgbouncer_in_another_mode_is_refused_and_told_which_it_needs(
    postgres_server: Postgres, connect: Connect, mode: str, more: str
) -> None:
    with required(running_pgbouncer(postgres_server, mode, more)) as pooler:
        for _ in range(3):  # also when it has prepared statements of others, and the tables are there
            with pytest.raises(BrokerRefused, match="PgBouncer needs pool_mode=session"):
                await connect(pooler.url)


# TLS


async def test_a_server_without_tls_is_refused_unless_the_url_says_so(
    postgres_server: Postgres, connect: Connect
) -> None:
    with pytest.raises(BrokerRefused, match="it offers no TLS; sslmode=off in the URL connects without"):
        await connect(postgres_server.login)
