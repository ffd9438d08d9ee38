"""A node's config: one TOML file becomes one frozen value, once.

Every key stands here with its type, unit and default, and the reason for the default. Profiles set defaults that
differ between a home, a school and the publisher's own seeding node; a key in the file always wins.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NewType
from urllib.parse import urlsplit

import attrs
import cattrs

from edgeshare.errors import ConfigError, EdgeshareError
from edgeshare.hours import ALWAYS, Window
from edgeshare.manifest import LessonId, is_catalogue_name, is_origin_url, is_tracker_url, lesson_id, shown
from edgeshare.units import parse_rate, parse_size

Size = NewType("Size", int)  # bytes; written `20 GiB`
Rate = NewType("Rate", int)  # bytes a second; written `20 Mbit/s`; 0 is no limit
CatalogueName = NewType("CatalogueName", str)  # `publisher/level`
ProxyAddress = NewType("ProxyAddress", str)  # `http://proxy.example:3128`, or NO_PROXY

DomainName = NewType("DomainName", str)  # in lower case, of two parts or more
LessonsUrl = NewType(
    "LessonsUrl", str
)  # `https://lecons.example.fr:8443`: scheme, name, and a port if not the usual one

NO_PROXY = ProxyAddress("none")  # not even the environment's
NOWHERE = "none"  # where no address is listened on, though the profile has one

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"  # of a host's name (RFC 1123 §2.1)
MOST_CONNECTIONS = 4096  # of readers, from wherever: those of a school of 1,000
_MOST_SECONDS = 7 * 24 * 3600  # a node that asks less often than weekly lets the metadata of a month expire


@attrs.frozen
class Endpoint:
    """A host and a port, written `host:port`, an IPv6 address in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@attrs.frozen(kw_only=True)
class ShimConfig:
    """Where browsers read."""

    listen: Endpoint = Endpoint("127.0.0.1", 8470)
    # Names, besides this machine's own, by which a reader may call the node: exact, as a guard against DNS rebinding.
    allowed_hosts: tuple[str, ...] = ()
    # A second port, where readers on the LAN open lessons: another origin than our own pages. A school's has one.
    lessons_listen: Endpoint | None = None
    # `<lesson id>.DOMAIN` is each lesson's own origin on the LAN, as `<lesson id>.localhost` is on this machine.
    lesson_domain: DomainName | None = None
    lessons_url: LessonsUrl | None = None  # how a browser reaches that port, where a proxy with TLS stands before it
    # Whether lessons may lead outside. Then nothing stops one that carries something there, or that speaks WebRTC.
    outside_links: bool = False
    statement: Path | None = None  # a TOML file, what the declaration of accessibility says of who runs the node
    # Of one address. A browser has up to six for each web origin; behind NAT or a proxy a whole school is one address.
    connections_per_client: int = 64
    metrics_on_lan: bool = False  # the network gets lessons; figures are for those who run the node


@attrs.frozen(kw_only=True)
class OriginConfig:
    """How the node reaches the origins."""

    proxy: ProxyAddress | None = None  # the environment's, as every other program of a school's machine


@attrs.frozen(kw_only=True)
class SwarmConfig:
    """How the node meets its peers."""

    listen: Endpoint = Endpoint("0.0.0.0", 6881)
    trackers: tuple[str, ...] = ()  # besides those in the catalogues
    peers: tuple[Endpoint, ...] = ()  # tried first
    upload: Rate = Rate(625_000)  # 5 Mbit/s, towards the Internet: a fibre line of 2020 does not feel it
    dht: bool = True
    lsd: bool = True  # local service discovery (BEP 14): the other nodes of a school


@attrs.frozen(kw_only=True)
class ScheduleConfig:
    """When lessons are fetched ahead."""

    window: Window = ALWAYS  # the profiles of readers have the night, when nobody else needs the line


