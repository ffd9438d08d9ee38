"""What leaves a library for a stick, and what does not."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest

from edgeshare import host
from edgeshare.admission import Gone
from edgeshare.bundle import outgo
from edgeshare.bundle.choice import LEAST_LEFT, Refused, lesson_of, metadata_of
from edgeshare.bundle.form import Bundle
from edgeshare.bundle.known import Known, known
from edgeshare.bundle.stick import Stick
from edgeshare.errors import LibraryError, TrustError
from edgeshare.manifest import LessonId, read_lesson
from edgeshare.swarm.session import info_of, is_info
from tests.support.publisher import CATALOGUE, lesson_key
from tests.support.sticks import LESSONS, School, bundle, files_of

NOW = datetime.now(UTC)


def table(stick: Path) -> Bundle:
    return Stick(bundle(stick)).table()


def test_a_bundle_holds_the_files_as_they_are_and_all_that_vouches_for_them(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb")
    files = files_of(bundle(tmp_path / "usb"))
    content = school.content("fractions")
    assert files[f"content/{content.hex()}/video.bin"] == LESSONS["fractions"]["video.bin"]
    assert files[f"content/{content.hex()}.numbered/1"] == LESSONS["fractions"]["leçon/énoncé.html"]
    for path, raw in files_of(school.publisher.repository).items():
        if path.startswith("metadata/") and not path.startswith(("metadata/1.snapshot", "metadata/1.cned")):
            assert files[path] == raw, path
        if path.startswith("targets/"):
            assert files[path] == raw, path
    assert is_info(info_of(files[f"torrents/{content.hex()}.torrent"]), content)
    key = lesson_key(school.publisher.keys)
    assert read_lesson(files["manifests/fractions.manifest"], {key.id: key}).info_hash == content
    assert table(tmp_path / "usb") == Bundle((CATALOGUE,), {LessonId(each): school.content(each) for each in LESSONS})


def test_a_torrent_in_a_bundle_has_the_piece_layers_of_the_published_one(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb")
    name = f"torrents/{school.content('fractions').hex()}.torrent"
    assert (bundle(tmp_path / "usb") / name).read_bytes() == (school.publisher.repository / name).read_bytes()


def test_what_is_there_is_not_written_again(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb")
    before = {path: path.stat() for path in bundle(tmp_path / "usb").rglob("*") if path.is_file()}
    school.export(tmp_path / "usb")
    after = {path: path.stat() for path in before}
    assert {path: (each.st_ino, each.st_mtime_ns) for path, each in after.items()} == {
        path: (each.st_ino, each.st_mtime_ns) for path, each in before.items()
    }


@pytest.mark.parametrize("instead", [b"short", bytes(204_800), None])
def test_what_is_there_otherwise_is_written_again(school: School, tmp_path: Path, instead: bytes | None) -> None:
    school.export(tmp_path / "usb")
    file = bundle(tmp_path / "usb") / "content" / school.content("fractions").hex() / "video.bin"
    file.unlink()
    if instead is not None:
        file.write_bytes(instead)
    school.export(tmp_path / "usb")
    assert file.read_bytes() == LESSONS["fractions"]["video.bin"]


def test_what_a_pulled_stick_left_half_written_goes(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb", "angles")
    folder = bundle(tmp_path / "usb")
    for draft in (folder / "unfinished.part", folder / "metadata" / ".timestamp.json.99.part"):
        draft.write_bytes(b"half")
    school.export(tmp_path / "usb", "fractions")
    assert list(folder.rglob("*.part")) == []


def test_a_lessons_own_file_stays_that_is_named_as_what_is_half_written(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb", "angles")
    (content,) = (path for path in (bundle(tmp_path / "usb") / "content").iterdir() if (path / "index.html").exists())
    (content / ".notes.part").write_bytes(b"a pupil's notes")
    school.export(tmp_path / "usb", "fractions")
    assert (content / ".notes.part").exists()


def test_a_second_export_adds_to_the_first(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb", "angles")
    school.export(tmp_path / "usb", "fractions")
    assert table(tmp_path / "usb").lessons.keys() == LESSONS.keys()
    readme = (bundle(tmp_path / "usb") / "README.txt").read_text(encoding="utf-8")
    assert "angles, version 1" in readme
    assert "fractions, version 1" in readme


def test_a_lesson_that_was_altered_here_does_not_leave_and_the_others_do(school: School, tmp_path: Path) -> None:
    content = school.content("fractions").hex()
    video = school.library / "content" / content / "video.bin"
    video.write_bytes(bytes(len(LESSONS["fractions"]["video.bin"])))
    with pytest.raises(Refused, match=r"fractions is not exported: 'video\.bin' was altered here"):
        school.export(tmp_path / "usb", "angles", "fractions")
    assert table(tmp_path / "usb").lessons.keys() == {"angles"}
    assert not (bundle(tmp_path / "usb") / "content" / content / "video.bin").exists()


def test_what_is_no_plain_file_here_does_not_leave(school: School, tmp_path: Path) -> None:
    page = school.library / "content" / school.content("angles").hex() / "index.html"
    page.rename(tmp_path / "elsewhere.html")
    page.symlink_to(tmp_path / "elsewhere.html")
    with pytest.raises(Refused, match="was altered here"):
        school.export(tmp_path / "usb", "angles")


def chosen(here: Known, lesson: str) -> object:
    return lesson_of(here, metadata_of(here, NOW), lesson)


def test_an_unknown_lesson_is_refused_with_the_nearest_name(made: School) -> None:
    with pytest.raises(Refused, match="'fraction' is in no catalogue of this node: did you mean fractions"):
        chosen(known(made.library), "fraction")


def test_a_withdrawn_lesson_is_refused_with_the_reason(made: School) -> None:
    here = known(made.library)
    gone = Gone(id=LessonId("angles"), by=CATALOGUE, why="une erreur", since=1)
    here = attrs.evolve(here, memory=attrs.evolve(here.memory, gone={(gone.id, gone.by): gone}))
    with pytest.raises(Refused, match="angles was withdrawn, 'une erreur'"):
        chosen(here, "angles")


def test_a_lesson_that_is_not_complete_is_refused(made: School) -> None:
    here = known(made.library)
    content = made.content("angles")
    partly = {**here.torrents, content: attrs.evolve(here.torrents[content], stamps=None)}
    with pytest.raises(Refused, match="angles is not complete here in its version 1"):
        chosen(attrs.evolve(here, torrents=partly), "angles")


def test_a_lesson_waits_for_the_edition_that_the_metadata_names(made: School) -> None:
    here = known(made.library)
    other = attrs.evolve(here.catalogues[CATALOGUE], manifest=b"of the edition before")
    with pytest.raises(Refused, match="angles waits for the newest edition of cned/6e"):
        chosen(attrs.evolve(here, catalogues={CATALOGUE: other}), "angles")


def test_metadata_that_is_good_for_less_than_a_week_is_not_handed_on(made: School) -> None:
    here = known(made.library)
    expires = metadata_of(here, NOW).expires
    assert metadata_of(here, expires - LEAST_LEFT).role == "timestamp"
    with pytest.raises(TrustError, match=f"the timestamp metadata expires on {expires:%Y-%m-%d}"):
        metadata_of(here, expires - LEAST_LEFT + timedelta(seconds=1))


def test_a_library_without_metadata_hands_nothing_on() -> None:
    with pytest.raises(TrustError, match="no metadata yet"):
        metadata_of(Known(), NOW)


async def test_a_lesson_that_was_withdrawn_since_goes_from_the_stick(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb")
    content = school.content("angles").hex()
    school.publisher.withdraw("angles", "une erreur")
    school.publisher.release()
    await school.hear()
    assert school.export(tmp_path / "usb", "fractions") == [
        "angles goes from the stick: it was withdrawn, 'une erreur'"
    ]
    assert table(tmp_path / "usb").lessons.keys() == {"fractions"}
    left = files_of(bundle(tmp_path / "usb"))
    assert not [path for path in left if content in path or "angles" in path]
    assert "metadata/2.cned.json" not in left  # of the edition before
    assert "metadata/1.root.json" in left


async def test_a_new_version_takes_the_place_of_the_one_before(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb")
    before = school.content("angles")
    school.publisher.add("angles", {"index.html": b"<h1>Les angles, deux</h1>"})
    school.publisher.release()
    await school.hear()
    school.export(tmp_path / "usb", "angles")
    now = school.content("angles")
    assert table(tmp_path / "usb").lessons == {"angles": now, "fractions": school.content("fractions")}
    assert not (bundle(tmp_path / "usb") / "content" / before.hex()).exists()


async def test_a_stick_with_newer_metadata_is_not_made_older(school: School, tmp_path: Path) -> None:
    newer = school.copy(tmp_path / "newer")
    newer.publisher.refresh()
    await newer.hear()
    newer.export(tmp_path / "usb", "angles")
    before = files_of(bundle(tmp_path / "usb"))
    with pytest.raises(TrustError, match="is newer than this node's"):
        school.export(tmp_path / "usb", "fractions")
    assert files_of(bundle(tmp_path / "usb")) == before


def test_a_bundle_has_one_root_of_trust(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb", "angles")
    other = bundle(tmp_path / "usb") / "metadata" / "1.root.json"
    other.write_bytes(other.read_bytes() + b"\n")
    with pytest.raises(TrustError, match="holds lessons of another repository"):
        school.export(tmp_path / "usb", "fractions")


def test_what_does_not_fit_is_refused_before_anything_is_written(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "usb").mkdir()
    cluster = os.statvfs(tmp_path).f_frsize
    here = known(school.library)
    lesson = lesson_of(here, metadata_of(here, NOW), "fractions")
    with outgo.writing(school.library, tmp_path / "usb") as out:
        needed = out.missing([lesson])
        assert needed % cluster == 0
        assert needed >= sum(map(len, LESSONS["fractions"].values()))
        monkeypatch.setattr(host, "free_space", lambda folder: needed)
        out.require_room([lesson])
        monkeypatch.setattr(host, "free_space", lambda folder: needed - 1)
        with pytest.raises(LibraryError, match=r"has .* free, and .* are needed: export fewer lessons"):
            out.require_room([lesson])
    assert not (bundle(tmp_path / "usb") / "content").exists()


def test_what_is_there_needs_no_room(school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    school.export(tmp_path / "usb")
    monkeypatch.setattr(host, "free_space", lambda folder: 0)
    school.export(tmp_path / "usb")


def test_two_exports_to_one_stick_do_not_meet(school: School, tmp_path: Path) -> None:
    (tmp_path / "usb").mkdir()
    with outgo.writing(school.library, tmp_path / "usb"), pytest.raises(LibraryError, match="another export writes to"):
        school.export(tmp_path / "usb")


def test_a_folder_that_is_not_there_is_no_stick(school: School, tmp_path: Path) -> None:
    with (
        pytest.raises(LibraryError, match="is not there: name the folder that the stick is mounted at"),
        outgo.writing(school.library, tmp_path / "nowhere"),
    ):
        pass


def test_what_is_no_bundle_is_left_alone(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb")
    (bundle(tmp_path / "usb") / "bundle.msgpack").write_bytes(b"something else")
    with pytest.raises(LibraryError, match="holds something else"):
        school.export(tmp_path / "usb")


def as_it_is(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Everything below a folder, and the folder: anything written or removed shows in it."""
    found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (status.st_mode, status.st_ino, status.st_mtime_ns) for path, status in found.items()}


