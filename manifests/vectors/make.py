"""Make the test vectors of FORMAT.md: `python manifests/vectors/make.py [FOLDER]`, the same bytes every time.

This is written from FORMAT.md, and uses nothing of edgeshare: two readings of one text that must agree.
THE KEYS ARE FOR TESTS. Their private halves stand below: whoever trusts them trusts everybody.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LESSON, CATALOGUE, EDITION = "edgeshare-lesson/1", "edgeshare-catalogue/1", "edgeshare-edition/1"
BLOCK = 16384
CONTENT = {"index.html": b"<h1>Les fractions</h1>\n", "img/vide.svg": b"", "img/grand.bin": b"edgeshare\n" * 4000}

Sign = Callable[[str, bytes], dict[str, Any]]


def pack(value: object) -> bytes:
    """Canonical msgpack."""
    packed: bytes = msgpack.packb(ordered(value), use_bin_type=True)
    return packed


def ordered(value: object) -> object:
    """`value` with the keys of its maps in order, at every depth."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(item) for item in value] if isinstance(value, list) else value


def payload(form: str, signed: bytes) -> bytes:
    return form.encode() + b"\0" + len(signed).to_bytes(8, "big") + signed


def ed25519(seed: bytes) -> tuple[dict[str, str], Sign]:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    return _key("ed25519", public, seed.hex()), lambda form, signed: {
        "key": hashlib.sha256(public).digest(),
        "scheme": "ed25519",
        "signature": private.sign(payload(form, signed)),
    }


def ecdsa(number: int) -> tuple[dict[str, str], Sign]:
    private = ec.derive_private_key(number, ec.SECP256R1())
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    scheme = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)  # RFC 6979
    return _key("ecdsa-sha2-nistp256", public, f"{number:064x}"), lambda form, signed: {
        "key": hashlib.sha256(public).digest(),
        "scheme": "ecdsa-sha2-nistp256",
        "signature": private.sign(payload(form, signed), scheme),
    }


def _key(scheme: str, public: bytes, private: str) -> dict[str, str]:
    return {
        "warning": "TEST KEY, its private half is public",
        "scheme": scheme,
        "public": public.hex(),
        "id": hashlib.sha256(public).hexdigest(),
        "private": private,
    }


TRUSTED, SIGN = ed25519(b"edgeshare TEST KEY, for lessons.")
STATE, SIGN_STATE = ecdsa(20210408)
STRANGER, SIGN_STRANGER = ed25519(b"edgeshare TEST KEY, a stranger's")
SMALL = _key("ed25519", (1).to_bytes(32, "little"), "none: one signature of it is right for any message")


def envelope(form: str, signed: bytes, *signers: Sign) -> bytes:
    return pack({"format": form, "signed": signed, "signatures": [sign(form, signed) for sign in signers]})


def merkle(leaves: list[bytes], width: int) -> bytes:
    """BEP 52: the root over `leaves`, padded with zeros to `width`."""
    row = leaves + [bytes(32)] * (width - len(leaves))
    while len(row) > 1:
        row = [hashlib.sha256(row[n] + row[n + 1]).digest() for n in range(0, len(row), 2)]
    return row[0]


def bencode(value: Any) -> bytes:
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%s" % (len(value), value)
        case list():
            return b"l" + b"".join(map(bencode, value)) + b"e"
        case _:
            return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


def torrent(name: str, content: dict[str, bytes], length: int = BLOCK, **changes: Any) -> tuple[bytes, bytes]:
    """The .torrent of a folder, and its v2 info-hash. Its pieces are single blocks here.

    `changes` are other values of the info dict's keys, by their names with `_`; `...` leaves one out.
    """
    tree: dict[bytes, Any] = {}
    listed, pieces, layers = [], b"", {}
    for path in sorted(content, key=lambda path: path.encode().split(b"/")):
        raw, parts = content[path], path.encode().split(b"/")
        blocks = [raw[start : start + BLOCK] for start in range(0, len(raw), BLOCK)]
        leaves = [hashlib.sha256(block).digest() for block in blocks]
        leaf: dict[bytes, Any] = {b"length": len(raw)}
        if leaves:
            leaf[b"pieces root"] = merkle(leaves, 1 << (len(leaves) - 1).bit_length())
        if len(leaves) > 1:
            layers[leaf[b"pieces root"]] = b"".join(leaves)
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = {b"": leaf}
        listed.append({b"length": len(raw), b"path": parts})
        if pad := -len(raw) % length:
            listed.append({b"attr": b"p", b"length": pad, b"path": [b".pad", b"%d" % pad]})
        for block in blocks:
            pieces += hashlib.sha1(block + bytes(length - len(block)), usedforsecurity=False).digest()
    info = {
        b"file tree": tree,
        b"files": listed,
        b"meta version": 2,
        b"name": name.encode(),
        b"piece length": length,
        b"pieces": pieces,
    }
    info |= {key.replace("_", " ").encode(): value for key, value in changes.items()}
    info = {key: value for key, value in info.items() if value is not ...}
    return bencode({b"info": info, b"piece layers": layers}), hashlib.sha256(bencode(info)).digest()


