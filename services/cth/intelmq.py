"""IntelMQ: an enriched indicator under the flat names of its data format (3.5); nothing is written here."""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mqasync import Message

from .events import Enriched

FIELDS = {
    "ip": "source.ip",
    "network": "source.network",
    "domain": "source.fqdn",
    "url": "source.url",
    "email": "source.account",
    "asn": "source.asn",
    **{kind: f"malware.hash.{kind}" for kind in ("md5", "sha1", "sha256")},
}
KEY = re.compile(r"[a-z_][a-z_0-9]+(\.[a-z_0-9]+)*")


def flat(event: Enriched, message: Message, constants: Mapping[str, Any]) -> dict[str, Any]:
    """The event, with `constants` added or in place of what is here; what has no field there is below `extra`."""
    extra = event.extra | {"id": message.id, "scope": event.scope, "age_days": event.age_days, "watched": event.watched}
    port = extra.pop("port", None)
    known = {
        FIELDS.get(event.kind, f"extra.{event.kind}"): int(event.value[2:]) if event.kind == "asn" else event.value,
        "source.port": port,
        "classification.type": "undetermined",
        "feed.name": event.feed or event.source,
        "feed.provider": event.provider,
        "feed.url": event.source if "://" in event.source else None,
        "time.observation": datetime.fromtimestamp(message.time, UTC).isoformat(timespec="seconds"),
        "time.source": event.date.replace("Z", "+00:00") if event.date else None,
        "raw": base64.b64encode((event.raw or event.value).encode()).decode(),
    }
    more = {f"extra.{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_') or 'column'}": extra[name] for name in extra}
    return {name: value for name, value in (known | more | dict(constants)).items() if value not in (None, "")}
