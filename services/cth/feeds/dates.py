"""Dates: the forms in which feeds write them, as UTC; what a date is about is not known here."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

FORMS = (
    *("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%Y.%m.%d", "%Y_%m_%d", "%Y-%m-%d %H:%M:%S.%f %z"),
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d-%m-%Y %H:%M:%S", "%d-%m-%Y"),
    *("%d %B %Y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%d/%b/%Y", "%B %d, %Y", "%b %d, %Y", "%b %d %Y"),
    *("%Y-%m-%d %H:%M:%S %z", "%a %b %d %H:%M:%S %Y", "%m/%d/%Y", "%m/%d/%Y %H:%M:%S"),
)
EARLIEST, YEARS_AHEAD = 1990, 10  # what lies outside is a placeholder, such as 0001-01-01 or 9999-12-31


@lru_cache(10_000)
def when(text: str) -> datetime | None:
    """The moment that `text` names; None where it names none. A date without an offset is UTC.

    03/04/2026 is either day of two, so it is none; 03/14/2026 is one.
    """
    found = _parsed(re.sub(r"\s*\(?(?:UTC|GMT)\)?$", "", text.strip()))
    if found is None or not EARLIEST <= found.year <= datetime.now(UTC).year + YEARS_AHEAD:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _parsed(text: str) -> datetime | None:
    if re.fullmatch(r"\d{9,10}(?:\.\d{1,9})?|\d{13}", text):
        return datetime.fromtimestamp(float(text) / (1000 if len(text) == 13 else 1), UTC)
    if re.fullmatch(r"\d{1,7}|\d{9,}", text) or len(text) > 50:
        return None
    if found := re.match(r"(\d{1,2})/(\d{1,2})/\d{4}\b", text):
        day, month = sorted(map(int, found.groups()), reverse=True)
        if day <= 12 and day != month:
            return None
        text = f"{month:02}/{day:02}" + text[found.end(2) :]
    for parse in (datetime.fromisoformat, *(lambda text, form=form: datetime.strptime(text, form) for form in FORMS)):
        try:
            return parse(text)
        except ValueError:
            continue
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
