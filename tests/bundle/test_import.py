"""What comes from a stick, and what does not: nothing on it is believed."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from edgeshare import host
from edgeshare.bundle.form import Place
from edgeshare.bundle.intake import Bounds, Fate, incoming
from edgeshare.bundle.stick import Gone, Stick
from edgeshare.errors import LibraryError, ManifestError
from edgeshare.hashtree import FileHasher
from edgeshare.layout import FileEntry
from edgeshare.manifest import InfoHash
from edgeshare.publish.torrent import with_layers
from edgeshare.view import State
from tests.support.content import PIECE, content
from tests.support.publisher import Publisher, now
from tests.support.sticks import LESSONS, School, alone, bundle, copied, files_of

COPIED = dict.fromkeys(LESSONS, Fate.COPIED)


@pytest.fixture(scope="session")
def full(made: School) -> Path:
    """A stick with both lessons; only looked at."""
    made.export(made.folder / "usb")
    return made.folder / "usb"


@pytest.fixture
def stick(full: Path, tmp_path: Path) -> Path:
    """The same for one test, to be altered."""
    shutil.copytree(full, tmp_path / "usb")
    return tmp_path / "usb"


def video(stick: Path, made: School) -> Path:
    return bundle(stick) / "content" / made.content("fractions").hex() / "video.bin"


async def fates(stick: Path, made: School, library: Path, bounds: Bounds | None = None) -> dict[str, Fate]:
    _, outcomes = await copied(stick, library, made.root, bounds=bounds)
    return {lesson: outcome.fate for lesson, outcome in outcomes.items()}


async def test_what_is_copied_is_what_was_published(made: School, full: Path, tmp_path: Path) -> None:
    assert await fates(full, made, tmp_path / "home") == COPIED
    folder = tmp_path / "home" / "incoming" / "content" / made.content("fractions").hex()
    assert files_of(folder) == LESSONS["fractions"]


async def test_files_in_parts_are_put_together(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "usb", part=65_536)
    content = school.content("fractions").hex()
    parts = sorted(path.name for path in (bundle(tmp_path / "usb") / "content" / f"{content}.numbered").iterdir())
    assert parts == ["1", "3.part1", "3.part2", "3.part3", "3.part4"]
    assert await fates(tmp_path / "usb", school, tmp_path / "home") == COPIED
    assert files_of(tmp_path / "home" / "incoming" / "content" / content) == LESSONS["fractions"]


async def test_nothing_on_a_stick_of_another_repository_is_taken(
    made: School, full: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Publisher(tmp_path_factory.mktemp("other"))
    other.begin()
    seen, outcomes = await copied(full, tmp_path / "home", other.root.read_bytes())
    assert seen.trouble is not None
    assert "too few of the keys that count have signed it" in seen.trouble
    assert {each.fate for each in outcomes.values()} == {Fate.REFUSED}
    assert not (tmp_path / "home" / "incoming" / "content").exists()


async def test_a_library_that_trusts_nobody_asks_for_the_config(full: Path, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="trusts nobody yet: name the node's config"):
        await copied(full, tmp_path / "home", None, None)


async def test_a_library_that_has_heard_of_the_repository_needs_no_config(school: School, full: Path) -> None:
    shutil.rmtree(school.library / "content")
    _, outcomes = await copied(full, school.library, None, None)
    assert {each.fate for each in outcomes.values()} == {Fate.HERE}  # by its index; its daemon finds the loss


async def test_lessons_of_catalogues_that_the_node_does_not_show_are_left(
    made: School, full: Path, tmp_path: Path
) -> None:
    _, outcomes = await copied(full, tmp_path / "home", made.root, ("cned/5e",))
    assert {each.fate for each in outcomes.values()} == {Fate.SKIPPED}
    assert {each.reason for each in outcomes.values()} == {"no catalogue of this node lists it"}


@pytest.mark.parametrize("name", ["video.bin", "index.html"])
async def test_one_altered_bit_refuses_that_lesson_and_no_other(
    made: School, stick: Path, tmp_path: Path, name: str
) -> None:
    file = video(stick, made).with_name(name)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    _, outcomes = await copied(stick, tmp_path / "home", made.root)
    assert {lesson: each.fate for lesson, each in outcomes.items()} == {
        "angles": Fate.COPIED,
        "fractions": Fate.REFUSED,
    }
    assert outcomes["fractions"].reason == f"'{name}' is not as it was published: export the lesson again"
    assert not (tmp_path / "home" / "incoming" / "content" / made.content("fractions").hex()).exists()


async def test_a_node_follows_the_roots_on_a_stick_from_its_own_one_on(school: School, tmp_path: Path) -> None:
    first = school.root
    for _ in range(2):
        school.publisher.rotate("timestamp")
    await school.hear()
    school.export(tmp_path / "usb")
    roots = sorted(path.name for path in (bundle(tmp_path / "usb") / "metadata").glob("*.root.json"))
    assert roots == ["1.root.json", "2.root.json", "3.root.json"]
    _, outcomes = await copied(tmp_path / "usb", tmp_path / "home", first)
    assert {each.fate for each in outcomes.values()} == {Fate.COPIED}


def test_a_torrent_whose_hashes_for_older_clients_are_of_something_else_is_refused() -> None:
    thing = content({"a.bin": b"a" * 40_000})
    other = FileHasher(PIECE)
    other.update(b"b" * 40_000)
    with pytest.raises(ManifestError, match="v1 and v2 hashes contradict each other"):
        with_layers(thing.info, thing.layout, [other.finish("a.bin")])


async def test_a_file_that_is_longer_or_shorter_is_refused(made: School, stick: Path, tmp_path: Path) -> None:
    with video(stick, made).open("r+b") as file:
        file.truncate(1000)
    assert (await fates(stick, made, tmp_path / "home"))["fractions"] is Fate.REFUSED


@pytest.mark.parametrize("kind", ["link", "fifo", "device", "folder", "missing"])
async def test_what_is_no_plain_file_is_refused_by_name_and_never_waited_for(
    made: School, stick: Path, tmp_path: Path, kind: str
) -> None:
    file = video(stick, made)
    file.rename(tmp_path / "video.bin")
    match kind:
        case "link":
            file.symlink_to(tmp_path / "video.bin")
        case "fifo":
            os.mkfifo(file)
        case "device":
            if os.geteuid() != 0:
                pytest.skip("a device takes root")
            os.mknod(file, 0o644 | 0o020000, os.makedev(1, 5))  # /dev/zero
        case "folder":
            file.mkdir()
    _, outcomes = await copied(stick, tmp_path / "home", made.root)
    assert outcomes["angles"].fate is Fate.COPIED
    assert outcomes["fractions"].reason == (
        "'video.bin' is not in the bundle, or is no plain file: export the lesson again"
    )


async def test_a_folder_that_is_a_link_is_not_followed(made: School, stick: Path, tmp_path: Path) -> None:
    folder = video(stick, made).parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert (await fates(stick, made, tmp_path / "home"))["fractions"] is Fate.REFUSED


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "1.targets.json"])
async def test_contents_without_their_metadata_are_not_taken(
    made: School, stick: Path, tmp_path: Path, name: str
) -> None:
    (bundle(stick) / "metadata" / name).unlink()
    seen, outcomes = await copied(stick, tmp_path / "home", made.root)
    assert seen.trouble is not None
    assert {each.fate for each in outcomes.values()} == {Fate.REFUSED}
    assert not (tmp_path / "home" / "incoming" / "content").exists()


@pytest.mark.parametrize("raw", [b"", b"<html>", bytes(20_000)])
async def test_metadata_that_is_none_is_refused(made: School, stick: Path, tmp_path: Path, raw: bytes) -> None:
    (bundle(stick) / "metadata" / "timestamp.json").write_bytes(raw)
    seen, _ = await copied(stick, tmp_path / "home", made.root)
    assert seen.trouble is not None
    assert "metadata/timestamp.json of" in seen.trouble


async def test_a_torrent_of_another_content_is_refused(made: School, stick: Path, tmp_path: Path) -> None:
    torrents = bundle(stick) / "torrents"
    other = torrents / f"{made.content('angles').hex()}.torrent"
    shutil.copy(other, torrents / f"{made.content('fractions').hex()}.torrent")
    _, outcomes = await copied(stick, tmp_path / "home", made.root)
    assert outcomes["fractions"].fate is Fate.REFUSED
    assert outcomes["angles"].fate is Fate.COPIED


async def test_a_torrent_that_is_endless_is_not_read_to_its_end(made: School, stick: Path, tmp_path: Path) -> None:
    file = bundle(stick) / "torrents" / f"{made.content('fractions').hex()}.torrent"
    with file.open("r+b") as opened:
        opened.truncate(2**40)
    assert (await fates(stick, made, tmp_path / "home"))["fractions"] is Fate.REFUSED


async def test_copying_goes_on_in_the_middle_of_a_file(
    made: School, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home" / "incoming" / "content" / made.content("fractions").hex()
    folder.mkdir(parents=True)
    (folder / "video.bin").write_bytes(LESSONS["fractions"]["video.bin"][:100_000])
    starts: dict[str, int] = {}
    portions = Stick.portions

    def watched(stick: Stick, info_hash: InfoHash, number: int, entry: FileEntry, start: int = 0) -> Iterator[bytes]:
        starts[entry.path] = start
        return portions(stick, info_hash, number, entry, start)

    monkeypatch.setattr(Stick, "portions", watched)
    assert await fates(full, made, tmp_path / "home") == COPIED
    assert starts["video.bin"] == 100_000
    assert files_of(folder) == LESSONS["fractions"]


async def test_a_beginning_that_was_torn_is_copied_anew(made: School, full: Path, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "incoming" / "content" / made.content("fractions").hex()
    folder.mkdir(parents=True)
    (folder / "video.bin").write_bytes(bytes(100_000))
    assert await fates(full, made, tmp_path / "home") == COPIED
    assert files_of(folder) == LESSONS["fractions"]


async def test_what_was_copied_is_kept_when_the_stick_is_pulled(
    made: School, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portions = Stick.portions

    def pulled(stick: Stick, info_hash: InfoHash, number: int, entry: FileEntry, start: int = 0) -> Iterator[bytes]:
        for portion in portions(stick, info_hash, number, entry, start):
            yield portion[:1000]
            if entry.path == "video.bin":
                raise Gone(stick.root, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Stick, "portions", pulled)
        with pytest.raises(Gone, match=r"went away \(Input/output error\): put it in again and run the same command"):
            await copied(full, tmp_path / "home", made.root)
    part = tmp_path / "home" / "incoming" / "content" / made.content("fractions").hex() / "video.bin"
    assert part.read_bytes() == LESSONS["fractions"]["video.bin"][:1000]
    assert await fates(full, made, tmp_path / "home") == COPIED


class Unplugged(io.FileIO):
    """A file whose file system is gone when it is closed."""

    def close(self) -> None:
        super().close()
        if self.name.endswith("video.bin"):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")


async def test_a_stick_that_is_pulled_when_a_file_is_closed_is_not_taken_for_a_full_disk(
    made: School, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "open_beneath", lambda folder, parts: Unplugged(str(folder.joinpath(*parts))))
    with pytest.raises(Gone, match="went away"):
        await copied(full, tmp_path / "home", made.root)


async def test_a_stick_that_vanishes_is_told_from_a_file_that_is_missing(
    made: School, stick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Stick.read

    def pulled(opened: Stick, place: Place, most: int) -> bytes:
        if place[0] == "torrents" and made.content("angles").hex() in place[1]:
            stick.rename(tmp_path / "pulled")
        return read(opened, place, most)

    monkeypatch.setattr(Stick, "read", pulled)
    with pytest.raises(Gone, match="went away"):
        await copied(stick, tmp_path / "home", made.root)


async def test_a_lesson_larger_than_the_quota_is_refused_with_both_sizes(
    made: School, full: Path, tmp_path: Path
) -> None:
    size = sum(map(len, LESSONS["fractions"].values()))
    assert await fates(full, made, tmp_path / "home", Bounds(quota=size)) == COPIED
    _, outcomes = await copied(full, tmp_path / "other", made.root, bounds=Bounds(quota=size - 1))
    reason = outcomes["fractions"].reason
    assert reason
    assert reason.startswith("fractions needs 200")
    assert reason.endswith("raise `quota` in the config")
    assert outcomes["angles"].fate is Fate.COPIED


async def test_the_disk_keeps_the_room_that_the_config_names(
    made: School, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(map(len, LESSONS["fractions"].values()))
    monkeypatch.setattr(host, "free_space", lambda folder: 5000 + size)
    assert (await fates(full, made, tmp_path / "home", Bounds(keep_free=5001)))["fractions"] is Fate.REFUSED
    assert (await fates(full, made, tmp_path / "home", Bounds(keep_free=5000)))["fractions"] is Fate.COPIED


async def test_two_imports_into_one_library_do_not_meet(made: School, full: Path, tmp_path: Path) -> None:
    with incoming(tmp_path / "home"), pytest.raises(LibraryError, match="another import into"):
        await copied(full, tmp_path / "home", made.root)


async def test_a_folder_without_a_bundle_is_named(made: School, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="is no bundle of lessons: name the folder that `edgeshare export`"):
        await copied(tmp_path, tmp_path / "home", made.root)


async def test_of_two_sticks_the_newer_metadata_is_kept(school: School, tmp_path: Path) -> None:
    school.export(tmp_path / "old", "angles")
    school.publisher.refresh()
    await school.hear()
    school.export(tmp_path / "new", "fractions")
    await copied(tmp_path / "new", tmp_path / "home", school.root)
    await copied(tmp_path / "old", tmp_path / "home", school.root)
    kept = (tmp_path / "home" / "incoming" / "metadata" / "timestamp.json").read_bytes()
    assert kept == (bundle(tmp_path / "new") / "metadata" / "timestamp.json").read_bytes()
    async with alone(tmp_path / "home", school.root) as (node, arrivals):
        assert [each.refused for each in await arrivals.take_in()] == [None, None]
        assert {view.state for view in node.keeper.display.lessons()} == {State.COMPLETE}


async def test_an_older_stick_still_brings_what_is_listed_here(school: School, full: Path) -> None:
    school.publisher.add("angles", {"index.html": b"<h1>Les angles, deux</h1>"})
    school.publisher.release()
    await school.hear()
    school.forget("fractions")
    seen, outcomes = await copied(full, school.library, school.root)
    assert seen.is_older
    assert {lesson: each.fate for lesson, each in outcomes.items()} == {
        "angles": Fate.SKIPPED,
        "fractions": Fate.COPIED,
    }
    assert outcomes["angles"].reason == "this node's catalogues list version 2 of it, and this is another"
    async with alone(school.library, school.root) as (node, arrivals):
        assert [each.refused for each in await arrivals.take_in()] == [None]
        assert await node.text() == LESSONS["fractions"]["index.html"]


async def test_a_withdrawn_lesson_does_not_come_back_from_a_stick(school: School, full: Path, tmp_path: Path) -> None:
    school.publisher.withdraw("angles", "une erreur")
    school.publisher.release()
    await school.hear()
    seen, outcomes = await copied(full, school.library, school.root)
    assert seen.is_older
    assert outcomes["angles"].fate is Fate.SKIPPED
    assert outcomes["angles"].reason == "it was withdrawn, 'une erreur'"


def expire(stick: Path, school: School) -> None:
    """Leave on a stick the timestamp of a repository that nobody renewed for 40 days."""
    school.publisher.refresh(now() - timedelta(days=40))
    shutil.copy(school.publisher.repository / "metadata" / "timestamp.json", bundle(stick) / "metadata")


async def test_a_stick_whose_metadata_has_expired_brings_nothing_new(
    school: School, stick: Path, tmp_path: Path
) -> None:
    expire(stick, school)
    seen, outcomes = await copied(stick, tmp_path / "home", school.root)
    assert seen.trouble is not None
    assert "metadata/timestamp.json of" in seen.trouble
    assert "it has expired" in seen.trouble
    assert {each.fate for each in outcomes.values()} == {Fate.REFUSED}


async def test_a_stick_whose_metadata_has_expired_still_brings_what_is_listed_here(school: School, stick: Path) -> None:
    expire(stick, school)
    school.forget("fractions")
    _, outcomes = await copied(stick, school.library, school.root)
    assert outcomes["fractions"].fate is Fate.COPIED