TORRENT, INFO_HASH = torrent("maths-6e-fractions", CONTENT)
FIELDS: dict[str, Any] = {
    "id": "maths-6e-fractions",
    "version": 3,
    "title": "Les fractions",
    "language": "fr",
    "levels": ["6e"],
    "subjects": ["mathematiques"],
    "description": "Partager, comparer à 1.",
    "licence": "CC-BY-SA-4.0",
    "start": "index.html",
    "role": "learner",
    "publisher": "cned",
    "info_hash": INFO_HASH,
    "size": sum(map(len, CONTENT.values())),
    "files": len(CONTENT),
}
OPTIONAL = {
    "audience": 800000,
    "available_from": "2026-11-24T07:00:00+01:00",
    "needed_at": "2026-11-24T08:00:00+01:00",
    "expires": "2027-07-31T00:00:00+02:00",
}
ISSUED = "2026-09-01T06:00:00+00:00"


def lesson(*signers: Sign, **changes: Any) -> bytes:
    return envelope(LESSON, pack(FIELDS | changes), *(signers or (SIGN,)))


def raw_lesson(signed: bytes) -> bytes:
    return envelope(LESSON, signed, SIGN)


def without(name: str) -> bytes:
    return raw_lesson(pack({key: value for key, value in FIELDS.items() if key != name}))


