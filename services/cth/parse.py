"""Parse: a record becomes typed, normalised indicators, or is rejected; nothing is looked up."""

import uuid
from collections.abc import AsyncIterator

from mqasync import Out, Reject, consumer

from .events import Indicator, Record
from .feeds.dates import when
from .feeds.fields import fitting


@consumer(exchange="CTH", id="parse", to="indicators", concurrency=100)
async def parse(record: Record) -> AsyncIterator[Out]:
    """Find out what kind of indicator a record is; a range is several networks. Rejects a record that is none.

    The same indicator always has the same id, so that the next step recognises it (`dedup`).
    """
    found = fitting(record.value, record.type)
    if not found:
        raise Reject(f"{record.value[:100]!r} is not an address, network, domain, URL or hash")
    moment = when(record.date) if record.date else None
    date = moment.isoformat().replace("+00:00", "Z") if moment else None
    no_date = {"date": record.date} if record.date and not moment else {}
    for kind, value, port in found:
        extra = record.extra | no_date | ({"port": port} if port is not None else {})
        raw = "" if record.value == value else record.value
        indicator = Indicator(kind, value, record.source, date, record.feed, record.provider, raw, extra)
        yield Out(indicator, id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{kind}:{value}")))
