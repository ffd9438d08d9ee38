from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.canonical import pack, unpack
from edgeshare.errors import ManifestError, TrustError
from edgeshare.manifest import (
    MAX_MANIFEST,
    MAX_SIZE,
    CatalogueManifest,
    InfoHash,
    LessonId,
    LessonManifest,
    SignedFile,
    encode,
    lesson_id,
    read_catalogue,
    read_lesson,
    read_lessons,
    recall_lesson,
    shown,
    structure,
)
from edgeshare.signing import PublicKey
from tests.core.samples import (
    CATALOGUE,
    CATALOGUE_FORMAT,
    KEYS,
    LESSON,
    LESSON_FORMAT,
    catalogue,
    lesson,
    sign,
    sign_fields,
    signed_file,
    values,
)

codes = st.lists(st.from_regex(r"[a-z0-9]{1,9}(-[a-z0-9]{1,9})?", fullmatch=True), min_size=1, max_size=4, unique=True)
words = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
moments = st.datetimes(
    datetime(2000, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2999, 12, 30),  # noqa: DTZ001
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
hashes = st.binary(min_size=32, max_size=32).map(InfoHash)
lessons = st.builds(
    LessonManifest,
    id=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True).map(LessonId),
    version=st.integers(1, 2**31),
    title=words,
    language=st.sampled_from(["fr", "en", "fr-FR", "oc-lengadoc"]),
    levels=codes.map(tuple),
    subjects=codes.map(tuple),
    description=st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=100),
    licence=words,
    start=st.sampled_from(["index.html", "é/à b.html"]),
    role=st.sampled_from(["learner", "teacher"]),
    publisher=st.just("cned"),
    info_hash=hashes,
    size=st.integers(1, MAX_SIZE),
    files=st.integers(1, 20_000),
    audience=st.none() | st.integers(1, 10**9),
    available_from=st.none() | moments,
    needed_at=st.none() | moments,
    expires=st.none() | moments,
    fetch_from=st.none() | moments,
)


