"""Values: what kind of indicator a text is, and its normal form; where it stood in a feed is not known here."""

import re
import socket
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import idna

HASHES = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
KINDS = ("ip", "network", "domain", "url", "email", "asn", *HASHES.values())
MAX_VALUE = 10_000  # characters

# How people write indicators so that nobody clicks on them, in the order in which it is undone
DEFANGED = [
    (re.compile(r"^(?:h[tx*_]{1,2}p|meow)(s?)(?=[\[({]?:)", re.IGNORECASE), r"http\1"),
    (re.compile(r"^f[x*]p(s?)(?=[\[({]?:)", re.IGNORECASE), r"ftp\1"),
    (re.compile(r"\s?[\[({<]\s?(?:\.|,|dot|punkt)\s?[\])}>]\s?|[\[({]\.|\.[\])}]|\\\.| dot ", re.IGNORECASE), "."),
    (re.compile(r"^([a-z][a-z0-9+.-]{0,20})[\[({]?:[\])}]?[\[({]?[/\\][\])}]?[/\\][\])}]?", re.IGNORECASE), r"\1://"),
    (re.compile(r"[\[({]\s?:\s?[\])}]"), ":"),
    (re.compile(r"[\[({]\s?/\s?[\])}]"), "/"),
    (re.compile(r"\s?[\[({<]\s?(?:@|at)\s?[\])}>]\s?| at ", re.IGNORECASE), "@"),
]
NOT_DEFANGED = re.compile(r"(?!h[tx]?xp|fxp|meow)[a-zA-Z0-9_.:/-]*[a-zA-Z0-9_/-]")
AROUND = " \t\r\n\v\f\0\"'`,;\u2018\u2019\u201c\u201d\u201e\xab\xbb\u200b\ufeff\xa0"

SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{0,20})://(?=[^/])")
HEX = re.compile(r"[0-9a-fA-F]+")
LABELED_HASH = re.compile(r"(?:md5|sha-?\d{1,3})\s?[:=]\s?(?=[0-9a-fA-F]{32})", re.IGNORECASE)
FINGERPRINT = re.compile(r"[0-9a-fA-F]{2}(?:[: ][0-9a-fA-F]{2}){15,63}")
ASN = re.compile(r"asn?\s?(\d{1,10})", re.IGNORECASE)
IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
PLAIN_IPV4 = re.compile(rf"{OCTET}(?:\.{OCTET}){{3}}", re.ASCII)
PADDED = re.compile(r"\d{3}(?:\.\d{3}){3}")
DISGUISED = re.compile(r"(?:0x[0-9a-f]{0,8}|\d{1,11})(?:\.(?:0x[0-9a-f]{0,8}|\d{1,11})){0,3}", re.IGNORECASE)
RANGE = re.compile(r"([0-9a-fA-F.:]{2,45})\s?[-\u2013]\s?([0-9a-fA-F.:]{2,45})")
HOST_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/\s]+):(\d{1,5})(?:/(?:tcp|udp))?", re.IGNORECASE)
EMAIL = re.compile(r"(?:mailto:)?([^\s@<>\"(),:;\[\]\\/]{1,64})@([^\s@/:]{3,253})", re.IGNORECASE)
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# Names may begin with underscores (_dmarc.example.com); what one can register has none
DOMAIN = re.compile(rf"(?:{LABEL}\.)*(?!_)[a-z0-9-]{{1,63}}(?<!-)\.(?:xn--[a-z0-9-]{{1,59}}|[a-z]{{2,63}})")
FILES = """
    7z apk asp aspx bak bat bin bmp cab cfg chm class cmd conf cpl csv dat dll dmg dmp doc docm docx dotm elf eml exe
    gif gz hta htm html ico img inf ini iso jar jpeg jpg js jse json jsp lnk log mdb msi msp odt ole pdf php pif png
    potm ppam pps ppt pptm pptx ps1 psd psm1 rar reg rtf scr sct sln svg swf sys tar tgz tif tmp ttf txt url vb vba vbe
    vbs vhd wav webp wmf wsf xla xlam xls xlsb xlsm xlsx xml yar yara yml
"""  # what names of files end with, and names of hosts do not
FILE_NAMES = frozenset(FILES.split())


class Found(NamedTuple):
    """An indicator: its kind, one of KINDS, its normal form, and the port that stood with it."""

    kind: str
    value: str
    port: int | None = None