@attrs.frozen(kw_only=True)
class LinkHours:
    """Other limits at some hours of the day."""

    between: Window
    upload: Rate | None = None  # the one of [swarm]
    download: Rate | None = None  # the one of [link]


@attrs.frozen(kw_only=True)
class LinkConfig:
    """What the line to the outside bears."""

    metered: bool = False  # only what somebody reads is fetched, and nothing is given to the outside
    network_manager: bool = True  # take its word for it that the connection is metered
    monthly_cap: Size = Size(0)  # bytes to and from the outside; beyond it the line is metered; 0 is no cap
    download: Rate = Rate(0)  # from peers outside, and from the origins
    hours: tuple[LinkHours, ...] = ()  # the first one that holds the local time counts


@attrs.frozen(kw_only=True)
class Config:
    """A node's config, whole."""

    profile: str = "home"  # home, school or origin: other defaults for what follows
    origins: tuple[str, ...]  # mirrors of one repository, tried in turn
    root: Path  # the TUF root that the node starts from
    library: Path = Path("/var/lib/edgeshare")
    quota: Size = Size(20 * 2**30)
    keep_free: Size = Size(2**30)  # left free on the library's disk, whatever the quota: other programs need room too
    follow: tuple[CatalogueName, ...] = ()  # catalogues whose lessons are fetched ahead
    show: tuple[CatalogueName, ...] = ()  # catalogues that are shown, their lessons fetched when somebody opens them
    fetch: tuple[LessonId, ...] = ()  # lessons to fetch at once
    refresh_every_s: float = 900.0  # how often the origin is asked for news; a poll costs two small requests
    shim: ShimConfig = ShimConfig()
    origin: OriginConfig = OriginConfig()
    swarm: SwarmConfig = SwarmConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    link: LinkConfig = LinkConfig()


_NIGHT = {"window": "20:00-06:30"}  # after the evening's homework is opened, and done when the first pupils come

# What a profile changes. A school serves its LAN and keeps more; the publisher's node gives all it can.
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "home": {"schedule": _NIGHT},
    "school": {
        "quota": "200 GiB",
        "shim": {"listen": "0.0.0.0:8470", "lessons_listen": "0.0.0.0:8471"},
        "swarm": {"upload": "20 Mbit/s"},
        "schedule": _NIGHT,
    },
    "origin": {"quota": "1 TiB", "swarm": {"upload": "0 bit/s", "lsd": False}},
}


def load(path: Path) -> Config:
    """The config in the TOML file `path`; relative paths in it count from its folder.

    Raises:
        ConfigError: there is none, or a key or value in it cannot be; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = "give the node's config with --config FILE"
        raise ConfigError(f"cannot read {path} ({error.strerror})", hint=hint) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8", hint="save it as UTF-8") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """The config in `text`, which came from `path`; as `load`."""
    try:
        whole = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML", hint=str(error)) from error
    _refuse_unknown(whole, Config, path, "")
    profile = whole.get("profile", "home")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise ConfigError(f"{path}: profile {profile!r}", hint=f"use one of {', '.join(PROFILES)}")
    try:
        config = _converter.structure(_merged(PROFILES[profile], whole), Config)
    except cattrs.BaseValidationError as error:
        line = cattrs.transform_error(error, path="", format_exception=_reason)[0]
        reason, _, key = line.rpartition(" @ ")
        hint = "see docs/config.md"
        raise ConfigError(f"{path}: `{key.lstrip('.') or reason}` {reason}", hint=hint) from error
    if not config.origins:
        raise ConfigError(f"{path}: `origins` is empty", hint="name at least one, like https://lecons.example.fr/")
    for url in config.origins:
        if not is_origin_url(url):
            raise ConfigError(f"{path}: `origins` {shown(url)}", hint="write it like https://lecons.example.fr/")
    for url in config.swarm.trackers:
        if not is_tracker_url(url):
            hint = "write it like udp://lecons.example.fr:6969"
            raise ConfigError(f"{path}: `swarm.trackers` {shown(url)}", hint=hint)
    shim = _with_its_own_port(config.shim, path, is_asked_for="lessons_listen" in whole.get("shim", {}))
    if shim.statement is not None:
        shim = attrs.evolve(shim, statement=path.parent / shim.statement)
    root, library = path.parent / config.root, (path.parent / config.library).absolute()
    return attrs.evolve(config, root=root, library=library, shim=shim)


def _with_its_own_port(shim: ShimConfig, path: Path, *, is_asked_for: bool) -> ShimConfig:
    """`shim`, without the profile's second port where nobody but this machine reads anyway."""
    second = shim.lessons_listen
    if second is not None and shim.listen.is_loopback and not is_asked_for:
        return attrs.evolve(shim, lessons_listen=None)
    if second is not None and second.port and second.port == shim.listen.port:
        hint = 'it keeps lessons apart from our own pages: use another, like "0.0.0.0:8471"'
        raise ConfigError(f"{path}: `shim.lessons_listen` has the port of `shim.listen`", hint=hint)
    if second is None and shim.lesson_domain is None and shim.lessons_url is not None:
        hint = "it says how a browser reaches `shim.lessons_listen` or `shim.lesson_domain`: set one of them"
        raise ConfigError(f"{path}: `shim.lessons_url` leads nowhere", hint=hint)
    return shim


