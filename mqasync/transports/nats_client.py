"""The client of nats-py, connected our way: no reconnecting, no buffering, no secret without TLS where TLS is meant.

Nothing is sent over it here.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence

from nats.aio.client import Client

from ..errors import BrokerError, BrokerRefused
from .nats_errors import REPLY_SECONDS, why_not_connected

NEVER = 1_000_000  # seconds
UNREADABLE = "why the headers cannot be read"  # among the headers of such a message; no name there has a space
PLAIN = re.compile(rb"NATS/1\.0\r\n(?:[!-9;-~]+: [!-~](?:[ -~]*[!-~])?\r\n)+\r\n")


class TolerantClient(Client):
    """One that goes on reading after headers that are none, which anybody can publish and JetStream keeps."""

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        if headers and PLAIN.fullmatch(headers):  # nearly always; nats-py looks at every character of every name
            _, *lines = headers.decode().removesuffix("\r\n\r\n").split("\r\n")
            return {name: text for name, _, text in (line.partition(": ") for line in lines)}
        try:
            return await super()._process_headers(headers)
        except Exception as error:
            return {UNREADABLE: f"its headers are not those of NATS: {(headers or b'')[:40]!r} ({error})"}


async def connect(
    client: Client,
    url: str,
    tls: ssl.SSLContext | None,
    credentials: Sequence[str],
    complain: Callable[[Exception], Awaitable[None]],
) -> None:
    """Connect; `credentials` are user and password, a token, or none. Raises BrokerLost or BrokerRefused.

    `complain` hears what goes wrong, then and later.
    """
    complaints: list[Exception] = []

    async def complained(error: Exception) -> None:
        complaints.append(error)
        await complain(error)

    names = ("user", "password") if len(credentials) == 2 else ("token",)
    secrets = {name: _secret(client, value, tls) for name, value in zip(names, credentials, strict=False)}
    try:
        async with asyncio.timeout(REPLY_SECONDS):
            await client.connect(
                url,
                name="mqasync",
                tls=tls,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # 0 would be for ever
                reconnect_time_wait=0,
                connect_timeout=int(REPLY_SECONDS),
                ping_interval=NEVER,  # Connection asks by itself
                pending_size=0,  # so that publishing never waits: nats-py swallows the cancellation of who does
                error_cb=complained,
                **secrets,  # type: ignore[arg-type]
            )
        _check(client, tls)
    except (BrokerError, asyncio.CancelledError):
        raise
    except Exception as error:  # nats-py lets through whatever a name lookup or a handshake raises
        raise why_not_connected(complaints[-1] if complaints else error) from error


def _secret(client: Client, value: str, tls: ssl.SSLContext | None) -> Callable[[], str]:
    """What nats-py calls just before it sends the secret: after the TLS handshake, if there was one."""

    def secret() -> str:
        _check(client, tls)
        return value

    return secret


def _check(client: Client, tls: ssl.SSLContext | None) -> None:
    """nats-py goes on without TLS where the server, or somebody between, does not ask for it. We do not."""
    if tls and not client._server_info.get("tls_required"):
        raise BrokerRefused("what listens there does not speak TLS: use nats://, or set up TLS in the server")
