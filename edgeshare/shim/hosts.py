"""Which Host values are ours, and what they stand for. Pure.

A page of a stranger whose name is made to resolve to this machine (DNS rebinding) comes with that stranger's Host. So:

- `localhost:PORT`, `127.0.0.1:PORT` and `[::1]:PORT` are this machine's own; PORT may be left out when it is 80.
- `<lesson id>.localhost:PORT` is that lesson's own web origin: it has its lesson's files and nothing else.
- The address at which the request has arrived is ours: no name server can rebind an address that is typed as such.
- On a LAN so are this machine's name and `NAME.local`, with the port.
- Anything else must stand, exactly, in the config's `allowed_hosts`; there is no wildcard and no "off".
"""

from __future__ import annotations

import ipaddress
import re
from typing import Self

import attrs

from edgeshare.config import ShimConfig
from edgeshare.errors import ManifestError
from edgeshare.manifest import LessonId, lesson_id

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


@attrs.frozen
class Home:
    """This machine, named by itself: its browser reaches `<lesson id>.localhost` too."""


@attrs.frozen
class Elsewhere:
    """This node as others on the LAN call it."""


@attrs.frozen
class LessonOrigin:
    """The web origin of one lesson, which this node need not have."""

    lesson: LessonId


Site = Home | Elsewhere | LessonOrigin


@attrs.frozen(kw_only=True)
class Names:
    """What this node answers to besides the loopback names, in lower case."""

    machine: frozenset[str] = frozenset()  # with the port
    allowed: frozenset[str] = frozenset()  # as they stand, or with the port

    @classmethod
    def of(cls, config: ShimConfig, hostname: str) -> Self:
        """The names of a node on a machine called `hostname`, which count when it listens beyond the loopback."""
        allowed = frozenset(name.lower() for name in config.allowed_hosts)
        if _is_loopback(config.listen.host) or not hostname:
            return cls(allowed=allowed)
        whole = hostname.lower()
        return cls(machine=frozenset({whole, whole.partition(".")[0] + ".local"}), allowed=allowed)


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
    if has_port and (lesson := _lesson_in(name)) is not None:
        return LessonOrigin(lesson)
    if value in names.allowed or (has_port and name in names.machine | names.allowed):
        return Elsewhere()
    if has_port and (typed := _address(name.strip("[]"))) is not None and typed == _arrival(address):
        return Elsewhere()
    return None


def is_own_loopback(address: str) -> bool:
    """Whether a request that has arrived at our `address` was made on this machine: no network leads to a loopback."""
    found = _arrival(address)
    return found is not None and found.is_loopback


def _lesson_in(name: str) -> LessonId | None:
    label, _, rest = name.partition(".")
    if rest != "localhost":
        return None
    try:
        return lesson_id(label)
    except ManifestError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _arrival(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """A socket's address, as a browser writes it: a socket for both families says ::ffff:192.0.2.1."""
    found = _address(address.partition("%")[0])
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
