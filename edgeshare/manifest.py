"""Manifests: what a lesson is, and what an edition of a catalogue is; strict msgpack, signed.

The format is specified, byte for byte, in `manifests/FORMAT.md`. In short: a manifest file is a msgpack map of
`format`, `signatures` and `signed`; `signed` holds the encoded manifest, over which the signatures are made. A reader
checks the signature over the bytes it received, then decodes them, then checks every field.

Rules:
- Encoding is canonical (`canonical.py`). Anything else is refused.
- A field that this version does not know is ignored, unless the manifest lists it under `critical`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, NewType, Self, TypeVar

import attrs
import cattrs
import msgpack
from attrs.validators import ge, instance_of, le

from edgeshare.canonical import SMALL, pack, unpack
from edgeshare.errors import EdgeshareError, ManifestError, TrustError
from edgeshare.paths import unsafe
from edgeshare.signing import PublicKey, Signature, signers
from edgeshare.vocabulary import is_code

LessonId = NewType("LessonId", str)  # a DNS label; made by `lesson_id`
InfoHash = NewType("InfoHash", bytes)  # v2, 32 bytes; hex only when printed (BEP 52)

MAX_MANIFEST = SMALL  # bytes of a manifest file; a usual one has under 1 kB
MAX_SIZE = 2**44  # bytes of content: 16 TiB, past which the number itself is an error
_MAX_SIGNATURES = 16
_READERS = 4  # threads; on two cores no more than two are of use, and do no harm
_PORTION = 100  # manifests that one of them reads at a time, in 15 ms
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")  # BCP 47, well-formed
_ORIGIN = re.compile(r"https?://(?=[^/?#])[!-~]{1,490}")  # RFC 3986: a URL is ASCII without blanks
_TRACKER = re.compile(r"(?:https?|udp)://(?=[^/?#])[!-~]{1,490}")
_MAX_URLS = 32
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc, all of it
_CATALOGUE = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)/([a-z0-9]+(?:-[a-z0-9]+)*)(\.teacher)?")
ROLES = ("learner", "teacher")


def lesson_id(text: str) -> LessonId:
    """`text` as a lesson's id.

    Raises:
        ManifestError: it is not a DNS label in lower case.
    """
    if not _LABEL.fullmatch(text):
        hint = "use 1 to 63 of a-z, 0-9 and -, not - at an end"
        raise ManifestError(f"{shown(text)} is not a lesson id", hint=hint)
    return LessonId(text)


def is_catalogue_name(text: str) -> bool:
    """Whether `text` names a catalogue: `publisher/level`, or `publisher/level.teacher`."""
    return _CATALOGUE.fullmatch(text) is not None


def is_origin_url(text: str) -> bool:
    """Whether `text` can be an origin's base URL."""
    return _ORIGIN.fullmatch(text) is not None


def is_tracker_url(text: str) -> bool:
    """Whether `text` can be a tracker's announce URL."""
    return _TRACKER.fullmatch(text) is not None


def check_text(name: str, value: str, least: int, most: int, *, allowed: str = "") -> None:
    """Refuse a text of another length, or with control characters (they would command a terminal) but for `allowed`.

    Raises:
        ValueError: it is refused.
    """
    if not least <= len(value) <= most:
        raise ValueError(f"{name} has {len(value)} characters, not {least} to {most}")
    if any(found[0] not in allowed for found in _CONTROL.finditer(value)):
        raise ValueError(f"{name} holds a control character")


def shown(text: str) -> str:
    """Foreign `text` as it may stand in a message: quoted, short, without control characters."""
    short = text if len(text) <= 80 else text[:77] + "…"
    return ascii(short) if not short.isprintable() else f"'{short}'"


def _is_hash(_: object, field: attrs.Attribute[InfoHash], value: InfoHash) -> None:
    if len(value) != 32:
        raise ValueError(f"{field.name} has {len(value)} bytes, not 32")


def _is_aware(_: object, field: attrs.Attribute[datetime], value: datetime | None) -> None:
    if value is not None and value.tzinfo is None:
        raise ValueError(f"{field.name} has no time zone")


def _text(least: int, most: int, *, allowed: str = "") -> Any:
    def check(_: object, field: attrs.Attribute[str], value: str) -> None:
        check_text(field.name, value, least, most, allowed=allowed)

    return check


