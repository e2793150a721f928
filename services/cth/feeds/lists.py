"""Lists: the forms of lines that hold an indicator each, or some; a new form is one line in FORMS."""

import re
from collections.abc import Iterator

from .dates import when
from .fields import Entry, fitting, kind_of
from .values import SCHEME

ADDRESS = r"[0-9a-fA-F:.]{2,45}"
NOBODY = r"(?:0\.0\.0\.0|127(?:\.\d{1,3}){3}|255\.255\.255\.255|::1?|0)"
# Each form with the lines that it has; what (?P<values>) takes are indicators, separated by blanks, commas or slashes.
# A form without it has lines that hold none: exceptions, headings, names of this machine.
FORMS = [
    ("hosts", rf"(?:{NOBODY}|f[ef][0-9a-f]{{2}}::\S*)\s+(?:(?:localhost[^\s#]*|0\.0\.0\.0|[^.#\s]*[a-z][^.#\s]*)"
              r"(?:\s++|$|(?=#)))++(?:#|$)"),
    ("hosts", NOBODY + r"\s+(?P<values>[^\s#]*[^\s#\d][^#]*)"),
    ("adblock", r"@@|\[Adblock|[^\s/]*#[@?$%]{0,2}#"),
    ("adblock", r"\|\|(?P<values>[^\s^$|*,]+)(?:[\^$|].*)?$"),
    ("adblock", r"\|(?:https?:|\|)"),
    ("dnsmasq", r"(?:address|server|local|ipset|nftset)=/(?P<values>[^\s#]+)/[^/]*$"),
    ("dnsmasq", r"(?:address|server)=|conf-file="),
    ("unbound", r"local-(?:zone|data):\s*[\"']?(?P<values>[^\s\"']++)[\"']?+(?!\s+[\"']?(?:always_)?transparent)"),
    ("unbound", r"(?:server|local-(?:zone|data(?:-ptr)?)):"),
    ("rpz", r"\$(?:TTL|ORIGIN|INCLUDE)\b|@\s|\d+\s*[);]|\)|(?:\S+\s+)?(?:\d+\s+)?(?:IN\s+)?(?:SOA|NS)\s"
            r"|\S+\s+(?:\d+\s+)?(?:IN\s+)?(?:\d+\s+)?CNAME\s+rpz-passthru"),
    ("rpz", r"(?P<values>\S+)\s+(?:\d+\s+)?(?:IN\s+)?(?:\d+\s+)?(?:CNAME|A|AAAA|TXT)\s+\S"),
    ("ipset", r"(?:add|-A)\s+\S+\s+(?:-s\s+)?(?P<values>[^\s,]+)(?!.*\bnomatch\b)"),
    ("ipset", r"(?:create|flush|destroy|swap|-N|add|-A)\s+\S+\s|COMMIT\b"),
    ("rules", r"(?:alert|drop|reject|block|sdrop|rejectsrc|rejectdst|rejectboth)\s+(?P<rule>\w+\s.*)"),
    ("rules", r"(?:pass|log|config)\s+\w+\s.*\("),
    ("ranges", r"(?:[^|]*:)?\s*(?P<values>\d+(?:\.\d+){3}\s*-\s*\d+(?:\.\d+){3})\s*(?:,|$)"),
    ("zones", r"zone\s+\"(?P<values>[^\"]+)\""),
]  # fmt: skip
PATTERNS = [(name, re.compile(pattern)) for name, pattern in FORMS]
ANY_HOSTS = re.compile(ADDRESS + r"\s+(?P<values>[^\s#]*[^\s#\d][^#]*)")
NAMES = tuple(dict.fromkeys(name for name, _ in FORMS))

RULE = re.compile(r"\w+\s+(\S+|\[[^\]]*\])\s+\S+\s+(?:->|<>|<-)\s+(\S+|\[[^\]]*\])\s")
STICKY = {
    **dict.fromkeys(("dns.query", "dns_query", "tls.sni", "tls_sni", "http.host", "http_host"), "domain"),
    **dict.fromkeys(("tls.fingerprint", "tls.cert_fingerprint", "ja3.hash", "ja3s.hash"), "hash"),
}
OPTION = re.compile(r"(?:[^;\"]++|\"(?:[^\"\\]++|\\.)*+\"?+)++")
DNS_LABELS = re.compile(r"(?:\|[0-9a-fA-F]{2}\|[\w-]+)+(?:\|00\|)?")

COMMENT = re.compile(r"\s+(?:#|//).*")
BULLET = re.compile(r"^(?:\|\s*|(?:[-*•‣\u2013]|\d{1,4}[.)])\s+)")
LABEL = re.compile(r"([A-Za-z][\w .()-]{0,40}?)\s?[:=]\s+(\S.*)")
HEADING = re.compile(r"[^\d.:/@]{3,80}:?")
SOURCES = re.compile(r"(?:[\w ]{0,30}\b)?(?:references?|sources?|evidence|further reading|links)", re.IGNORECASE)


