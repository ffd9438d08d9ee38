"""What is fuzzed: everything that reads bytes which others wrote, how it may refuse them, and what to begin from.

A new parser is one more line of `PARSERS`.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import libtorrent as lt
from securesystemslib.signer import SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets

from edgeshare import control
from edgeshare.bundle.form import Bundle
from edgeshare.canonical import unpack
from edgeshare.catalogue import read_edition
from edgeshare.errors import LessonError, LibraryError, ManifestError, TrustError
from edgeshare.httpd import heads, ranges
from edgeshare.httpd.messages import Refused
from edgeshare.manifest import (
    MAX_MANIFEST,
    CatalogueManifest,
    InfoHash,
    LessonManifest,
    SignedFile,
    read_catalogue,
    read_lesson,
    structure,
)
from edgeshare.publish.folder import DESCRIPTION, read_folder
from edgeshare.shim import hosts
from edgeshare.signing import PublicKey
from edgeshare.swarm.session import info_of, read_info
from edgeshare.targets import FIELD, lesson_keys, publishers, target_path, vouching
from edgeshare.vocabulary import built_in

_ROOT = Path(__file__).parents[2]
_VECTORS = _ROOT / "manifests" / "vectors"
_INDEX: dict[str, Any] = json.loads((_VECTORS / "index.json").read_text(encoding="utf-8"))
_KEYS = {key.id: key for key in (PublicKey(each["scheme"], bytes.fromhex(each["public"])) for each in _INDEX["keys"])}
_VOCABULARY = built_in()
_HERE = ("127.0.0.1", 8470)  # where requests arrive


@attrs.frozen
class Parser:
    """Something that reads foreign bytes."""

    parse: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]  # all that it may raise
    seeds: Callable[[], list[bytes]]


def _vectors(kind: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(_VECTORS.glob(kind))]


def _file(raw: bytes) -> None:
    for read in (read_lesson, read_catalogue):
        with contextlib.suppress(ManifestError, TrustError):
            read(raw, _KEYS)
    read_lesson(raw, _KEYS)


def _fields(raw: bytes) -> None:
    """What a key signed is read like this, whoever stole the key."""
    fields = unpack(raw, MAX_MANIFEST, "a manifest")
    with contextlib.suppress(ManifestError):
        structure(fields, CatalogueManifest)
    structure(fields, LessonManifest)


def _signed() -> list[bytes]:
    found: list[bytes] = []
    for raw in _vectors("*.manifest"):
        with contextlib.suppress(ManifestError):
            found.append(SignedFile.parse(raw).signed)
    return found


def _torrent(raw: bytes) -> None:
    info = info_of(raw)
    read_info(info, InfoHash(hashlib.sha256(info).digest()))


def _infos() -> list[bytes]:
    wholes: list[Any] = [lt.bdecode(raw) for raw in _vectors("*.torrent")]
    return [lt.bencode(whole[b"info"]) for whole in wholes]


def _targets(raw: bytes) -> None:
    """As after its signatures were checked: python-tuf's own reader refuses what is no metadata."""
    signed: object = Metadata.from_bytes(raw).signed
    if not isinstance(signed, Targets):
        return
    for target in signed.targets.values():
        with contextlib.suppress(ManifestError):
            lesson_keys(target)
    publishers(signed)


def _some_targets() -> list[bytes]:
    target = TargetFile.from_data(target_path("lyon/6e"), b"", ["sha256"])
    target.unrecognized_fields["custom"] = vouching(*_KEYS.values())
    key = SSlibKey("00" * 32, "ed25519", "ed25519", {"public": "11" * 32})
    role = DelegatedRole("lyon", [key.keyid], 1, True, paths=["catalogue/lyon/*"])
    role.unrecognized_fields[FIELD] = {"prefix": "lyon-"}
    said = {"revoked": {"nice": "Une clé volée"}, "revoked_keys": ["22" * 32]}
    expires = datetime(2027, 1, 1, tzinfo=UTC)
    top = Targets(
        expires=expires,
        delegations=Delegations({key.keyid: key}, {"lyon": role}),
        unrecognized_fields={FIELD: said},
    )
    return [Metadata(each).to_bytes() for each in (top, Targets(expires=expires, targets={target.path: target}))]


class _Idle:
    """A node that has nothing."""

    def status(self) -> _Idle:
        return self

    def as_json(self) -> dict[str, Any]:
        return {}

    def listing(self) -> tuple[()]:
        return ()

    def lesson(self, lesson: str) -> None:
        return None

    async def want(self, lesson: str) -> None:
        pass

    async def take_in(self) -> tuple[()]:
        return ()