def parse_endpoint(text: str) -> Endpoint:
    """`host:port` as an Endpoint.

    Raises:
        ValueError: it is not one.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{text!r} is not host:port, like 127.0.0.1:8470")
    if match[1]:
        ipaddress.IPv6Address(match[1])
    return Endpoint(match[1] or match[2], int(match[3]))


def proxy_address(text: str) -> ProxyAddress:
    """An HTTP proxy's address, or NO_PROXY.

    Raises:
        ValueError: it is neither; the message leaves out the address, which may hold a password.
    """
    if text == NO_PROXY:
        return NO_PROXY
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its port, or the brackets of an IPv6 address
        is_one = False
    if not is_one or parts.path.strip("/") or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("is not like http://proxy.example:3128")
    return ProxyAddress(text)


def domain_name(text: str) -> DomainName:
    """The name of a domain, in lower case.

    Raises:
        ValueError: it is none that lessons can have names below.
    """
    name = text.lower()
    is_one = len(name) <= 189 and re.fullmatch(rf"(?:{_LABEL}\.)+(?!\d+$){_LABEL}", name)  # 253 with an id before it
    if not is_one or name.endswith(".localhost"):
        raise ValueError(f"{shown(text)} is not the name of a domain, like lecons.college-exemple.fr")
    return DomainName(name)


def lessons_url(text: str) -> LessonsUrl:
    """Scheme, name and port of a URL, in lower case, the scheme's usual port left out, as browsers do.

    Raises:
        ValueError: it is no such URL, or has more than that.
    """
    match = re.fullmatch(rf"(https?)://({_LABEL}(?:\.{_LABEL})*)(?::([1-9][0-9]{{0,4}}))?/?", text.lower())
    if match is None or int(match[3] or 0) > 65535:
        raise ValueError(f"{shown(text)} is not like https://lecons.college-exemple.fr:8443")
    scheme, name, port = match.groups()
    usual = {"http": "80", "https": "443"}[scheme]
    return LessonsUrl(f"{scheme}://{name}" + (f":{port}" if port not in (None, usual) else ""))


def nearest(word: str, known: typing.Iterable[str]) -> str | None:
    """The known word that a typist most likely meant."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), None)


