"""What RabbitMQ's management plugin tells and AMQP cannot: which queues there are; nothing is changed here."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from ..errors import BrokerBusy, BrokerError, BrokerRefused, ConfigurationError
from .common import tls
from .names import named

ANSWER_SECONDS = 5.0


class Management:
    """The management plugin at `address`, of the RabbitMQ at `url` and with the same user and password."""

    def __init__(self, address: str, url: str, settings: Mapping[str, str]) -> None:
        """Raises ConfigurationError for an address that is none."""
        rule = "management takes http://host:port, or https://; the user and password are those of the RabbitMQ URL"
        try:
            parts = urlsplit(address)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError as error:
            raise ConfigurationError(rule) from error
        if not usable or parts.username is not None or parts.query or parts.fragment:
            raise ConfigurationError(rule)
        broker = urlsplit(url)
        self.name = address.rstrip("/")
        self.user = unquote(broker.username or "guest")
        self._login = f"{self.user}:{unquote(broker.password or 'guest')}"
        host = quote(unquote(broker.path[1:]) or "/", safe="")
        self._queues = f"{self.name}/api/queues/{host}?columns=name"
        self._settings = settings

    async def queues(self) -> list[tuple[str, str]]:
        """(exchange, id) of every queue that is named as ours are.

        Raises BrokerRefused, and BrokerBusy when nobody answers: the connections to RabbitMQ itself are sound.
        """
        found = await asyncio.to_thread(self._names)
        return [queue for name in found if (queue := named(name))]

    def _names(self) -> list[str]:
        """Thread: the names of all queues."""
        context = tls.context(self._settings) if self.name.startswith("https:") else None
        request = Request(self._queues)  # noqa: S310, its scheme was checked
        # unredirected: nobody else gets the password
        request.add_unredirected_header("Authorization", f"Basic {b64encode(self._login.encode()).decode()}")
        try:
            with urlopen(request, timeout=ANSWER_SECONDS, context=context) as answer:  # noqa: S310
                return [str(queue["name"]) for queue in json.load(answer)]
        except HTTPError as error:
            error.close()
            raise self._refusal(error) from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            if why := tls.why_for_good(reason if isinstance(reason, BaseException) else None, "http://"):
                raise BrokerRefused(f"RabbitMQ's management at {self.name}: {why}") from error
            raise BrokerBusy(f"RabbitMQ's management at {self.name} does not answer: {reason}") from error
        except (HTTPException, ValueError, TypeError, KeyError) as error:
            raise BrokerRefused(f"what answers at {self.name} is not RabbitMQ's management") from error

    def _refusal(self, error: HTTPError) -> BrokerError:
        if error.code == HTTPStatus.UNAUTHORIZED:
            rule = "the password is another, or the user has not the tag 'management'"
            return BrokerRefused(f"RabbitMQ's management at {self.name} refuses the user {self.user!r}: {rule}")
        kind = BrokerBusy if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR else BrokerRefused
        return kind(f"RabbitMQ's management at {self.name} does not list the queues: {error.code} {error.reason}")