def _are_urls(is_url: Callable[[str], bool], what: str) -> Any:
    def check(_: object, field: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
        if len(value) > _MAX_URLS:
            raise ValueError(f"{field.name} has {len(value)} URLs, more than {_MAX_URLS}")
        for url in value:
            if not is_url(url):
                raise ValueError(f"{field.name} has {shown(url)}, which is not {what} URL")

    return check


def _are_codes(least: int) -> Any:
    def check(_: object, field: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
        if not least <= len(value) <= 32 or len(set(value)) != len(value) or not all(map(is_code, value)):
            raise ValueError(f"{field.name} is not a list of {least} to 32 different codes like '6e'")

    return check


@lru_cache(1024)  # 50,000 lessons of a few dozen levels, asked again and again
def _catalogues(publisher: str, levels: tuple[str, ...], role: str) -> tuple[str, ...]:
    suffix = ".teacher" if role == "teacher" else ""
    return tuple(f"{publisher}/{level}{suffix}" for level in levels)


@attrs.frozen(kw_only=True)
class LessonManifest:
    """One version of one lesson. It names the info-hash, which commits to every byte of the content."""

    id: LessonId = attrs.field()
    version: int = attrs.field(validator=[instance_of(int), ge(1), le(2**31)])
    title: str = attrs.field(validator=_text(1, 200))
    language: str = attrs.field()  # BCP 47
    levels: tuple[str, ...] = attrs.field(validator=_are_codes(1))  # slugs of the vocabulary, or unknown codes
    subjects: tuple[str, ...] = attrs.field(validator=_are_codes(1))
    description: str = attrs.field(validator=_text(0, 2000, allowed="\n\t"))
    licence: str = attrs.field(validator=_text(1, 100))  # SPDX
    start: str = attrs.field()  # the path that a browser opens
    role: str = attrs.field(default="learner")  # one of ROLES
    publisher: str = attrs.field()  # a catalogue's first part
    info_hash: InfoHash = attrs.field(validator=_is_hash)
    size: int = attrs.field(validator=[ge(1), le(MAX_SIZE)])  # bytes of content, without padding
    files: int = attrs.field(validator=[ge(1), le(20_000)])
    audience: int | None = attrs.field(default=None)  # nodes expected to want it
    available_from: datetime | None = attrs.field(default=None, validator=_is_aware)
    needed_at: datetime | None = attrs.field(default=None, validator=_is_aware)
    expires: datetime | None = attrs.field(default=None, validator=_is_aware)
    fetch_from: datetime | None = attrs.field(default=None, validator=_is_aware)  # followers begin then, all at once

    @id.validator
    def _check_id(self, _: attrs.Attribute[str], value: str) -> None:
        lesson_id(value)

    @language.validator
    def _check_language(self, _: attrs.Attribute[str], value: str) -> None:
        if not _LANGUAGE.fullmatch(value):
            raise ValueError(f"language {shown(value)} is not a BCP 47 tag like 'fr'")

    @start.validator
    def _check_start(self, _: attrs.Attribute[str], value: str) -> None:
        if refused := unsafe([value]):
            raise ValueError(f"start {shown(value)} {refused.reason}")

    @role.validator
    def _check_role(self, _: attrs.Attribute[str], value: str) -> None:
        if value not in ROLES:
            raise ValueError(f"role {shown(value)} is not one of {', '.join(ROLES)}")

    @publisher.validator
    def _check_publisher(self, _: attrs.Attribute[str], value: str) -> None:
        if not is_code(value):
            raise ValueError(f"publisher {shown(value)} is not words of a-z and 0-9 joined by -")

    @audience.validator
    def _check_audience(self, _: attrs.Attribute[int], value: int | None) -> None:
        if value is not None and not 1 <= value <= 10**9:
            raise ValueError(f"audience {value} is not from 1 to 1000000000")

    @property
    def catalogues(self) -> tuple[str, ...]:
        """The catalogues that list it: one for each level, corrigés apart."""
        return _catalogues(self.publisher, self.levels, self.role)

    @property
    def is_rehearsal(self) -> bool:
        """Whether it is over before it may be shown: nodes fetch it by appointment, and no reader ever sees it."""
        if self.fetch_from is None or self.available_from is None or self.expires is None:
            return False
        return self.expires <= self.available_from


@attrs.frozen(kw_only=True)
class CatalogueManifest:
    """One edition of one catalogue; its content is a single file that holds the lessons' manifests."""

    name: str = attrs.field()  # `publisher/level`
    edition: int = attrs.field(validator=[ge(1), le(2**31)])
    info_hash: InfoHash = attrs.field(validator=_is_hash)
    size: int = attrs.field(validator=[ge(1), le(2**26)])  # bytes of content
    issued: datetime = attrs.field(validator=_is_aware)
    # announce URLs, for its lessons too
    trackers: tuple[str, ...] = attrs.field(default=(), validator=_are_urls(is_tracker_url, "a tracker's"))
    # base URLs of the mirrors
    origins: tuple[str, ...] = attrs.field(default=(), validator=_are_urls(is_origin_url, "an origin's"))

    @name.validator
    def _check_name(self, _: attrs.Attribute[str], value: str) -> None:
        if not is_catalogue_name(value):
            raise ValueError(f"{shown(value)} is not a catalogue's name like 'cned/6e'")


_NAMES = tuple(field.name for field in attrs.fields(LessonManifest))
_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in attrs.fields(LessonManifest) if field.default is not attrs.NOTHING
}
_LISTS = ("levels", "subjects")
_MOMENTS = ("available_from", "needed_at", "expires", "fetch_from")
_ALIKE = ("language", "licence", "start", "role", "publisher")  # texts that many lessons have
_Shared = TypeVar("_Shared", str, tuple[str, ...])
_Manifest = TypeVar("_Manifest", LessonManifest, CatalogueManifest)
FORMATS: Mapping[type, str] = {
    LessonManifest: "edgeshare-lesson/1",
    CatalogueManifest: "edgeshare-catalogue/1",
}


@attrs.frozen
class SignedFile:
    """A manifest file taken apart, nothing in it believed yet."""

    format: str
    signed: bytes
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Take apart the bytes of a manifest file.

        Raises:
            ManifestError: they are not one.
        """
        whole = unpack(raw, MAX_MANIFEST, "a manifest")
        match whole:
            case {"format": str(form), "signed": bytes(signed), "signatures": list(listed)} if len(whole) == 3:
                pass
            case _:
                raise ManifestError("these bytes are not a manifest file of edgeshare")
        if len(listed) > _MAX_SIGNATURES:
            raise ManifestError(f"the manifest has more than {_MAX_SIGNATURES} signatures")
        signatures: list[Signature] = []
        for entry in listed:
            match entry:
                case {"key": bytes(key), "scheme": str(scheme), "signature": bytes(value)} if len(entry) == 3:
                    signatures.append(Signature(key, scheme, value))
                case _:
                    raise ManifestError("the manifest has a signature that is none")
        return cls(form, signed, tuple(signatures))

    def encode(self) -> bytes:
        """The bytes of the manifest file."""
        listed = [{"key": s.key, "scheme": s.scheme, "signature": s.value} for s in self.signatures]
        return pack({"format": self.format, "signed": self.signed, "signatures": listed})


def encode(manifest: LessonManifest | CatalogueManifest) -> bytes:
    """The bytes that are signed for `manifest`."""
    return pack({key: value for key, value in _converter.unstructure(manifest).items() if value is not None})


def format_of(manifest: LessonManifest | CatalogueManifest) -> str:
    """The name and version of the manifest's format; also the domain of its signatures."""
    return FORMATS[type(manifest)]


def read_lesson(raw: bytes, keys: Mapping[bytes, PublicKey]) -> LessonManifest:
    """The lesson manifest in a file's bytes, vouched for by at least one of `keys` (by id).

    Raises:
        ManifestError: the bytes are no lesson manifest, or break a rule of the format.
        TrustError: nobody in `keys` signed it.
    """
    return _read(raw, keys, LessonManifest)


def read_lessons(entries: Sequence[object], keys: Mapping[bytes, PublicKey]) -> list[LessonManifest | EdgeshareError]:
    """Each of an edition's `entries` as `read_lesson` reads it, or why it is refused, in their order.

    Nearly all of the time goes into verifying signatures, and cryptography lets go of the interpreter meanwhile.
    """

    def read(portion: Sequence[object]) -> list[LessonManifest | EdgeshareError]:
        return [_read_entry(entry, keys) for entry in portion]

    if len(entries) <= _PORTION:
        return read(entries)
    with ThreadPoolExecutor(_READERS) as readers:
        portions = (entries[start : start + _PORTION] for start in range(0, len(entries), _PORTION))
        return [found for portion in readers.map(read, portions) for found in portion]


def recall_lesson(raw: bytes) -> LessonManifest:
    """The lesson manifest in a file's bytes that `read_lesson` has read before, a tenth of whose time it takes.

    Nothing is checked again; whoever calls it knows that these are the same bytes.
    """
    state: dict[str, Any] = _DEFAULTS | msgpack.unpackb(signed_part(raw))
    for name in _ALIKE:
        state[name] = _shared(state[name])
    for name in _LISTS:
        state[name] = _shared(tuple(state[name]))
    for name in _MOMENTS:
        if state[name] is not None:
            state[name] = datetime.fromisoformat(state[name])
    manifest = LessonManifest.__new__(LessonManifest)
    for name in _NAMES:
        object.__setattr__(manifest, name, state[name])  # as `__init__` does, without what looks at each
    return manifest


def signed_part(raw: bytes) -> bytes:
    """What is signed in a manifest file that was read before; nothing is checked again."""
    signed = msgpack.unpackb(raw)["signed"]
    assert isinstance(signed, bytes)
    return signed


def _read_entry(entry: object, keys: Mapping[bytes, PublicKey]) -> LessonManifest | EdgeshareError:
    if not isinstance(entry, bytes):
        return ManifestError("it is not the bytes of a manifest")
    try:
        return read_lesson(entry, keys)
    except EdgeshareError as error:
        return error


def read_catalogue(raw: bytes, keys: Mapping[bytes, PublicKey]) -> CatalogueManifest:
    """The catalogue manifest in a file's bytes; as `read_lesson`."""
    return _read(raw, keys, CatalogueManifest)


def _read(raw: bytes, keys: Mapping[bytes, PublicKey], kind: type[_Manifest]) -> _Manifest:
    file = SignedFile.parse(raw)
    wanted = FORMATS[kind]
    if file.format != wanted:
        family = wanted.partition("/")[0]
        if file.format.partition("/")[0] == family:
            raise ManifestError(f"the manifest has the format {shown(file.format)}", hint="a newer edgeshare reads it")
        raise ManifestError(f"the manifest has the format {shown(file.format)}, not {wanted}")
    if not signers(wanted, file.signed, file.signatures, keys):
        raise TrustError(
            "no key that the repository vouches for signed this manifest",
            hint="it was altered, its key was revoked or replaced, or its publisher’s catalogues are not here",
        )
    fields = unpack(file.signed, MAX_MANIFEST, "a manifest")
    critical = fields.pop("critical", []) if isinstance(fields, dict) else []
    if not isinstance(critical, list) or not all(isinstance(name, str) for name in critical):
        raise ManifestError("the manifest's list of critical fields is not a list of names")
    if critical and (unknown := sorted(set(critical) - {field.name for field in attrs.fields(kind)} - {"critical"})):
        hint = "a newer edgeshare reads it"
        raise ManifestError(f"the manifest needs the field {shown(unknown[0])}, unknown here", hint=hint)
    return structure(fields, kind)


def structure(fields: object, kind: type[_Manifest]) -> _Manifest:
    """A manifest from decoded fields, each checked.

    Raises:
        ManifestError: a field is missing or not what it must be.
    """
    if not isinstance(fields, dict):
        raise ManifestError("the manifest is not a map of fields")
    fields = fields | {name: _shared(fields[name]) for name in _ALIKE if isinstance(fields.get(name), str)}
    with suppress(KeyError, TypeError, ValueError, EdgeshareError):
        return _quick.structure(fields, kind)
    try:  # the same rules, applied with a note of which field it was
        return _converter.structure(fields, kind)
    except cattrs.BaseValidationError as error:
        reason, _, field = cattrs.transform_error(error, format_exception=_reason)[0].rpartition(" @ $")
        field = field.removeprefix(".")
        named = reason if not field or reason.startswith(field) else f"{field} {reason}"
        raise ManifestError(f"the manifest is refused, {named}") from error


def _exactly(kind: type) -> Any:
    def check(value: object, _: object) -> object:
        if type(value) is not kind:  # a bool is an int to isinstance, and no number to us
            raise ValueError(f"is not {'text' if kind is str else 'a whole number' if kind is int else 'bytes'}")
        return value

    return check


def _moment(value: object, _: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("is not a time")  # noqa: TRY004 - one kind of error for all fields
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError("is not a time") from error
    offset = moment.utcoffset()
    if moment.isoformat() != value or (offset and offset.microseconds + offset.seconds % 60):
        raise ValueError("is not a time in RFC 3339's usual form")
    if not 2000 <= moment.year < 3000:  # near the years 1 and 9999 arithmetic overflows
        raise ValueError("is not a time between the years 2000 and 3000")
    return moment


def _texts(value: object, _: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("is not a list of texts")
    texts: tuple[str, ...] = _shared(tuple(value))
    return texts


@lru_cache(1024)
def _shared(value: _Shared) -> _Shared:
    """One object for all that are equal: 50,000 lessons have a few dozen languages, licences and levels."""
    return value


def _reason(error: BaseException, _: type | None) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return str(error)


def _converters(*, detailed: bool) -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=detailed)
    for kind in (int, str, bytes):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(LessonId, _exactly(str))
    converter.register_structure_hook(InfoHash, _exactly(bytes))
    converter.register_structure_hook(datetime, _moment)
    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _texts)
    converter.register_unstructure_hook(datetime, lambda moment: moment.isoformat())
    return converter


_converter = _converters(detailed=True)
_quick = _converters(detailed=False)
