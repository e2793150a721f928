"""From a URL and options to a transport: what cannot be loaded, what is refused, and that no password shows."""

from typing import Any

import pytest

from mqasync import BrokerLost, ConfigurationError
from mqasync.brokers.connection import load
from mqasync.transports.memory import MemoryTransport

from .conftest import Connect


def test_a_scheme_with_dots_names_the_users_own_class() -> None:
    connection: Any = load("mqasync.transports.memory.MemoryTransport:x")
    assert isinstance(connection._transport, MemoryTransport)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no.such.Thing:x", "no transport 'Thing' can be imported from 'no.such': No module named 'no'"),
        ("mqasync.message.Thing:x", "no transport 'Thing' can be imported from 'mqasync.message'"),
        ("..Thing:x", r"unknown URL scheme '\.\.Thing'"),
        ("carrier-pigeon://coop", "unknown URL scheme 'carrier-pigeon'; valid schemes: memory, sqlite"),
    ],
)
def test_what_cannot_be_loaded_is_named(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("activemq://", "must name a host"),
        ("activemq://host:70000", "a port is a number"),
        ("activemq://host/queue", "an activemq URL has no path, and '/queue' is one"),
        ("activemq://host?hearbeat=1", "'hearbeat' cannot be set in an activemq URL; valid keys: heartbeat, cafile"),
        ("activemq://host?heartbeat=0", "heartbeat is '0'; it takes a whole number of at least 1"),
        ("activemq://host?cafile=x", "cafile is for activemqs://"),
        ("activemqs://host?keyfile=x", "certfile must name"),
        ("activemq://u:hidden%0Ab@host", "one line of printable"),
        ("nats://", "must name a host"),
        ("nats://h/path", "has no path"),
        ("nats://h?leas=3", "'leas' cannot be set in a nats URL; valid keys: token, lease, sync, cafile"),
        ("nats://h?lease=soon", "lease is 'soon'"),
        ("nats://h?lease=-1", "lease is '-1'"),
        ("nats://h?sync=never", "sync is 'never'; it takes always"),
        ("nats://hidden@h", "and only one of user:password@ and ?token="),
        ("nats://user:hidden@h?token=t", "and only one of user:password@ and ?token="),
        ("nats://h?cafile=ca.pem", "cafile is for natss://"),
        ("natss://h?keyfile=key.pem", "certfile must name"),
        ("redis:", "URL must name a host: redis://user:password@host:port/database"),
        ("redis://:hidden@/0", "a redis URL must name a host"),
        ("redis://:hidden@host:port/0", "a port is a number up to 65535"),
        ("redis://:hidden@host/cth", "the database is 'cth'; it takes a whole number of at least 0"),
        ("redis://:hidden@host/-1", "the database is '-1'; it takes"),
        ("redis://:hidden@host/0?lease=soon", "lease is 'soon'; it takes a number of at least 0.1"),
        ("redis://:hidden@host/0?lease=0", "lease is '0'; it takes"),
        ("redis://:hidden@host/0?lease=inf", "lease is 'inf'; it takes"),
        ("redis://:hidden@host/0?protocol=3", "'protocol' cannot be set in a redis URL; valid keys: lease, cafile"),
        ("rediss://:hidden@host/0?ssl_cert_reqs=none", "'ssl_cert_reqs' cannot be set in a rediss URL"),
        ("redis://:hidden@host/0?cafile=ca.pem", "cafile is for rediss://; a redis:// URL connects without encryption"),
        ("rediss://:hidden@host/0?keyfile=k", "keyfile is the private key of a certificate; certfile must name the"),
        ("sqs://", "must name a host: sqs://REGION"),
        ("sqs://EU!", "'eu!' is not an AWS region"),
        ("sqs://eu-central-1/queue", "'eu-central-1queue' is not an AWS region"),
        ("sqs://eu-central-1?wait=0", "wait is '0'; it takes a whole number from 1 to 20"),
        ("sqs://eu-central-1?wait=²", "wait is '²'"),
        ("sqs://eu-central-1?lease=2.5", "lease is '2.5'; it takes a whole number from 1 to 43,200"),
        ("sqs://eu-central-1?lease=50000", "lease is '50000'"),
        ("sqs://eu-central-1?verify=no", "'verify' cannot be set in a sqs URL; valid keys: endpoint, lease, wait"),
        ("sqs://eu-central-1?endpoint=127.0.0.1:5000", "endpoint takes http://host:port"),
        ("sqs://eu-central-1?endpoint=ftp://host", "endpoint takes http://host:port"),
        ("sqs://KEY:hidden@eu-central-1", "AWS environment"),
        ("sqs://eu-central-1?endpoint=http://KEY:hidden@127.0.0.1:5000", "AWS environment"),
        ("postgres://me:hidden@h/m?sslmode=require", "sslmode is 'require'; it takes verify-full or off"),
        ("postgres://me:hidden@h/m?sslmode=", "sslmode is ''; it takes verify-full or off"),
        (
            "postgres://me:hidden@h/m?ssl=false",
            "'ssl' cannot be set in a postgres URL; valid keys: schema, lease, connections, sslmode",
        ),
        ("postgres://me:hidden@h/m?host=/tmp", "'host' cannot be set"),
        ("postgres://me:hidden@h/m?password=hidden", "'password' cannot be set"),
        (
            "postgres://me:hidden@h/m?sslmode=off&cafile=ca.pem",
            "cafile is for sslmode=verify-full",
        ),
        (
            "postgres://me:hidden@h/m?keyfile=client.key",
            "keyfile is the private key of a certificate; certfile must",
        ),
        ("postgres://me:hidden@h/m?lease=0", "lease is '0'; it takes a number of at least 0.1"),
        ("postgres://me:hidden@h/m?lease=nan", "lease is 'nan'"),
        ("postgres://me:hidden@h/m?lease=x", "lease is 'x'"),
        ("postgres://me:hidden@h/m?connections=1", "connections is '1'; it takes a whole number from 2 to 100"),
        ("postgres://me:hidden@h/m?connections=many", "connections is 'many'"),
        ("postgres://me:hidden@h/m?schema=Mine", "schema is 'Mine'; it takes a-z 0-9 _, without a digit or pg_ first"),
        ('postgres://me:hidden@h/m?schema=a";DROP', "schema is 'a\";DROP'"),
        ("postgres://me:hidden@h/m?schema=pg_mine", "schema is 'pg_mine'"),
        ("postgres://me:hidden@h/m?schema=" + "a" * 64, "schema is 'a"),
        ("postgres:///mine", "postgresql://user:password@host:port/database"),
        ("postgres://one:99999/mine", "postgresql://user:password@host:port/database"),
        ("kafka://", "a kafka URL must name a host: kafka://user"),
        ("kafka://h:1,h:x", "a port is a number up to 65535"),
        ("kafka://h:99999", "a port is a number up to 65535"),
        ("kafka://h/topic", "a kafka URL has no path"),
        ("kafka://h?lease=3", "'lease' cannot be set in a kafka URL; valid keys: session, mechanism"),
        ("kafka://h?session=0.5", "session is '0.5'; it takes a number from 1 to 1,800"),
        ("kafka://h?session=x", "session is 'x'"),
        ("kafka://h?mechanism=PLAIN", "a user needs a password, and a mechanism both"),
        ("kafka://u:hidden@h?mechanism=GSSAPI", "mechanism is 'GSSAPI'; it takes PLAIN or SCRAM-SHA-256"),
        ("kafka://u@h", "a user needs a password, and a mechanism both"),
        ("kafka://:hidden@h", "a user needs a password, and a mechanism both"),
        ("kafka://h?mechanism=OAUTHBEARER", "takes one of tokenfile and tokencommand, and no user"),
        ("kafka://h?mechanism=OAUTHBEARER&tokenfile=t&tokencommand=hidden", "takes one of tokenfile"),
        ("kafka://h?mechanism=OAUTHBEARER&tokencommand=+", "takes one of tokenfile and tokencommand"),
        ("kafka://u:hidden@h?mechanism=OAUTHBEARER&tokenfile=t", "and no user; other mechanisms take neither"),
        (
            "kafka://h?tokenfile=t",
            "takes one of tokenfile and tokencommand, and no user; other mechanisms take neither",
        ),
        ("kafka://h?mechanism=OAUTHBEARER&tokencommand='hidden", "tokencommand has an unmatched quotation mark"),
        ("kafka://h?cafile=x", "cafile is for kafkas://"),
        ("kafkas://h?keyfile=x", "certfile must name the certificate"),
        ("kafkas://h?verify=no", "'verify' cannot be set"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason_and_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load(url)
    assert problem in str(refusal.value)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "option", "value", "problem"),
    [
        ("activemq://host", "activemq.prefetchSize", 1, "unknown option 'activemq.prefetchSize'"),
        ("activemq://host", "activemq.priority", "high", "activemq.priority is 'high'; it takes"),
        ("nats://h", "storage", "memory", "unknown option 'storage'; valid options: num_replicas"),
        ("nats://h", "num_replicas", 0, "num_replicas is 0"),
        ("nats://h", "max_age", "1h", "max_age is '1h'"),
        ("nats://h", "max_msgs", True, "max_msgs is True"),
        ("nats://h", "compression", "zip", "compression is 'zip'; it takes none or s2"),
        ("redis://host", "maxlen", 3, "unknown option 'maxlen'; Redis has none"),
        ("sqs://x", "fifo", "yes", "fifo is 'yes'; it takes true or false"),
        (
            "sqs://eu-central-1",
            "VisibilityTimeout",
            3,
            "unknown option 'VisibilityTimeout'; valid options: fifo, SqsManaged",
        ),
        ("sqs://x", "MessageRetentionPeriod", [1], "MessageRetentionPeriod is [1]; it takes a whole number"),
        ("postgres://localhost/mine", "fillfactor", 70, "unknown option 'fillfactor'"),
    ],
)
def test_a_wrong_option_is_refused_with_its_place(url: str, option: str, value: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load(url, {"E": {option: value}})
    assert problem in str(refusal.value)
    assert refusal.value.keys[:4] == ("exchanges", "E", "options", option)


@pytest.mark.parametrize("scheme", ["redis", "postgres"])
def test_nothing_that_prints_a_transport_shows_its_password(scheme: str) -> None:
    transport: Any = load(f"{scheme}://user:hidden@host")
    assert "hidden" not in f"{transport!r} {vars(transport)} {vars(transport._transport)}"


@pytest.mark.parametrize(
    "url",
    [
        "amqp://127.0.0.1:1",
        "redis://127.0.0.1:1",
        "nats://127.0.0.1:1",
        "activemq://127.0.0.1:1",
        "postgres://me@127.0.0.1:1/mine?sslmode=off",
        "sqs://eu-central-1?endpoint=http://127.0.0.1:1",
    ],
)
async def test_where_nobody_listens_the_broker_is_lost(url: str, aws: None, connect: Connect) -> None:
    with pytest.raises(BrokerLost):
        await connect(url)
