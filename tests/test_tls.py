"""TLS of every broker but RabbitMQ, which is in test_security.py: who cannot be trusted is refused in words."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509 import load_pem_x509_certificate

from mqasync import BrokerLost, BrokerRefused, ConfigurationError

from .brokers import free_port
from .conformance import message, numbers, receive
from .conftest import Connect, required
from .servers.activemq import running_activemq
from .servers.kafka import kafka
from .servers.nats import running_nats
from .servers.postgres import running_postgres
from .servers.redis import durable_redis

KAFKA = """
listeners=PLAINTEXT://127.0.0.1:{{port}},SECURE://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL
listener.name.secure.ssl.keystore.type=PKCS12
listener.name.secure.ssl.keystore.location={store}
listener.name.secure.ssl.keystore.password=changeit
listener.name.secure.sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
    user_ann="p/w@1";
"""


def pkcs12(certificates: Path, directory: Path) -> Path:
    """The server's certificate and key as Java reads them."""
    certificate = load_pem_x509_certificate((certificates / "127.0.0.1.crt").read_bytes())
    key = load_pem_private_key((certificates / "127.0.0.1.key").read_bytes(), None)
    store = directory / "server.p12"
    password = BestAvailableEncryption(b"changeit")
    content = serialize_key_and_certificates(b"s", key, certificate, None, password)  # type: ignore[arg-type]
    store.write_bytes(content)
    return store


@contextmanager
def secure_redis(certificates: Path, directory: Path) -> Iterator[str]:
    with durable_redis(certificates=certificates) as server:
        yield f"rediss://127.0.0.1:{server.secure_port}/0"


@contextmanager
def secure_nats(certificates: Path, directory: Path) -> Iterator[str]:
    own = certificates / "127.0.0.1.pem"
    files = f"cert_file: {own}, key_file: {own}, ca_file: {certificates}/ca.pem"
    with running_nats(f"tls {{ {files}, verify: true }}") as server:
        yield server.url.replace("nats:", "natss:")


@contextmanager
def secure_postgres(certificates: Path, directory: Path) -> Iterator[str]:
    with running_postgres() as server:
        own = server.directory / "server.pem"
        own.write_bytes((certificates / "127.0.0.1.pem").read_bytes())
        server.own(own)
        server.stop()
        server.start(ssl="on", ssl_cert_file=str(own), ssl_key_file=str(own))
        yield server.login


@contextmanager
def secure_kafka(certificates: Path, directory: Path) -> Iterator[str]:
    port = free_port()
    with kafka(KAFKA.format(secure=port, store=pkcs12(certificates, directory))):
        yield f"kafkas://ann:p%2Fw%401@127.0.0.1:{port}"


@contextmanager
def secure_activemq(certificates: Path, directory: Path) -> Iterator[str]:
    store = f'keyStore="{pkcs12(certificates, directory)}" keyStorePassword="changeit" keyStoreType="PKCS12"'
    context = f"<sslContext><sslContext {store}/></sslContext>"
    with running_activemq(more=context, scheme="stomp+ssl") as server:
        yield server.url


Secure = Callable[[Path, Path], AbstractContextManager[str]]
WANT_OURS: list[Secure] = [secure_redis, secure_nats]
"""Those that let in nobody whose certificate they cannot trust."""


@pytest.fixture(scope="module", params=[*WANT_OURS, secure_postgres, secure_kafka, secure_activemq])
def url(request: pytest.FixtureRequest, certificates: Path, tmp_path_factory: Any) -> Iterator[str]:
    """Of a server that speaks TLS, with our certificate in it."""
    with required(request.param(certificates, tmp_path_factory.mktemp("secure"))) as address:
        yield f"{address}?" + (f"certfile={certificates}/client.pem&" if request.param in WANT_OURS else "")


async def test_messages_pass_where_both_sides_are_trusted(
    url: str, certificates: Path, connect: Connect, exchange: str
) -> None:
    transport = await connect(f"{url}cafile={certificates}/ca.pem")
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(1)])
    assert numbers(await receive(await transport.subscribe(exchange, "q", 10), 1)) == [1]


@pytest.mark.parametrize(
    ("host", "trusted"),
    [("127.0.0.1", ""), ("127.0.0.1", "cafile={}/other-ca.pem"), ("localhost", "cafile={}/ca.pem")],
)
async def test_a_server_that_cannot_be_trusted_is_refused(
    url: str, host: str, trusted: str, certificates: Path, connect: Connect
) -> None:
    with pytest.raises(BrokerRefused, match="certificate is not trusted") as caught:
        await connect(url.replace("127.0.0.1", host) + trusted.format(certificates))
    assert ("Hostname mismatch" in str(caught.value)) == (host == "localhost")


async def test_a_file_that_is_none_is_the_users_mistake(url: str, connect: Connect) -> None:
    with pytest.raises(ConfigurationError, match="cafile is 'nowhere', which is not a file"):
        await connect(f"{url}cafile=nowhere")


@pytest.mark.parametrize("url", WANT_OURS, indirect=True)
@pytest.mark.parametrize("ours", ["", "certfile={}/other-client.pem"])
async def test_without_a_certificate_that_the_server_trusts_it_is_not_reached(
    url: str, ours: str, certificates: Path, connect: Connect
) -> None:
    """It says so after its part of the handshake, and resets the connection: the reset may come first."""
    with pytest.raises((BrokerRefused, BrokerLost), match=r"certificate|reset|[Cc]losed|[Ll]ost|unknown ca"):
        await connect(f"{url.partition('?')[0]}?cafile={certificates}/ca.pem&{ours.format(certificates)}")


@pytest.mark.parametrize("url", [secure_kafka], indirect=True)
async def test_a_wrong_password_is_not_repeated(url: str, certificates: Path, connect: Connect) -> None:
    with pytest.raises(BrokerRefused, match="SaslAuthenticationFailed") as caught:
        await connect(f"{url.replace('ann:p', 'ann:wrong')}cafile={certificates}/ca.pem")
    assert "wrong" not in str(caught.value) and "w@1" not in str(caught.value)