BUNDLE_FOLDERS = ("content", "manifests", "metadata", "targets", "torrents")
BUNDLE_FILES = (".lock", "README.txt", "bundle.msgpack", "unfinished.part")


@pytest.mark.parametrize("is_dangling", [False, True])
@pytest.mark.parametrize(
    "place",
    [
        "",
        *BUNDLE_FOLDERS,
        *BUNDLE_FILES,
        "targets/catalogue",
        "metadata/timestamp.json",
        "metadata/.timestamp.json.99.part",
        "content/{video}",
        "content/{video}/video.bin",
        "content/{video}/of somebody",
    ],
)
def test_a_stick_with_a_link_in_it_is_refused_before_anything_is_written_or_removed(
    school: School, tmp_path: Path, place: str, is_dangling: bool
) -> None:
    school.export(tmp_path / "usb")
    link = bundle(tmp_path / "usb") / place.format(video=school.content("fractions").hex())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if link.exists():
        link.rename(elsewhere / "there")
        if link.name == "manifests":
            (elsewhere / "there" / "precious.txt").write_text("somebody's")
    elif not is_dangling:
        (elsewhere / "there").write_text("somebody's")
    link.symlink_to(elsewhere / ("nowhere" if is_dangling else "there"))
    before = as_it_is(tmp_path / "usb"), as_it_is(elsewhere)
    with pytest.raises(LibraryError) as refused:
        school.export(tmp_path / "usb")
    assert str(refused.value) == f"{link} is a link, where no export put one: remove it, or name another folder"
    assert (as_it_is(tmp_path / "usb"), as_it_is(elsewhere)) == before