def refusal(raw: bytes) -> str:
    """Why `raw` is refused as a lesson manifest."""
    with pytest.raises(ManifestError) as caught:
        read_lesson(raw, KEYS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(lessons)
def test_a_lesson_manifest_is_read_as_it_was_signed(manifest: LessonManifest) -> None:
    assert read_lesson(signed_file(manifest), KEYS) == manifest


def test_a_catalogue_manifest_is_read_as_it_was_signed() -> None:
    manifest = catalogue(trackers=["udp://t.example.fr:6969"], origins=["https://lecons.example.fr/"])
    assert read_catalogue(signed_file(manifest), KEYS) == manifest


@given(st.binary(max_size=400))
def test_any_bytes_are_a_manifest_or_refused(raw: bytes) -> None:
    with contextlib.suppress(ManifestError, TrustError):
        read_lesson(raw, KEYS)


@given(values)
def test_any_signed_value_is_a_manifest_or_refused(value: object) -> None:
    for read, form in ((read_lesson, LESSON_FORMAT), (read_catalogue, CATALOGUE_FORMAT)):
        with contextlib.suppress(ManifestError):
            read(sign_fields(form, value), KEYS)


@given(st.sampled_from(sorted(LESSON)), values)
def test_any_value_of_any_field_is_taken_or_refused(field: str, value: object) -> None:
    with contextlib.suppress(ManifestError):
        read_lesson(sign_fields(LESSON_FORMAT, LESSON | {field: value}), KEYS)


@given(st.data())
def test_one_altered_byte_is_never_another_manifest(data: st.DataObject) -> None:
    raw = bytearray(signed_file(lesson()))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises((ManifestError, TrustError)):
        read_lesson(bytes(raw), KEYS)


def test_every_truncation_is_refused() -> None:
    raw = signed_file(lesson())
    for stop in range(len(raw)):
        with pytest.raises(ManifestError):
            read_lesson(raw[:stop], KEYS)


def test_bytes_past_the_cap_are_not_even_decoded() -> None:
    assert f"at most {MAX_MANIFEST} are read" in refusal(b"\xc1" * (MAX_MANIFEST + 1))


def test_nobody_known_has_signed() -> None:
    with pytest.raises(TrustError, match="no key that the repository vouches for"):
        read_lesson(signed_file(lesson()), {})


def test_a_stranger_has_signed() -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    with pytest.raises(TrustError):
        read_lesson(sign(LESSON_FORMAT, encode(lesson()), stranger), KEYS)


def test_a_catalogue_is_no_lesson() -> None:
    assert "not edgeshare-lesson/1" in refusal(signed_file(catalogue()))


def test_what_was_signed_as_a_catalogue_is_no_lesson_under_that_name() -> None:
    file = SignedFile.parse(sign(CATALOGUE_FORMAT, encode(lesson())))
    with pytest.raises(TrustError):
        read_lesson(attrs.evolve(file, format=LESSON_FORMAT).encode(), KEYS)


def test_a_format_of_a_later_version_asks_for_a_newer_edgeshare() -> None:
    assert "a newer edgeshare reads it" in refusal(sign_fields("edgeshare-lesson/2", LESSON))


def test_signatures_are_checked_before_what_they_sign_is_decoded() -> None:
    with pytest.raises(TrustError):
        read_lesson(sign(LESSON_FORMAT, b"\xc1"), {})
    assert "not strict msgpack" in refusal(sign(LESSON_FORMAT, b"\xc1"))


def test_a_file_has_at_most_16_signatures() -> None:
    file = SignedFile.parse(signed_file(lesson()))
    assert read_lesson(attrs.evolve(file, signatures=file.signatures * 16).encode(), KEYS) == lesson()
    assert "more than 16" in refusal(attrs.evolve(file, signatures=file.signatures * 17).encode())


@pytest.mark.parametrize(
    "whole",
    [
        {},
        [],
        b"",
        {"format": LESSON_FORMAT, "signed": b"", "signatures": {}},
        {"format": LESSON_FORMAT, "signed": "", "signatures": []},
        {"format": b"", "signed": b"", "signatures": []},
        {"format": LESSON_FORMAT, "signed": b"", "signatures": [], "more": 1},
        {"format": LESSON_FORMAT, "signed": b"", "signatures": [{"key": b"", "scheme": "", "signature": ""}]},
        {"format": LESSON_FORMAT, "signed": b"", "signatures": [b""]},
    ],
    ids=range(9),
)
def test_an_envelope_has_its_three_fields_and_no_others(whole: object) -> None:
    assert "manifest" in refusal(pack(whole))


@pytest.mark.parametrize("fields", [5, "id", b"", [], True])
def test_a_manifest_is_a_map_of_fields(fields: object) -> None:
    assert "not a map of fields" in refusal(sign_fields(LESSON_FORMAT, fields))
    with pytest.raises(ManifestError, match="not a map of fields"):
        structure(fields, CatalogueManifest)


def test_a_field_that_is_unknown_is_ignored() -> None:
    assert read_lesson(sign_fields(LESSON_FORMAT, LESSON | {"mood": [1, {"a": b""}]}), KEYS) == lesson()


def test_a_field_that_is_unknown_and_critical_is_not_ignored() -> None:
    fields = LESSON | {"mood": 1, "critical": ["title", "mood"]}
    assert "needs the field 'mood'" in refusal(sign_fields(LESSON_FORMAT, fields))


def test_a_field_that_is_known_may_be_critical() -> None:
    assert read_lesson(sign_fields(LESSON_FORMAT, LESSON | {"critical": ["title"]}), KEYS) == lesson()


@pytest.mark.parametrize("critical", ["mood", [1], {"mood": 1}, True, 0])
def test_the_list_of_critical_fields_is_one_of_names(critical: object) -> None:
    assert "critical" in refusal(sign_fields(LESSON_FORMAT, LESSON | {"critical": critical}))


@pytest.mark.parametrize("field", sorted(set(LESSON) - {"role"}))
def test_a_field_that_is_needed_is_missed_by_its_name(field: str) -> None:
    fields = {key: value for key, value in LESSON.items() if key != field}
    assert f"{field} is missing" in refusal(sign_fields(LESSON_FORMAT, fields))


def at_and_past(field: str, at: object, past: object) -> Any:
    return pytest.param(field, at, past, id=f"{field}-{str(past)[:12]}")


@pytest.mark.parametrize(
    ("field", "at", "past"),
    [
        at_and_past("id", "x" * 63, "x" * 64),
        at_and_past("version", 2**31, 2**31 + 1),
        at_and_past("version", 1, 0),
        at_and_past("title", "€" * 200, "€" * 201),
        at_and_past("title", "€", ""),
        at_and_past("description", "€" * 2000, "€" * 2001),
        at_and_past("licence", "€" * 100, "€" * 101),
        at_and_past("levels", [f"l{n}" for n in range(32)], [f"l{n}" for n in range(33)]),
        at_and_past("levels", ["6e"], []),
        at_and_past("subjects", ["x" * 63], ["x" * 64]),
        at_and_past("start", "é" * 127, "é" * 128),
        at_and_past("size", 2**44, 2**44 + 1),
        at_and_past("size", 1, 0),
        at_and_past("files", 20_000, 20_001),
        at_and_past("files", 1, 0),
        at_and_past("audience", 10**9, 10**9 + 1),
        at_and_past("audience", 1, 0),
        at_and_past("info_hash", bytes(32), bytes(33)),
        at_and_past("expires", "2999-12-31T23:59:59+00:00", "3000-01-01T00:00:00+00:00"),
        at_and_past("expires", "2000-01-01T00:00:00+00:00", "1999-12-31T23:59:59+00:00"),
    ],
)
def test_a_field_is_taken_at_its_limit_and_refused_past_it(field: str, at: object, past: object) -> None:
    read_lesson(sign_fields(LESSON_FORMAT, LESSON | {field: at}), KEYS)
    assert field in refusal(sign_fields(LESSON_FORMAT, LESSON | {field: past})).replace("is not a lesson id", "id")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", True),
        ("version", "1"),
        ("version", -1),
        ("version", 2**63),
        ("size", False),
        ("audience", True),
        ("title", b"x"),
        ("title", ["x"]),
        ("title", "a\x1b[31mb"),
        ("title", "a\nb"),
        ("licence", "a\0"),
        ("description", "a\x07"),
        ("levels", "6e"),
        ("levels", ["6e", "6e"]),
        ("levels", ["6E"]),
        ("levels", [6]),
        ("levels", {"6e": 1}),
        ("language", "f"),
        ("language", "fr_FR"),
        ("start", "../index.html"),
        ("start", "/index.html"),
        ("start", ""),
        ("role", "pupil"),
        ("publisher", "CNED"),
        ("publisher", "a/b"),
        ("info_hash", bytes(31)),
        ("info_hash", "00" * 16),
        ("needed_at", "2026-11-24T08:00:00"),
        ("needed_at", "2026-11-24T08:00:00Z"),
        ("needed_at", "2026-11-24 08:00:00+01:00"),
        ("needed_at", "20261124T080000+0100"),
        ("needed_at", "2026-11-24T08:00+01:00"),
        ("needed_at", "2026-11-24T08:00:00+01:00:30"),
        ("needed_at", "tomorrow"),
        ("needed_at", 1795503600),
        ("needed_at", "9999-12-31T23:59:59-12:00"),
        ("needed_at", "0001-01-01T00:00:00+12:00"),
    ],
)
def test_a_field_that_is_not_what_it_must_be_is_refused_by_its_name(field: str, value: object) -> None:
    assert field in refusal(sign_fields(LESSON_FORMAT, LESSON | {field: value}))


