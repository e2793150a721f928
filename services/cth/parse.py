"""Parse: a record becomes a typed, normalised indicator, or is rejected; nothing is looked up."""

import re
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from mqasync import Reject, consumer

from .events import Indicator, Record

# how people write indicators so that nobody clicks on them
DEFANGED = [
    (re.compile(r"^hxxp", re.IGNORECASE), "http"),
    (re.compile(r"\[\.\]|\(\.\)|\{\.\}|\[dot\]|\(dot\)", re.IGNORECASE), "."),
    (re.compile(r"\[:\]"), ":"),
    (re.compile(r"\[://\]"), "://"),
    (re.compile(r"\[(?:at|@)\]", re.IGNORECASE), "@"),
]
HASHES = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
DOMAIN = re.compile(rf"(?:{LABEL}\.)+(?!\d+$){LABEL}")


@consumer(exchange="CTH", id="parse", to="indicators", concurrency=100)
async def parse(record: Record) -> Indicator:
    """Say what kind of indicator a record is. Rejects what is none."""
    kind, value = classify(record.value)
    return Indicator(kind, value, record.source, record.date)


def classify(text: str) -> tuple[str, str]:
    """Kind and normal form of one indicator, defanged or not. Raises Reject, quoting it."""
    value = text.strip()
    for pattern, replacement in DEFANGED:
        value = pattern.sub(replacement, value)
    if re.match(r"(?:https?|ftp)://", value, re.IGNORECASE):
        return "url", _url(value)
    if len(value) in HASHES and re.fullmatch(r"[0-9a-fA-F]+", value):
        return HASHES[len(value)], value.lower()
    try:
        return ("network", str(ip_network(value, strict=False))) if "/" in value else ("ip", str(ip_address(value)))
    except ValueError:
        return "domain", _domain(value, text)


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise Reject(f"{value[:100]!r} is not a URL: {error}") from error
    if not host:
        raise Reject(f"{value[:100]!r} is a URL without a host")
    host = f"[{host}]" if ":" in host else _domain(host, value, address=True)
    return parts._replace(scheme=parts.scheme.lower(), netloc=host + port).geturl()


def _domain(value: str, text: str, address: bool = False) -> str:
    """A domain name in its ASCII form, lower case; with `address` an IPv4 address will do."""
    try:
        name = value.rstrip(".").encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    if DOMAIN.fullmatch(name) or (address and re.fullmatch(r"[\d.]+", name)):
        return name
    raise Reject(f"{text[:100]!r} is no address, network, domain, URL or hash")
