"""Tokens for SASL OAUTHBEARER from a file or a command, read at each connect; no connection is made here.

No text, log or repr shows a token, nor the arguments of the command.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import OAuthAuthenticator

from ..errors import ConfigurationError

SECONDS = 5.0  # that a command may take, and for which its token is used by other connections
TOKEN = re.compile("[-._~+/a-zA-Z0-9]+=*")  # RFC 6750, and what Kafka accepts

# at DEBUG aiokafka shows what it sends, also to log in
logging.getLogger("aiokafka.conn").addFilter(lambda record: "SaslAuthenticate" not in record.getMessage())


_step = OAuthAuthenticator.step


async def step(self: Any, payload: bytes | None) -> Any:
    """What to send next to log in: a broker that refuses the token says so once it gets b"\\1" (RFC 7628).

    aiokafka itself would go on as if it were logged in.
    """
    return (b"\1", True) if payload else await _step(self, payload)


OAuthAuthenticator.step = step


class NoToken(ConfigurationError, OSError):
    """A user's mistake at the first connect; to aiokafka, which reconnects by itself, an unreachable broker."""


class Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """The token in `file`, or the one that `command` prints. Raises ConfigurationError for an unmatched quote."""

    def __init__(self, file: str, command: str) -> None:
        try:
            self._file, self._command = file, shlex.split(command)
        except ValueError:
            raise ConfigurationError("tokencommand has an unmatched quotation mark") from None
        self._asking, self._token, self._until = asyncio.Lock(), "", 0.0

    async def token(self) -> str:
        """aiokafka connects. Raises NoToken."""
        async with self._asking:
            if time.monotonic() >= self._until:
                self._token = await asyncio.to_thread(self._read)
                self._until = time.monotonic() + (SECONDS if self._command else 0.0)
            return self._token

    def _read(self) -> str:
        """The token that is in the file now, or that the command prints."""
        what = f"tokenfile {self._file!r}" if self._file else f"tokencommand {self._command[0]!r}"
        try:
            if self._file:
                output = Path(self._file).read_bytes()
            else:
                output = subprocess.run(  # noqa: S603, the user's own command
                    self._command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=True
                ).stdout
        except subprocess.CalledProcessError as error:
            raise NoToken(f"{what} ended with exit code {error.returncode}") from None
        except subprocess.TimeoutExpired:
            raise NoToken(f"{what} did not end within {SECONDS:g} s") from None
        except OSError as error:
            raise NoToken(f"{what}: {error.strerror}") from None
        if not TOKEN.fullmatch(text := output.decode(errors="replace").strip()):
            raise NoToken(f"{what} {'contains' if self._file else 'printed'} no token")
        return text