def test_a_description_may_have_lines() -> None:
    assert lesson(description="a\n\tb").description == "a\n\tb"


@pytest.mark.parametrize("text", ["a", "0", "a-b", "a--b", "x" * 63])
def test_a_lesson_id_is_a_dns_label_in_lower_case(text: str) -> None:
    assert lesson_id(text) == text


@pytest.mark.parametrize("text", ["", "A", "a_b", "a.b", "-a", "a-", "é", "a\n", "a/b", "..", "x" * 64])
def test_what_is_no_dns_label_is_no_lesson_id(text: str) -> None:
    with pytest.raises(ManifestError, match="is not a lesson id"):
        lesson_id(text)


def test_a_lesson_belongs_into_the_catalogues_of_its_levels() -> None:
    assert lesson(levels=["6e", "5e"]).catalogues == ("cned/6e", "cned/5e")


def test_a_teachers_lesson_is_kept_out_of_the_pupils_catalogues() -> None:
    assert lesson(levels=["6e", "5e"], role="teacher").catalogues == ("cned/6e.teacher", "cned/5e.teacher")


@pytest.mark.parametrize(
    ("field", "at", "past"),
    [
        at_and_past("name", "cned/6e.teacher", "cned/6e.pupil"),
        at_and_past("name", "ac-paris/1re-gen", "cned/6e/x"),
        at_and_past("name", "cned/6e", "../6e"),
        at_and_past("edition", 2**31, 2**31 + 1),
        at_and_past("edition", 1, 0),
        at_and_past("size", 2**26, 2**26 + 1),
        at_and_past("info_hash", bytes(32), b""),
        at_and_past("issued", "2026-09-01T08:00:00+00:00", "2026-09-01T08:00:00"),
        at_and_past("trackers", ["udp://t:1"] * 32, ["udp://t:1"] * 33),
        at_and_past("trackers", ["http://t/" + "x" * 488], ["http://t/" + "x" * 489]),
        at_and_past("trackers", ["https://t/a"], ["wss://t/a"]),
        at_and_past("origins", ["https://o/"] * 32, ["https://o/"] * 33),
        at_and_past("origins", ["http://o/"], ["udp://o/"]),
        at_and_past("origins", ["https://o/%20"], ["https://o/ "]),
        at_and_past("origins", ["https://o"], ["https:///o"]),
        at_and_past("origins", [], ["file:///etc/passwd"]),
        at_and_past("origins", ["https://[::1]/"], ["https://é/"]),
    ],
)
def test_a_catalogues_field_is_taken_at_its_limit_and_refused_past_it(field: str, at: object, past: object) -> None:
    read_catalogue(sign_fields(CATALOGUE_FORMAT, CATALOGUE | {field: at}), KEYS)
    with pytest.raises(ManifestError) as caught:
        read_catalogue(sign_fields(CATALOGUE_FORMAT, CATALOGUE | {field: past}), KEYS)
    assert field in str(caught.value).replace("is not a catalogue's name", "name")