def _refuse_unknown(table: dict[str, Any], kind: type, path: Path, above: str) -> None:
    hints = typing.get_type_hints(kind)
    for key, value in table.items():
        if key not in hints:
            close = nearest(key, hints)
            hint = f"did you mean `{above}{close}`?" if close else f"known keys: {', '.join(sorted(hints))}"
            raise ConfigError(f"{path}: unknown key `{shown(above + key)[1:-1]}`", hint=hint)
        if _is_table(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: `{above}{key}` is not a table", hint=f"write [{above}{key}]")
            _refuse_unknown(value, hints[key], path, f"{above}{key}.")
        elif _is_tuple(hints[key]) and _is_table(inner := typing.get_args(hints[key])[0]):
            if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
                raise ConfigError(f"{path}: `{above}{key}` is not a list of tables", hint=f"write [[{above}{key}]]")
            for each in value:
                _refuse_unknown(each, inner, path, f"{above}{key}.")


def _is_table(kind: type) -> bool:
    return attrs.has(kind) and kind not in (Endpoint, Window)  # these two are written as text


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(below)
    for key, value in above.items():
        inner = whole.get(key)
        whole[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, dict) else value
    return whole


def _reason(error: BaseException, _: type | None) -> str:
    if isinstance(error, KeyError):
        return "is missing"
    if isinstance(error, EdgeshareError | ValueError):
        return str(error)
    return f"cannot be read ({error})"


def _text_to(make: typing.Callable[[str], Any], what: str) -> Any:
    def check(value: object, _: object) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"is not {what}")  # noqa: TRY004 - one kind of error for all keys
        return make(value)

    return check


def _catalogue(text: str) -> str:
    if not is_catalogue_name(text):
        raise ValueError(f"{text!r} is not a catalogue's name like 'cned/6e'")
    return text


def _endpoint_or_none(text: str) -> Endpoint | None:
    return None if text == NOWHERE else parse_endpoint(text)


def _exactly(kind: type, what: str) -> Any:
    def check(value: object, _: object) -> Any:
        if type(value) is not kind:
            raise ValueError(f"is not {what}")
        return value

    return check


def _seconds(value: object, _: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= _MOST_SECONDS:
        raise ValueError(f"is not a number of seconds from 1 to {_MOST_SECONDS}")
    return float(value)


def _count(value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_CONNECTIONS:
        raise ValueError(f"is not a whole number from 1 to {MOST_CONNECTIONS}")
    return value


def _is_tuple(kind: Any) -> bool:
    origin: object = typing.get_origin(kind)
    return origin is tuple


def _list(value: object, kind: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError("is not a list, like ['…', '…']")  # noqa: TRY004
    inner = typing.get_args(kind)[0]
    return tuple(_converter.structure(item, inner) for item in value)


def _converters() -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_structure_hook(str, _exactly(str, "text"))
    converter.register_structure_hook(bool, _exactly(bool, "true or false"))
    converter.register_structure_hook(float, _seconds)
    converter.register_structure_hook(int, _count)
    converter.register_structure_hook(Path, _text_to(Path, "a path"))
    converter.register_structure_hook(Size, _text_to(parse_size, 'a size like "20 GiB"'))
    converter.register_structure_hook(Rate, _text_to(parse_rate, 'a rate like "20 Mbit/s"'))
    converter.register_structure_hook(Window, _text_to(Window.parse, 'hours like "20:00-06:30", nor "always"'))
    converter.register_structure_hook(LessonId, _text_to(lesson_id, "a lesson id"))
    converter.register_structure_hook(CatalogueName, _text_to(_catalogue, "a catalogue's name like 'cned/6e'"))
    converter.register_structure_hook(
        ProxyAddress, _text_to(proxy_address, 'like "http://proxy.example:3128", or "none"')
    )
    converter.register_structure_hook(DomainName, _text_to(domain_name, "the name of a domain"))
    converter.register_structure_hook(LessonsUrl, _text_to(lessons_url, "a URL like https://lecons.example.fr:8443"))
    converter.register_structure_hook(Endpoint, _text_to(parse_endpoint, "host:port"))
    converter.register_structure_hook_func(
        lambda kind: kind == Endpoint | None, _text_to(_endpoint_or_none, "host:port")
    )
    converter.register_structure_hook_func(_is_tuple, _list)
    return converter


_converter = _converters()