_IDLE: Any = _Idle()


def _message(raw: bytes) -> None:
    answers: AsyncGenerator[dict[str, Any], None] = control._answers(_IDLE, raw)
    with contextlib.suppress(StopAsyncIteration):
        while True:
            _at_once(answers.__anext__())


def _at_once(waiting: Awaitable[object]) -> None:
    """Run what waits for nothing, without the event loop that would take most of the time."""
    try:
        waiting.__await__().__next__()
    except StopIteration:
        return
    raise AssertionError("the answer waits for something")


@cache
def _lesson_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edgeshare-fuzz-"))
    atexit.register(shutil.rmtree, folder)
    (folder / "index.html").write_text("<h1>Les fractions</h1>", encoding="utf-8")
    return folder


def _description(raw: bytes) -> None:
    folder = _lesson_folder()
    (folder / DESCRIPTION).write_bytes(raw)
    read_folder(folder, _VOCABULARY)


def _descriptions() -> list[bytes]:
    return [path.read_bytes() for path in sorted((_ROOT / "manifests" / "lessons").glob(f"*/{DESCRIPTION}"))]


def _headers(raw: bytes) -> None:
    header = raw.decode("latin-1")  # as a server of HTTP/1.1 has it
    for size in (0, 1, 10**12):
        found = ranges.parse(header, size)
        assert not isinstance(found, ranges.Span) or found.stop <= size
    ranges.not_modified(header, '"a"')
    ranges.range_applies(header, '"a"')


def _some_headers() -> list[bytes]:
    ranged = ["bytes=0-", "bytes=-5", "bytes=1-2,4-5", "BYTES = 0-1", "bytes=,\t3-,", f"bytes={'9' * 30}-", "lines=1-2"]
    return [each.encode() for each in [*ranged, '"a"', 'W/"a", "b,c"', "*"]]


def _requests(raw: bytes) -> None:
    """A connection's bytes as the server reads them."""
    reader = heads.Heads(_HERE)
    reader.receive(raw)
    while reader.pending and (asked := reader.next()) is not None:
        request = asked.request
        hosts.site_of(request.host, address=_HERE[0], port=_HERE[1], names=hosts.Names())
        ranges.parse(request.header("range"), 10**9)


def _some_requests() -> list[bytes]:
    lines = [b"GET /film.mp4 HTTP/1.1", b"Host: a-b.localhost:8470", b"Range: bytes=0-1", b"Connection: keep-alive"]
    more = [b"HEAD /%C3%A9t%C3%A9?q HTTP/1.1", b"host: [::1]:8470", b"X-Other: a", b"Accept-Language: fr, en;q=0.5"]
    bodies = [
        b"POST / HTTP/1.1",
        b"Host: a",
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"",
        b"0",
        b"",
        b"GET",
    ]
    heads_ = [b"\r\n".join([*each, b"", b""]) for each in (lines, more, bodies, [b"GET / HTTP/1.0", b"Host: a"])]
    return [*heads_, heads_[0] + heads_[1], b"GET /\r\n\r\n", b"\x16\x03\x01"]


PARSERS = {
    "manifest": Parser(_file, (ManifestError, TrustError), lambda: _vectors("*.manifest")),
    "fields": Parser(_fields, (ManifestError,), _signed),
    "edition": Parser(
        lambda raw: read_edition(raw, "cned/6e", 4, _KEYS), (ManifestError,), lambda: _vectors("edition-*.msgpack")
    ),
    "bundle": Parser(Bundle.parse, (ManifestError,), lambda: _vectors("bundle-*.msgpack")),
    "torrent": Parser(_torrent, (ManifestError,), lambda: _vectors("*.torrent")),
    "info": Parser(lambda raw: read_info(raw, InfoHash(hashlib.sha256(raw).digest())), (ManifestError,), _infos),
    "targets": Parser(_targets, (ManifestError, RepositoryError), _some_targets),
    "control": Parser(
        _message,
        (ManifestError, LibraryError),
        lambda: [
            b'{"do": "status"}\n',
            b'{"do": "lessons", "level": "6e"}\n',
            b'{"do": "get", "lesson": "a-b"}\n',
            b'{"do": "import"}\n',
        ],
    ),
    "lesson-toml": Parser(_description, (LessonError,), _descriptions),
    "request": Parser(_requests, (Refused,), _some_requests),
    "range": Parser(_headers, (), _some_headers),
}