def test_the_largest_manifest_that_can_be_made_can_be_read() -> None:
    largest = lesson(
        title="\U0001f600" * 200,
        description="\U0001f600" * 2000,
        levels=[f"{n:02}" + "x" * 61 for n in range(32)],
        subjects=[f"{n:02}" + "x" * 61 for n in range(32)],
        start="/".join(["d" * 200] * 5),
    )
    assert read_lesson(signed_file(largest), KEYS) == largest
    urls = ["http://t/" + "x" * 488] * 32
    assert read_catalogue(signed_file(catalogue(trackers=urls, origins=urls)), KEYS).trackers == tuple(urls)


def test_a_manifest_made_of_wrong_values_is_a_bug_and_no_refusal() -> None:
    with pytest.raises(ValueError, match="version"):
        attrs.evolve(lesson(), version=0)


@pytest.mark.parametrize("count", [0, 1, 100, 101, 350])
def test_many_entries_are_read_each_as_if_alone_and_in_their_order(count: int) -> None:
    good = [lesson(id=f"lesson-{number}") for number in range(count)]
    entries: list[object] = [signed_file(each) for each in good]
    for place in range(0, count, 7):
        entries[place] = 5 if place % 2 else signed_file(catalogue())
    found = read_lessons(entries, KEYS)
    assert [each for each in found if isinstance(each, LessonManifest)] == [
        each for place, each in enumerate(good) if place % 7
    ]
    refused = [str(each) for each in found if isinstance(each, ManifestError)]
    assert refused == [
        "it is not the bytes of a manifest" if place % 2 else refusal(signed_file(catalogue()))
        for place in range(0, count, 7)
    ]
    assert len(found) == count


@given(lessons)
def test_a_lesson_that_was_read_before_is_recalled_as_it_was_read(manifest: LessonManifest) -> None:
    raw = signed_file(manifest)
    assert recall_lesson(raw) == read_lesson(raw, KEYS) == manifest


def test_a_field_of_a_newer_edgeshare_is_ignored_also_where_a_lesson_is_recalled() -> None:
    raw = sign_fields(LESSON_FORMAT, LESSON | {"mood": "cheerful", "needed_at": "2026-12-01T08:00:00+01:00"})
    assert recall_lesson(raw) == read_lesson(raw, KEYS)


def test_what_many_lessons_say_alike_is_kept_once() -> None:
    raws = [signed_file(lesson(id=name, licence="CC-BY-4.0", levels=["6e", "5e"])) for name in "abc"]
    found = [read_lesson(raws[0], KEYS), read_lesson(raws[1], KEYS), recall_lesson(raws[2])]
    for field in ("licence", "language", "start", "publisher", "levels", "subjects", "catalogues"):
        assert len({id(getattr(each, field)) for each in found}) == 1


def test_foreign_text_is_shown_short_and_harmless() -> None:
    assert shown("abc") == "'abc'"
    assert shown("a\x1b[31m\u202e") == r"'a\x1b[31m\u202e'"
    assert len(shown("x" * 1000)) < 100


def test_an_encoded_manifest_leaves_out_what_is_not_known() -> None:
    assert set(unpack(encode(lesson()), MAX_MANIFEST, "it")) == set(LESSON)


def test_a_key_that_cannot_be_used_vouches_for_nothing() -> None:
    small = PublicKey("ed25519", bytes(32))
    with pytest.raises(TrustError):
        read_lesson(signed_file(lesson()), {small.id: small})