def classify(text: str, hint: str = "") -> list[Found]:
    """What `text` is: nothing, one indicator, or the networks of a range.

    `hint` is the kind that the feed says it has. It is needed for what is only a number, and makes a name that could
    be a file's a domain; otherwise the text decides.
    """
    if PLAIN_IPV4.fullmatch(text):  # by far the most
        return [Found("ip", text)]
    value = refanged(text)
    if not value or len(value) > MAX_VALUE:
        return []
    if hint in ("ip", "asn") and value.isdecimal():
        return _number(value, hint)
    if SCHEME.match(value):
        return _url(value)
    if LABELED_HASH.match(value):
        value = LABELED_HASH.sub("", value)
    elif FINGERPRINT.fullmatch(value):
        value = value.replace(":", "").replace(" ", "")
    if len(value) in HASHES and HEX.fullmatch(value):
        return [Found(HASHES[len(value)], value.lower())]
    if address := as_address(value):
        return [Found("ip", str(address))]
    if found := ASN.fullmatch(value):
        return _number(found[1], "asn")
    if found := EMAIL.fullmatch(value):
        name = as_domain(found[2])
        return [Found("email", f"{found[1]}@{name}")] if name else []
    if found := RANGE.fullmatch(value):
        return _range(found[1], found[2])
    if "/" in value:
        return _network(value) or _url(f"http://{value}", hint or "file")
    if found := HOST_PORT.fullmatch(value):
        return [one._replace(port=int(found[2])) for one in classify(found[1], hint) if int(found[2]) < 65_536]
    name = as_domain(value, hint or "file")
    return [Found("domain", name)] if name else []


def refanged(text: str) -> str:
    """`text` without what surrounds an indicator and what makes it harmless."""
    value = text.strip(AROUND)
    if NOT_DEFANGED.fullmatch(value):
        return value
    if value[:1] == "<" and value[-1:] == ">":
        value = value[1:-1]
    for pattern, replacement in DEFANGED:
        value = pattern.sub(replacement, value)
    return value.rstrip(AROUND + ".")


def as_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that is written so; one that is IPv4 inside IPv6 is IPv4."""
    try:
        if IPV4.fullmatch(text):
            return IPv4Address(re.sub(r"\b0+(?=\d)", "", text) if PADDED.fullmatch(text) else text)
        address = ip_address(text.strip("[]").partition("%")[0]) if text.count(":") > 1 else None
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def host_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a browser makes of the host of a URL: of 3221225991, 0xc0.2.7 and 0300.0.2.7 too."""
    if DISGUISED.fullmatch(host := host.rstrip(".")):
        try:
            return IPv4Address(socket.inet_aton(host.lower()))
        except OSError:
            return None
    return as_address(host)


def as_domain(text: str, hint: str = "") -> str:
    """A domain name as DNS has it (IDNA 2008, UTS 46), lower case; "" for what is none.

    Neither is the name of a file, where the hint is "file". `*.` and a dot in front and behind do not count.
    """
    name = text.strip(".").removeprefix("*.").lower()
    if not name.isascii():
        try:
            mapped = idna.uts46_remap(name, std3_rules=False, transitional=False)
            name = ".".join(label if label.isascii() else "xn--" + label.encode("punycode").decode()
                            for label in mapped.split("."))  # fmt: skip
        except (UnicodeError, ValueError):
            return ""
    if len(name) > 253 or not DOMAIN.fullmatch(name):
        return ""
    return "" if hint == "file" and name.rpartition(".")[2] in FILE_NAMES else name


def _number(text: str, hint: str) -> list[Found]:
    number = int(text) if len(text) < 12 else 1 << 32
    if number >= 1 << 32 or (hint == "ip" and number < 1 << 24):
        return []
    return [Found("asn", f"AS{number}") if hint == "asn" else Found("ip", str(IPv4Address(number)))]


def _network(value: str) -> list[Found]:
    try:
        return _networks([ip_network(value.replace(" ", ""), strict=False)])
    except ValueError:
        return []


def _networks(networks: Iterable[IPv4Network | IPv6Network]) -> list[Found]:
    return [
        Found("ip", str(one.network_address)) if one.prefixlen == one.max_prefixlen else Found("network", str(one))
        for one in networks
    ]


def _range(first: str, last: str) -> list[Found]:
    try:
        return _networks(summarize_address_range(as_address(first), as_address(last)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return []


def _url(value: str, hint: str = "") -> list[Found]:
    """A URL with the host that a browser would ask; without user and password."""
    front = re.split("[?#]", value, maxsplit=1)[0]
    try:
        parts = urlsplit(front.replace("\\", "/") + value[len(front) :])
        host, port = unquote(parts.hostname or ""), parts.port
    except ValueError:
        return []
    address = host_address(host)
    if not (name := str(address or as_domain(host, hint))):
        return []
    if address and hint and re.fullmatch(r"/\d*", parts.path) and not parts.query:
        return []  # a network with a mistake in it
    netloc = (f"[{name}]" if ":" in name else name) + (f":{port}" if port else "")
    return [Found("url", parts._replace(scheme=parts.scheme.lower(), netloc=netloc).geturl(), port)]
