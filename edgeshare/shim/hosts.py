"""Which Host values are ours, and what they stand for. Pure.

A page of a stranger whose name is made to resolve to this machine (DNS rebinding) comes with that stranger's Host. So:

- `localhost:PORT`, `127.0.0.1:PORT` and `[::1]:PORT` are this machine's own; PORT may be left out when it is 80.
- `<lesson id>.localhost:PORT` is that lesson's own web origin: it has its lesson's files and nothing else.
- The address at which the request has arrived is ours: no name server can rebind an address that is typed as such.
- On a LAN so are this machine's name and `NAME.local`, with the port.
- With a `lesson_domain`, `<lesson id>.DOMAIN` is a lesson's own origin too, and `DOMAIN` this node: with our port, or
  with that of `lessons_url`, where a proxy stands before us.
- Anything else must stand, exactly, in the config's `allowed_hosts`; there is no wildcard and no "off".
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Self
from urllib.parse import urlsplit

import attrs

from edgeshare.config import DomainName, ShimConfig
from edgeshare.errors import ManifestError
from edgeshare.manifest import LessonId, lesson_id

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

LOCAL: Final = DomainName("localhost")  # below it this machine's browser reaches lessons (RFC 6761 §6.3)


@attrs.frozen
class Home:
    """This machine, named by itself: its browser reaches `<lesson id>.localhost` too."""


@attrs.frozen
class Elsewhere:
    """This node as others on the LAN call it."""

    name: str  # without a port, as it stands in a URL


@attrs.frozen
class LessonOrigin:
    """The web origin of one lesson, which this node need not have."""

    lesson: LessonId
    domain: DomainName = LOCAL  # what its id stands before


Site = Home | Elsewhere | LessonOrigin


@attrs.frozen(kw_only=True)
class Names:
    """What this node answers to besides the loopback names, in lower case."""

    machine: frozenset[str] = frozenset()  # with the port
    allowed: frozenset[str] = frozenset()  # as they stand, or with the port
    domain: DomainName | None = None  # below it each lesson has an origin on the LAN
    proxy_port: str | None = None  # what browsers write behind a name to reach the proxy before us, often nothing

    @classmethod
    def of(cls, config: ShimConfig, hostname: str) -> Self:
        """The names of a node on a machine called `hostname`, which count when it listens beyond the loopback."""
        allowed, machine = {name.lower() for name in config.allowed_hosts}, set[str]()
        if hostname and not all(each.is_loopback for each in (config.listen, config.lessons_listen) if each):
            machine = {whole := hostname.lower(), whole.partition(".")[0] + ".local"}
        proxy_port = None
        if config.lessons_url is not None:
            proxy = urlsplit(config.lessons_url)
            allowed.add(proxy.netloc)
            proxy_port = str(proxy.port or "")
        return cls(
            machine=frozenset(machine),
            allowed=frozenset(allowed),
            domain=config.lesson_domain,
            proxy_port=proxy_port,
        )


def site_of(host: str, *, address: str, port: int, names: Names) -> Site | None:
    """What the Host value `host` of a request stands for that has arrived at our `address` and `port`.

    None when it is not ours: then nothing may be answered.
    """
    value = host.lower()
    if not host.isascii() or not (match := _HOST.fullmatch(value)):
        return None
    name, has_port = match[1], (match[2] or "80") == str(port)
    if has_port and name in _LOOPBACK:
        return Home()
    if has_port and (lesson := _lesson_below(LOCAL, name)) is not None:
        return LessonOrigin(lesson)
    if names.domain is not None and (has_port or (match[2] or "") == names.proxy_port):
        if name == names.domain:
            return Elsewhere(name)
        if (lesson := _lesson_below(names.domain, name)) is not None:
            return LessonOrigin(lesson, names.domain)
    if value in names.allowed or (has_port and name in names.machine | names.allowed):
        return Elsewhere(name)
    if has_port and (typed := _typed(name)) is not None and typed == _arrival(address):
        return Elsewhere(name)
    return None


def is_on_this_machine(site: Site) -> bool:
    """Whether browsers take `site` for this machine's own, and so for as safe as by TLS (Secure Contexts §3.1)."""
    return isinstance(site, Home) or (isinstance(site, LessonOrigin) and site.domain == LOCAL)


def lessons_at(config: ShimConfig, name: str, port: int) -> str:
    """The URL of a lesson's folder for a reader who calls this node `name`; `{lesson}` stands where its id belongs.

    `port` is where our own pages are. Below `lesson_domain` each lesson has an origin of its own; on the second port
    they share one with one another, and so are sandboxed, but none with our pages.
    """
    if config.lessons_listen is None and config.lesson_domain is None:
        return "/lessons/{lesson}/"
    own_port = config.lessons_listen.port if config.lessons_listen else port
    way = urlsplit(config.lessons_url or f"http://{name}{written_port(own_port)}")
    if config.lesson_domain is None:
        return f"{way.scheme}://{way.netloc}/lessons/{{lesson}}/"
    behind = f":{way.port}" if way.port else ""
    return f"{way.scheme}://{{lesson}}.{config.lesson_domain}{behind}/"


def written_port(port: int) -> str:
    """What a browser writes behind a name in a URL of plain HTTP."""
    return "" if port == 80 else f":{port}"


def is_own_loopback(address: str) -> bool:
    """Whether a request that has arrived at our `address` was made on this machine: no network leads to a loopback."""
    found = _arrival(address)
    return found is not None and found.is_loopback


def _lesson_below(domain: DomainName, name: str) -> LessonId | None:
    label, _, rest = name.partition(".")
    if rest != domain:
        return None
    try:
        return lesson_id(label)
    except ManifestError:
        return None


def _typed(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a Host names: IPv6 stands in brackets, and nothing else does."""
    found = _address(name.strip("[]"))
    return found if name.startswith("[") == isinstance(found, ipaddress.IPv6Address) else None


def _arrival(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """A socket's address, as a browser writes it: a socket for both families says ::ffff:192.0.2.1."""
    found = _address(address.partition("%")[0])
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