def flipped(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


def nested(depth: int) -> Any:
    """A number with so many arrays around it."""
    return [nested(depth - 1)] if depth else 1


def envelope_twice() -> bytes:
    """An envelope whose `format` stands twice, the first as it should be."""
    one = pack({"format": LESSON})[1:]
    return b"\x84" + one + one + lesson()[1 + len(one) :]


def shortened(signature: dict[str, Any]) -> dict[str, Any]:
    return signature | {"signature": signature["signature"][:63]}


def twin(signature: dict[str, Any]) -> dict[str, Any]:
    """The same point and, to a careless reader, the same scalar (RFC 8032 §5.1.7 wants it below the order)."""
    order = 2**252 + 27742317777372353535851937790883648493
    point, scalar = signature["signature"][:32], int.from_bytes(signature["signature"][32:], "little")
    return signature | {"signature": point + (scalar + order).to_bytes(32, "little")}


def edition(**changes: Any) -> bytes:
    gone = {"id": "maths-6e-ancien", "why": "Une erreur page 3", "since": 2, "manifest": b""}
    other = lesson(id="maths-6e-retire")
    gone_too = {"id": "maths-6e-retire", "why": "Droits d'auteur", "since": 4, "manifest": other}
    whole = {
        "format": EDITION,
        "name": "cned/6e",
        "edition": 4,
        "lessons": [lesson(), lesson(SIGN_STATE, id="maths-6e-nombres")],
        "withdrawn": [gone, gone_too],
    }
    return pack(whole | changes)


def catalogue(**changes: Any) -> bytes:
    content = edition()
    _, info_hash = torrent("cned-6e", {"catalogue.msgpack": content})
    fields = {
        "name": "cned/6e",
        "edition": 4,
        "info_hash": info_hash,
        "size": len(content),
        "issued": ISSUED,
        "trackers": ["udp://lecons.example.fr:6969"],
        "origins": ["https://lecons.example.fr/"],
    }
    return envelope(CATALOGUE, pack(fields | changes), SIGN)


def backwards(raw: bytes) -> bytes:
    """The same map with its keys in the other order."""
    fields = msgpack.unpackb(raw)
    packed: bytes = msgpack.packb({key: fields[key] for key in sorted(fields, reverse=True)})
    return packed


SMALL_SIGNED = pack(FIELDS)
SMALL_SIGNATURE = {
    "key": bytes.fromhex(SMALL["id"]),
    "scheme": "ed25519",
    "signature": (1).to_bytes(32, "little") + bytes(32),
}
VALID: dict[str, tuple[str, bytes]] = {
    "lesson-valid": ("the fields that are needed", lesson()),
    "lesson-valid-all-fields": ("every field", lesson(**OPTIONAL)),
    "lesson-valid-rehearsal": (
        "fetched by appointment, over before it may be shown",
        lesson(
            id="drill-20261123-1",
            fetch_from="2026-11-23T20:30:00+01:00",
            available_from="2999-01-01T00:00:00+00:00",
            expires="2026-11-24T20:40:00+01:00",
        ),
    ),
    "lesson-valid-ecdsa": ("signed with ECDSA P-256", lesson(SIGN_STATE)),
    "lesson-valid-two-signatures": ("a stranger's signature beside a good one", lesson(SIGN_STRANGER, SIGN)),
    "lesson-valid-unknown-field": ("a field of a later edgeshare", lesson(mood={"calm": [1, True, b"\0"]})),
    "lesson-valid-critical": ("a critical field that is known", lesson(critical=["title"])),
    "lesson-valid-teacher": ("for teachers", lesson(role="teacher")),
    "lesson-valid-longest": ("texts at their limits", lesson(title="é" * 200, description="\U0001f600" * 2000)),
    "catalogue-valid": ("a catalogue", catalogue()),
    "lesson-valid-large-number": (
        "an unknown field with the numbers that need 64 bits",
        lesson(mood=[2**64 - 1, -(2**63)]),
    ),
    "lesson-valid-nested-8": ("an unknown field with 8 arrays and maps around a value", lesson(mood=nested(7))),
    "catalogue-valid-bare": ("no trackers, no origins", catalogue(trackers=[], origins=[])),
}
REFUSED: dict[str, tuple[str, str, bytes]] = {
    "lesson-refused-empty": ("manifest", "no bytes", b""),
    "lesson-refused-too-long": ("manifest", "65,537 bytes", bytes(65_537)),
    "lesson-refused-truncated": ("manifest", "its last byte is missing", lesson()[:-1]),
    "lesson-refused-trailing": ("manifest", "a byte too many", lesson() + b"\0"),
    "lesson-refused-envelope-field": (
        "manifest",
        "a fourth field in the envelope",
        pack({"format": LESSON, "signed": b"", "signatures": [], "more": 1}),
    ),
    "lesson-refused-17-signatures": ("manifest", "more than 16 signatures", lesson(*[SIGN] * 17)),
    "lesson-refused-unsigned": ("trust", "no signature", envelope(LESSON, pack(FIELDS))),
    "lesson-refused-stranger": ("trust", "a key that nobody vouches for", lesson(SIGN_STRANGER)),
    "lesson-refused-altered": ("trust", "one bit of `signed` is altered", lesson().replace(b"6e-frac", b"6e-frab")),
    "lesson-refused-signature-altered": (
        "trust",
        "one bit of the signature is altered",
        flipped(lesson(), lesson().index(SIGN(LESSON, pack(FIELDS))["signature"])),
    ),
    "lesson-refused-domain": (
        "trust",
        "signed as a catalogue, called a lesson",
        pack({"format": LESSON, "signed": pack(FIELDS), "signatures": [SIGN(CATALOGUE, pack(FIELDS))]}),
    ),
    "lesson-refused-small-order-key": (
        "trust",
        "a key of small order, though listed",
        pack({"format": LESSON, "signed": SMALL_SIGNED, "signatures": [SMALL_SIGNATURE]}),
    ),
    "lesson-refused-catalogue": ("manifest", "a catalogue", catalogue()),
    "lesson-refused-format-2": ("manifest", "a later format", envelope("edgeshare-lesson/2", pack(FIELDS), SIGN)),
    "lesson-refused-critical": ("manifest", "an unknown field that is critical", lesson(mood=1, critical=["mood"])),
    "lesson-refused-key-order": ("manifest", "keys not in order", raw_lesson(msgpack.packb(FIELDS))),
    "lesson-refused-long-form": (
        "manifest",
        "an integer not in its shortest form",
        raw_lesson(pack(FIELDS).replace(b"\xa7version\x03", b"\xa7version\xcc\x03")),
    ),
    "lesson-refused-key-twice": ("manifest", "a key twice", raw_lesson(b"\x82\xa1a\x01\xa1a\x02")),
    "lesson-refused-float": ("manifest", "a float", lesson(mood=1.5)),
    "lesson-refused-nil": ("manifest", "nil", lesson(audience=None)),
    "lesson-refused-extension": ("manifest", "an extension type", lesson(mood=msgpack.ExtType(5, b""))),
    "lesson-refused-bytes-key": ("manifest", "a key that is bytes", raw_lesson(b"\x81\xc4\x01a\x01")),
    "lesson-refused-deep": ("manifest", "nested 9 deep", lesson(mood=nested(8))),
    "lesson-refused-deep-1000": ("manifest", "nested 1001 deep", raw_lesson(b"\x81\xa4mood" + b"\x91" * 1000 + b"\1")),
    "lesson-refused-deep-5000": ("manifest", "nested 5001 deep", raw_lesson(b"\x81\xa4mood" + b"\x91" * 5000 + b"\1")),
    "lesson-refused-long-array": (
        "manifest",
        "500 arrays in one another, each to have 65,536 items",
        raw_lesson(b"\x81\xa4mood" + b"\xdd\0\1\0\0" * 500),
    ),
    "lesson-refused-long-text": ("manifest", "text of 2^32 - 1", raw_lesson(b"\x81\xa4mood\xdb\xff\xff\xff\xff")),
    "lesson-refused-nan": ("manifest", "a float that is not a number", lesson(mood=float("nan"))),
    "lesson-refused-float-size": ("manifest", "a size that is a float", lesson(size=40_023.0)),
    "lesson-refused-timestamp": ("manifest", "a timestamp", lesson(mood=msgpack.Timestamp(2**40))),
    "lesson-refused-empty-extension": ("manifest", "an empty extension", raw_lesson(b"\x81\xa4mood\xc7\0\5")),
    "lesson-refused-number-key": ("manifest", "a key that is a number", raw_lesson(b"\x81\1\1")),
    "lesson-refused-surrogate": ("manifest", "half of a surrogate pair", raw_lesson(b"\x81\xa4mood\xa3\xed\xa0\x80")),
    "lesson-refused-not-utf-8": ("manifest", "text that is not UTF-8", raw_lesson(b"\x81\xa4mood\xa1\xff")),
    "lesson-refused-never-used": ("manifest", "the byte that msgpack never uses", raw_lesson(b"\xc1")),
    "lesson-refused-two-values": ("manifest", "a second value", raw_lesson(pack(FIELDS) + b"\0")),
    "lesson-refused-envelope-key-twice": ("manifest", "a key of the envelope twice", envelope_twice()),
    "lesson-refused-64-bits": ("manifest", "a size of 2^64 - 1", lesson(size=2**64 - 1)),
    "lesson-refused-beyond-64-bits": (
        "manifest",
        "a size of 9 bytes, as an extension",
        lesson(size=msgpack.ExtType(1, (2**64).to_bytes(9, "big"))),
    ),
    "lesson-refused-negative-size": ("manifest", "a size below 0", lesson(size=-1)),
    "lesson-refused-boolean-size": ("manifest", "true is no size", lesson(size=True)),
    "lesson-refused-nul": ("manifest", "a NUL in the title", lesson(title="Les fractions\0")),
    "lesson-refused-signature-63": (
        "trust",
        "a signature of 63 bytes",
        pack({"format": LESSON, "signed": pack(FIELDS), "signatures": [shortened(SIGN(LESSON, pack(FIELDS)))]}),
    ),
    "lesson-refused-signature-twin": (
        "trust",
        "a signature whose scalar is larger than the group's order",
        pack({"format": LESSON, "signed": pack(FIELDS), "signatures": [twin(SIGN(LESSON, pack(FIELDS)))]}),
    ),
    "lesson-refused-start-device": ("manifest", "a start that Windows takes for a device", lesson(start="aux.html")),
    "lesson-refused-start-mark": ("manifest", "a start that Windows cannot keep", lesson(start="quoi ?.html")),
    "lesson-refused-boolean-version": ("manifest", "true is no version", lesson(version=True)),
    "lesson-refused-version-0": ("manifest", "version 0", lesson(version=0)),
    "lesson-refused-no-title": ("manifest", "no title", without("title")),
    "lesson-refused-long-title": ("manifest", "a title of 201 characters", lesson(title="é" * 201)),
    "lesson-refused-control-character": ("manifest", "an escape in the title", lesson(title="\x1b[2J")),
    "lesson-refused-id": ("manifest", "an id that is no DNS label", lesson(id="Maths")),
    "lesson-refused-level": ("manifest", "a level that is no code", lesson(levels=["6E"])),
    "lesson-refused-start": ("manifest", "a start outside the lesson", lesson(start="../index.html")),
    "lesson-refused-info-hash": ("manifest", "an info-hash of 20 bytes", lesson(info_hash=INFO_HASH[:20])),
    "lesson-refused-size": ("manifest", "more than 16 TiB", lesson(size=2**44 + 1)),
    "lesson-refused-fetch-from": ("manifest", "a time that is a number", lesson(fetch_from=1795462200)),
    "lesson-refused-time": ("manifest", "a time without an offset", lesson(needed_at="2026-11-24T08:00:00")),
    "catalogue-refused-lesson": ("manifest", "a lesson", lesson()),
    "catalogue-refused-name": ("manifest", "a name without a level", catalogue(name="cned")),
    "catalogue-refused-origin": ("manifest", "an origin that is no URL", catalogue(origins=["lecons.example.fr"])),
    "catalogue-refused-33-trackers": ("manifest", "33 trackers", catalogue(trackers=["udp://t:1"] * 33)),
}
EDITIONS: dict[str, tuple[str, bytes, dict[str, Any] | None]] = {
    "edition-valid": (
        "two lessons, two withdrawals",
        edition(),
        {
            "lessons": ["maths-6e-fractions", "maths-6e-nombres"],
            "withdrawn": ["maths-6e-ancien", "maths-6e-retire"],
            "reinstated": [],
            "left_out": 0,
        },
    ),
    "edition-valid-reinstated": (
        "a lesson that was withdrawn in edition 2, and may be served again since edition 4",
        edition(
            withdrawn=[],
            lessons=[lesson(version=4)],
            reinstated=[{"id": "maths-6e-fractions", "since": 4, "mood": 1}],
        ),
        {"lessons": ["maths-6e-fractions"], "withdrawn": [], "reinstated": ["maths-6e-fractions"], "left_out": 0},
    ),
    "edition-valid-later": (
        "fields of a later edgeshare",
        edition(mood=[1], lessons=[], withdrawn=[{"id": "a", "why": "x", "since": 1, "manifest": b"?", "mood": 1}]),
        {"lessons": [], "withdrawn": ["a"], "reinstated": [], "left_out": 0},
    ),
    "edition-valid-left-out": (
        "entries that are left out: garbage, a stranger's, another level's, a teacher's, a second of one id",
        edition(
            withdrawn=[],
            lessons=[
                b"garbage",
                lesson(SIGN_STRANGER, id="a"),
                lesson(id="b", levels=["5e"]),
                lesson(id="c", role="teacher"),
                lesson(),
                lesson(version=4),
            ],
        ),
        {"lessons": ["maths-6e-fractions"], "withdrawn": [], "reinstated": [], "left_out": 5},
    ),
    "edition-refused-name": ("another catalogue's", edition(name="cned/5e"), None),
    "edition-refused-number": ("another edition", edition(edition=3), None),
    "edition-refused-format-2": ("a later format", edition(format="edgeshare-edition/2"), None),
    "edition-refused-withdrawal": ("a withdrawal without its id", edition(withdrawn=[{"why": "x"}]), None),
    "edition-refused-since": (
        "a withdrawal of a later edition",
        edition(withdrawn=[{"id": "a", "why": "x", "since": 5, "manifest": b""}]),
        None,
    ),
    "edition-refused-why": (
        "a withdrawal whose reason commands a terminal",
        edition(withdrawn=[{"id": "a", "why": "\x1b[2J", "since": 1, "manifest": b""}]),
        None,
    ),
    "edition-refused-reinstated": ("reinstated is no list", edition(reinstated={"id": "a", "since": 4}), None),
    "edition-refused-reinstated-later": (
        "reinstated by a later edition",
        edition(reinstated=[{"id": "a", "since": 5}]),
        None,
    ),
    "edition-refused-reinstated-id": ("reinstated, and no id", edition(reinstated=[{"id": "A", "since": 4}]), None),
    "edition-refused-deep": ("nested 9 deep", edition(mood=nested(8)), None),
    "edition-refused-nan": ("a float that is not a number", edition(mood=float("nan")), None),
    "edition-refused-key-order": ("keys not in order", backwards(edition()), None),
}


def named(*paths: str) -> bytes:
    """The .torrent of files of these names, in which nothing else is wrong."""
    return torrent("noms", {path: path.encode() for path in paths})[0]


def altered(**changes: Any) -> bytes:
    return torrent("maths-6e-fractions", CONTENT, **changes)[0]


ONE = {b"length": 1, b"pieces root": bytes(32)}
PAD = {b"attr": b"p", b"length": BLOCK - 1, b"path": [b".pad", b"16383"]}
V1 = [{b"length": 1, b"path": [b"a"]}, PAD]
# In the order of the bytes of each part; one is not in NFC.
NAMES = ["-rf", "100 %.html", "nai\u0308f.html", "sub/z", "sub.x", "été/à b#1+;=&'().txt", "日本.html"]
LONGEST = ["d/" * 63 + "x", "x" * 255]


def single(leaf: dict[bytes, Any], files: Any = None, count: int = 1, name: bytes = b"a") -> bytes:
    """The .torrent of one file, with this leaf and this v1 list."""
    listed = [{b"length": 1, b"path": [name]}, PAD] if files is None else files
    return altered(file_tree={name: {b"": leaf}}, files=listed, pieces=bytes(20 * count))


TORRENTS: dict[str, tuple[str, bytes, list[str] | None]] = {
    "torrent-valid": ("the lesson beside it", TORRENT, sorted(CONTENT, key=lambda path: path.encode().split(b"/"))),
    "torrent-valid-names": (
        "names that all systems can keep, one of them not in NFC; by the bytes of each part",
        named(*NAMES),
        NAMES,
    ),
    "torrent-valid-longest": ("a part of 255 bytes, 64 parts", named(*LONGEST), LONGEST),
    "torrent-refused-parent": ("`..`", named("../x"), None),
    "torrent-refused-dot": ("`.`", named("a/./x"), None),
    "torrent-refused-empty-part": ("an empty part", named("/etc/passwd"), None),
    "torrent-refused-backslash": ("a backslash", named("a\\x"), None),
    "torrent-refused-drive": ("a drive of Windows", named("C:/x"), None),
    "torrent-refused-nul": ("a NUL", named("a\0.html"), None),
    "torrent-refused-control": ("a control character", named("a\x9b.html"), None),
    "torrent-refused-bidi": ("a mark that turns the reading direction", named("gpj.\u202eexe"), None),
    "torrent-refused-not-utf-8": ("a name that is not UTF-8", single(ONE, name=b"\xff"), None),
    "torrent-refused-device": ("a device of Windows", named("d/aux.txt"), None),
    "torrent-refused-device-digit": ("a device of Windows", named("COM¹"), None),
    "torrent-refused-mark": ("what Windows cannot keep in a name", named("quoi ?.html"), None),
    "torrent-refused-end-dot": ("a dot at the end of a folder's name", named("d./x"), None),
    "torrent-refused-end-blank": ("a blank at the end", named("x "), None),
    "torrent-refused-case": ("two names in one but for their case", named("Index.html", "index.html"), None),
    "torrent-refused-case-folders": ("two folders in one but for their case", named("A/x", "a/y"), None),
    "torrent-refused-case-file-folder": ("a file and a folder in one but for their case", named("A", "a/y"), None),
    "torrent-refused-nfc": ("two names in one but for their form of Unicode", named("caf\u00e9", "cafe\u0301"), None),
    "torrent-refused-folding": ("two names in one in capitals", named("STRASSE", "straße"), None),
    "torrent-refused-long-part": ("a part of 256 bytes", named("x" * 256), None),
    "torrent-refused-long-path": ("a path of 1025 bytes", named("/".join(["d" * 204] * 5) + "x"), None),
    "torrent-refused-65-parts": ("65 parts", named("d/" * 64 + "x"), None),
    "torrent-refused-v1-only": ("no v2", altered(meta_version=..., file_tree=...), None),
    "torrent-refused-piece-length": ("a piece length that is no power of two", altered(piece_length=BLOCK + 1), None),
    "torrent-refused-piece-length-32": ("a piece length of 32 MiB", altered(piece_length=2**25), None),
    "torrent-refused-pieces": ("a hash too many", single(ONE, count=2), None),
    "torrent-refused-more-v1": ("a file that only v1 has", single(ONE, [*V1, {b"length": 0, b"path": [b"b"]}]), None),
    "torrent-refused-less-v1": ("a file that only v2 has", single(ONE, V1[1:]), None),
    "torrent-refused-other-size": ("a file with two sizes", single(ONE | {b"length": 2}), None),
    "torrent-refused-symlink": ("a link", single(ONE | {b"attr": b"l", b"symlink path": [b"..", b"x"]}), None),
    "torrent-refused-executable": ("a program", single(ONE | {b"attr": b"x"}), None),
    "torrent-refused-no-pad": ("no padding after the last file", single(ONE, V1[:1]), None),
    "torrent-refused-no-root": ("a file without its root", single({b"length": 1}), None),
    "torrent-refused-negative": ("a size below 0", single(ONE | {b"length": -1}), None),
    "torrent-refused-empty": ("nothing but an empty file", single({b"length": 0}, [], 0), None),
}


def targets(**changes: Any) -> bytes:
    """A targets role that delegates to three publishers; nobody has signed it, since only what it says is looked at."""
    keys = {
        name: {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": key["public"]}}
        for name, key in (("11" * 32, TRUSTED), ("22" * 32, STRANGER))
    }
    given: list[tuple[str, str, dict[str, Any]]] = [
        ("cned", "11" * 32, {}),
        ("lyon", "22" * 32, {"x-edgeshare": {"prefix": "lyon-"}}),
        ("lyon-sud", "22" * 32, {"x-edgeshare": {"prefix": "lyon-sud-"}}),
    ]
    roles = [
        {
            "name": name,
            "keyids": [key],
            "threshold": 1,
            "terminating": True,
            "paths": [f"catalogue/{name}/*"],
        }
        | more
        for name, key, more in given
    ]
    roles[1] |= {key.removeprefix("role_"): value for key, value in changes.items() if key.startswith("role_")}
    signed = {
        "_type": "targets",
        "spec_version": "1.0.31",
        "version": 1,
        "expires": "2999-01-01T00:00:00Z",
        "targets": {},
        "delegations": {"keys": keys, "roles": roles},
    }
    if "said" in changes:
        signed["x-edgeshare"] = changes["said"]
    return json.dumps({"signatures": [], "signed": signed}, ensure_ascii=False, indent=1).encode() + b"\n"


OWNED = {
    "maths-6e-fractions": "cned",
    "lyon": "cned",
    "lyonnais": "cned",
    "lyon-maths": "lyon",
    "lyon-sud": "lyon",
    "lyon-sud-maths": "lyon-sud",
}
PUBLISHERS: dict[str, tuple[str, bytes, dict[str, Any] | None]] = {
    "publishers-valid": (
        "three publishers; an id is of the one with the longest prefix that it begins with",
        targets(),
        {"owner": OWNED, "revoked": {}, "revoked_keys": []},
    ),
    "publishers-valid-revoked": (
        "one is revoked, and so is a key of another; whose ids are whose stays",
        targets(said={"revoked": {"lyon": "Une clé volée"}, "revoked_keys": [STRANGER["id"]], "mood": 1}),
        {"owner": OWNED, "revoked": {"lyon": "Une clé volée"}, "revoked_keys": [STRANGER["id"]]},
    ),
    "publishers-refused-prefix": ("a prefix that is no text", targets(**{"role_x-edgeshare": {"prefix": 1}}), None),
    "publishers-refused-field": ("a field that is no map", targets(**{"role_x-edgeshare": "lyon-"}), None),
    "publishers-refused-why": ("revoked, and no reason in text", targets(said={"revoked": {"lyon": None}}), None),
    "publishers-refused-key": ("a revoked key that is no hex", targets(said={"revoked_keys": ["a key"]}), None),
}


def bundle(**changes: Any) -> bytes:
    """A bundle's table of contents."""
    lessons = [{"id": "maths-6e-fractions", "info_hash": INFO_HASH}, {"id": "maths-6e-nombres", "info_hash": b"n" * 32}]
    whole = {"format": "edgeshare-bundle/1", "catalogues": ["cned/6e", "cned/6e.teacher"], "lessons": lessons}
    return pack(whole | changes)


BUNDLES: dict[str, tuple[str, bytes, dict[str, Any] | None]] = {
    "bundle-valid": (
        "two catalogues and two lessons",
        bundle(),
        {
            "catalogues": ["cned/6e", "cned/6e.teacher"],
            "lessons": {"maths-6e-fractions": INFO_HASH.hex(), "maths-6e-nombres": (b"n" * 32).hex()},
        },
    ),
    "bundle-valid-empty": ("nothing yet", bundle(catalogues=[], lessons=[]), {"catalogues": [], "lessons": {}}),
    "bundle-refused-format-2": ("a later format", bundle(format="edgeshare-bundle/2"), None),
    "bundle-refused-catalogue": ("a catalogue that leads elsewhere", bundle(catalogues=["../cned"]), None),
    "bundle-refused-id": ("an id that leads elsewhere", bundle(lessons=[{"id": "../a", "info_hash": b"n" * 32}]), None),
    "bundle-refused-hash": ("an info-hash of 31", bundle(lessons=[{"id": "a", "info_hash": b"n" * 31}]), None),
    "bundle-refused-hex": ("an info-hash in hex", bundle(lessons=[{"id": "a", "info_hash": "6e" * 32}]), None),
    "bundle-refused-field": ("no list of lessons", bundle(lessons={}), None),
}


def main(folder: Path) -> None:
    """Write the vectors below `folder`, and `index.json`, which says what to expect of each."""
    index: list[dict[str, Any]] = []
    files = {"maths-6e-fractions.torrent": TORRENT}
    files |= {f"maths-6e-fractions/{path}": raw for path, raw in CONTENT.items()}
    for name, (what, raw) in VALID.items():
        fields = msgpack.unpackb(msgpack.unpackb(raw)["signed"])
        shown = {key: value.hex() if isinstance(value, bytes) else value for key, value in fields.items()}
        shown.pop("mood", None)
        index.append({"file": f"{name}.manifest", "what": what, "expect": "valid", "fields": shown})
        files[f"{name}.manifest"] = raw
    for name, (kind, what, raw) in REFUSED.items():
        index.append({"file": f"{name}.manifest", "what": what, "expect": "refused", "because": kind})
        files[f"{name}.manifest"] = raw
    for name, (what, raw, expected) in EDITIONS.items():
        verdict = {"expect": "valid", **expected} if expected else {"expect": "refused", "because": "manifest"}
        index.append({"file": f"{name}.msgpack", "what": what, "of": ["cned/6e", 4], **verdict})
        files[f"{name}.msgpack"] = raw
    for name, (what, raw, paths) in TORRENTS.items():
        verdict = {"expect": "valid", "files": paths} if paths else {"expect": "refused", "because": "manifest"}
        index.append({"file": f"{name}.torrent", "what": what, **verdict})
        files[f"{name}.torrent"] = raw
    for name, (what, raw, expected) in PUBLISHERS.items():
        verdict = {"expect": "valid", **expected} if expected else {"expect": "refused", "because": "manifest"}
        index.append({"file": f"{name}.json", "what": what, **verdict})
        files[f"{name}.json"] = raw
    for name, (what, raw, expected) in BUNDLES.items():
        verdict = {"expect": "valid", **expected} if expected else {"expect": "refused", "because": "manifest"}
        index.append({"file": f"{name}.msgpack", "what": what, **verdict})
        files[f"{name}.msgpack"] = raw
    whole = {"keys": [TRUSTED, STATE, SMALL], "strangers": [STRANGER], "vectors": index}
    files["index.json"] = json.dumps(whole, ensure_ascii=False, indent=1).encode() + b"\n"
    for path, raw in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(raw)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