@pytest.mark.parametrize("is_pipe", [False, True])
@pytest.mark.parametrize(
    ("place", "instead"),
    [
        ("", "a file"),
        *((folder, "a file") for folder in (*BUNDLE_FOLDERS, "targets/catalogue", "content/{video}")),
        *((file, "a folder") for file in (*BUNDLE_FILES, "metadata/timestamp.json", "content/{video}/video.bin")),
    ],
)
def test_what_stands_in_anothers_place_on_a_stick_is_named_before_anything_is_removed(
    school: School, tmp_path: Path, place: str, instead: str, is_pipe: bool
) -> None:
    school.export(tmp_path / "usb")
    path = bundle(tmp_path / "usb") / place.format(video=school.content("fractions").hex())
    if path.exists():
        path.rename(tmp_path / "as it was")
    if is_pipe:
        os.mkfifo(path)
    elif instead == "a file":
        path.write_bytes(b"somebody's")
    else:
        path.mkdir()
    kind = "a device or pipe" if is_pipe else instead
    before = files_of(tmp_path / "usb")
    with pytest.raises(LibraryError) as refused:
        school.export(tmp_path / "usb")
    assert str(refused.value) == f"{path} is {kind}, where no export put one: remove it, or name another folder"
    assert files_of(tmp_path / "usb") == before


