"""An activemq:// URL taken apart and checked; nothing is connected or read here."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import ConfigurationError
from .common import tls

PORTS = {"activemq": 61613, "activemqs": 61614}
HEARTBEAT_SECONDS = 10
KEYS = ("heartbeat", *tls.FILES)
FORM = "activemq://user:password@host:port"


class Address:
    """Where an ActiveMQ listens for STOMP, who we are there and how often both sides show that they live.

    Raises ConfigurationError; neither that nor a repr shows the password.
    """

    def __init__(self, url: str) -> None:
        """`url` may hold a password."""
        try:
            parts = urlsplit(url, allow_fragments=False)
            self.port = parts.port or PORTS[parts.scheme]
        except ValueError as error:
            raise ConfigurationError(f"an ActiveMQ URL reads {FORM}; a port is a number up to 65535") from error
        if not parts.hostname:
            raise ConfigurationError(f"an ActiveMQ URL names a host: {FORM}")
        if parts.path not in ("", "/"):
            raise ConfigurationError(f"{parts.path!r} has no meaning in an ActiveMQ URL, which reads {FORM}")
        self.host = parts.hostname
        self.encrypted = parts.scheme == "activemqs"
        self.user = unquote(parts.username or "")
        self.password = unquote(parts.password or "")
        if not (self.user + self.password).isprintable():
            raise ConfigurationError("user and password of an ActiveMQ URL are one line of printable characters")
        self.files = self._query(parts.query)

    def _query(self, query: str) -> dict[str, str]:
        """Take the heartbeat out of the query; what is left are the files of TLS."""
        settings = dict(parse_qsl(query, keep_blank_values=True))
        for key in settings:
            if key not in KEYS:
                raise ConfigurationError(f"{key!r} cannot be set in an ActiveMQ URL; there are: {', '.join(KEYS)}")
        heartbeat = settings.pop("heartbeat", str(HEARTBEAT_SECONDS))
        if not (heartbeat.isascii() and heartbeat.isdecimal() and int(heartbeat)):
            raise ConfigurationError(f"heartbeat is {heartbeat!r}; it takes whole seconds, at least 1")
        self.heartbeat = int(heartbeat)
        tls.check(settings, self.encrypted, "activemqs://", "an activemq:// URL")
        return settings