def form_of(line: str, only: str = "") -> tuple[str, "re.Match[str]"] | None:
    """The form that a line has, if it has one, and what its pattern found; `only` that one is looked for."""
    if only == "hosts" and (found := ANY_HOSTS.match(line)):
        return only, found
    for name, pattern in PATTERNS:
        if (not only or name == only) and (found := pattern.match(line)):
            return name, found
    return None


def of_form(name: str, line: "re.Match[str]", hint: str = "") -> Iterator[Entry]:
    """The entries of a line that has this form."""
    groups = line.groupdict()
    if rule := groups.get("rule"):
        yield from list(of_rule(rule)) or [Entry(line.string, skipped=True)]
        return
    if "values" not in groups:
        yield Entry(line.string, skipped=True)
    for value in re.split(r"[\s,/]+" if name in ("hosts", "dnsmasq") else r"(?!)", groups.get("values") or ""):
        if value not in ("", "#", "*"):
            about = _rpz(value) if name == "rpz" else value
            kind = hint or ("" if name in ("ipset", "ranges") else "domain")
            yield Entry(about, kind, found=fitting(about, kind))


def _rpz(name: str) -> str:
    """The name or address that a response policy is about."""
    trigger, _, kind = name.rstrip(".").partition(".rpz-")
    if kind.partition(".")[0] not in ("ip", "client-ip", "nsip"):
        return trigger
    prefix, *parts = trigger.split(".")
    if len(parts) == 4 and "zz" not in parts:
        return f"{'.'.join(reversed(parts))}/{prefix}"
    return f"{':'.join('' if part == 'zz' else part for part in reversed(parts))}/{prefix}".replace(":/", "::/")


def of_rule(rule: str) -> Iterator[Entry]:
    """The addresses and names of a Suricata or Snort rule; a host with a path is a URL."""
    head = RULE.match(rule)
    for side in head.groups() if head else ():
        for address in side.strip("[]").split(","):
            if found := fitting(address.strip(), "network"):
                yield Entry(address.strip(), "network", found=found)
    sticky = ""
    contents: list[tuple[str, str]] = []
    for option in OPTION.findall(rule[head.end() :].partition("(")[2] if head else ""):
        name, _, value = (part.strip() for part in option.partition(":"))
        content = value[1:-1].removeprefix(".") if value.startswith('"') else ""
        if content and (name in STICKY or name == "content"):
            labels = DNS_LABELS.fullmatch(content)
            contents.append((STICKY.get(name) or sticky or ("domain" if labels else "before"), content))
        elif not value and name in STICKY and contents and contents[-1][0] == "before":
            contents[-1] = (STICKY[name], contents[-1][1])  # old rules say behind the content where to look for it
        elif not value and ("." in name or name in STICKY):
            sticky = "path" if name.startswith("http.uri") else STICKY.get(name, "other")
    path = next((content for kind, content in contents if kind == "path" and content.startswith("/")), "")
    for kind, content in contents:
        if kind in ("domain", "hash"):
            if DNS_LABELS.fullmatch(content):
                value = re.sub(r"\|[^|]*\|", ".", content).strip(".")
            else:
                value = re.sub(
                    r"\|((?:[0-9a-fA-F]{2} ?)+)\|", lambda found: bytes.fromhex(found[1]).decode("latin-1"), content
                )
            value += path if kind == "domain" else ""
            if found := fitting(value, kind):
                yield Entry(value, kind, found=found)


def plain(line: str, hint: str = "") -> Entry:
    """The entry of a line that begins with its indicator; what stands behind it, but for a comment, travels along."""
    text = BULLET.sub("", COMMENT.sub("", line).strip(), count=1)
    if found := fitting(text, hint):
        return Entry(text, hint, found=found)
    if SCHEME.match(text) or text.lower().startswith(("hxxp", "http")):
        value, *rest = text.split()
        cut = re.sub(r";\d{1,3}$", "", value)
        value, rest = cut, [value[len(cut) + 1 :], *rest] if cut != value else rest
    else:
        value, *rest = re.split(r"\s*[;,|\t]\s*|\s+", text.partition("#")[0].strip())
    if rest and (value.isdecimal() or when(value)):
        value, *rest = rest
    if not (found := fitting(value, hint)) and (label := LABEL.fullmatch(text)):
        if kind_of(label[1]) == "other":
            return Entry(line, skipped=True)
        value, *rest = label[2].split()
        hint = hint or kind_of(label[1])
        found = fitting(value, hint)
    extra = {f"column_{number}": cell for number, cell in enumerate(rest, 2) if cell}
    return Entry(value, hint, extra=extra, found=found) if found else Entry(line.strip(), hint)