def test_a_link_whose_name_has_more_lines_is_named_in_one(school: School, tmp_path: Path) -> None:
    bundle(tmp_path / "usb").mkdir(parents=True)
    (bundle(tmp_path / "usb") / "a\nb").symlink_to(tmp_path)
    with pytest.raises(LibraryError, match=r"^'.*/edgeshare-lessons/a\\nb' is a link, where no export put one"):
        school.export(tmp_path / "usb")


def test_a_link_that_comes_while_an_export_is_at_work_does_not_lead_removal_elsewhere(
    school: School, tmp_path: Path
) -> None:
    school.export(tmp_path / "usb")
    manifests = bundle(tmp_path / "usb") / "manifests"
    with outgo.writing(school.library, tmp_path / "usb") as out:
        manifests.rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "precious.txt").write_text("somebody's")
        manifests.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(LibraryError, match="manifests is a link, where no export put one"):
            out.finish(known(school.library))
    assert (tmp_path / "elsewhere" / "precious.txt").exists()


def test_where_a_stick_is_mounted_may_be_named_by_a_link(school: School, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "usb").symlink_to(tmp_path / "media")
    school.export(tmp_path / "usb")
    assert table(tmp_path / "media").lessons.keys() == LESSONS.keys()


def test_a_library_that_is_gone_says_so(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "nothing", ignore_errors=True)
    with pytest.raises(LibraryError, match="is not a node's library"):
        known(tmp_path / "nothing")
