"""Sticks as people use them: real commands, real nodes that never saw the origin, and a FAT32 that can be pulled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import trio

from tests.support.nodes import NOBODY, Process, apart, process, write_config
from tests.support.publisher import noise
from tests.support.sticks import LESSONS, School, bundle, files_of

pytestmark = pytest.mark.whole

FILM = 40 * 2**20  # bytes: long enough to be interrupted


@pytest.fixture(scope="module")
def cinema(tmp_path_factory: pytest.TempPathFactory) -> School:
    """A school that has a film too; only looked at."""
    school = School(tmp_path_factory.mktemp("cinema"))
    school.publisher.begin()
    for lesson, files in LESSONS.items():
        school.publisher.add(lesson, files)
    school.publisher.add("film", {"index.html": b"<video src=film.mp4>", "film.mp4": noise(FILM)})
    school.publisher.release()
    trio.run(school.hear)
    return school


class Fat32:
    """A FAT32 file system in a file, mounted by a process of this test, so that it can be pulled."""

    def __init__(self, folder: Path) -> None:
        self._image = folder / "usb.img"
        self.at = folder / "usb"
        self.at.mkdir()
        with self._image.open("wb") as image:
            image.truncate(128 * 2**20)
        subprocess.run(["/usr/sbin/mkfs.vfat", "-F", "32", self._image], check=True, stdout=subprocess.DEVNULL)
        self._driver: subprocess.Popen[bytes] | None = None

    def put_in(self) -> None:
        command: list[str | Path] = ["fusefat", "-f", "-o", "rw+", self._image, self.at]
        self._driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while not self.at.is_mount():
            assert self._driver.poll() is None, "fusefat has ended"
            assert time.monotonic() < until
            time.sleep(0.02)

    def eject(self) -> None:
        """Take it out in good order."""
        subprocess.run(["fusermount", "-u", self.at], check=True)
        if self._driver:
            self._driver.wait(10)
        self._driver = None

    def pull(self) -> None:
        """Take it out while it is read: all that reads it from now on fails."""
        if self._driver:
            self._driver.kill()
            self._driver.wait()
            subprocess.run(["fusermount", "-u", "-z", self.at], check=True)
        self._driver = None


@pytest.fixture
def usb(tmp_path: Path) -> Iterator[Fat32]:
    if shutil.which("fusefat") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("a FAT32 of its own takes fusefat (requirements/system), and the right to mount")
    stick = Fat32(tmp_path)
    stick.put_in()
    yield stick
    stick.pull()


async def run(*arguments: str | Path, log: Path) -> tuple[int, str]:
    """A command's exit code, and what it said."""
    async with process(*arguments, log=log) as running:
        with trio.fail_after(60):
            code = await running.process.wait()
    return code, log.read_text(encoding="utf-8")


def at_home(folder: Path, school: School) -> Path:
    """The config of a node that will never see the origin."""
    return write_config(folder, school.publisher, NOBODY)


async def test_a_teachers_lessons_travel_on_fat32_to_a_node_that_never_saw_the_origin(
    cinema: School, usb: Fat32, tmp_path: Path
) -> None:
    lessons = ("angles", "film", "fractions")
    code, said = await run("export", *lessons, "--to", usb.at, "--library", cinema.library, log=tmp_path / "export.log")
    assert code == 0, said
    assert "3 lessons, 40.2 MiB, on" in said
    usb.eject()
    usb.put_in()
    config = at_home(tmp_path / "home", cinema)
    async with apart(config) as (node, _):
        async with process("import", usb.at, "--config", config, log=tmp_path / "import.log") as importing:
            await _until_half(tmp_path / "home" / "library" / "incoming", cinema, importing)
            usb.pull()
            with trio.fail_after(30):
                assert await importing.process.wait() == 1
        assert "went away" in importing.log.read_text()
        assert "put it in again and run the same command" in importing.log.read_text()
        usb.put_in()
        code, said = await run("import", usb.at, "--config", config, log=tmp_path / "again.log")
        assert (code, "lessons: 3 imported" in said) == (0, True), said
        usb.eject()
        began = trio.current_time()
        assert await node.read("fractions", "le%C3%A7on/%C3%A9nonc%C3%A9.html") == (
            200,
            LESSONS["fractions"]["leçon/énoncé.html"],
        )
        assert trio.current_time() - began < 1
        assert {each["id"]: each["state"] for each in await node.ask("lessons")} == dict.fromkeys(lessons, "complete")
        status = await node.status()
        assert status["fresh"]
        assert status["refreshed"] is None  # the origin was never heard


async def _until_half(incoming: Path, school: School, importing: Process) -> None:
    film = incoming / "content" / school.content("film").hex() / "film.mp4"
    with trio.fail_after(30):
        while not film.exists() or film.stat().st_size < FILM // 4:
            assert importing.process.poll() is None, importing.log.read_text()
            await trio.sleep(0.002)


async def test_an_import_that_is_killed_again_and_again_comes_to_the_same(cinema: School, tmp_path: Path) -> None:
    cinema.export(tmp_path / "usb", "angles", "film", "fractions")
    config = at_home(tmp_path / "home", cinema)
    rng = Random(1)
    for number in range(8):
        arguments = ("import", tmp_path / "usb", "--config", config)
        async with process(*arguments, log=tmp_path / f"import-{number}.log") as importing:
            await trio.sleep(0.3 + rng.random() * 0.6)  # somewhere between its first import and its last word
            importing.process.kill()
    code, said = await run("import", tmp_path / "usb", "--config", config, log=tmp_path / "last.log")
    assert code == 0, said
    assert "it takes them in when it starts; the stick is not needed" in said
    shutil.rmtree(tmp_path / "usb")
    async with apart(config) as (node, running):
        await node.until("film", "complete")
        await node.until("fractions", "complete")
        _, film = await node.read("film", "film.mp4")
        assert film == (cinema.library / "content" / cinema.content("film").hex() / "film.mp4").read_bytes()
        await running.stop()
    async with apart(config) as (node, _):
        await node.until("film", "complete")


async def test_one_flipped_bit_costs_that_lesson_and_no_other(cinema: School, tmp_path: Path) -> None:
    cinema.export(tmp_path / "usb", "angles", "fractions")
    video = bundle(tmp_path / "usb") / "content" / cinema.content("fractions").hex() / "video.bin"
    raw = bytearray(video.read_bytes())
    raw[1000] ^= 4
    video.write_bytes(raw)
    config = at_home(tmp_path / "home", cinema)
    async with apart(config) as (node, _):
        code, said = await run("import", tmp_path / "usb", "--config", config, log=tmp_path / "import.log")
        assert code == 1
        assert "edgeshare: fractions is refused: 'video.bin' is not as it was published" in said
        assert (await node.read("angles", "index.html"))[1] == LESSONS["angles"]["index.html"]
        assert (await node.lesson("fractions") or {})["state"] != "complete"


async def test_a_stick_older_than_its_metadata_lasts_brings_nothing_new(cinema: School, tmp_path: Path) -> None:
    cinema.export(tmp_path / "usb", "angles")
    config = at_home(tmp_path / "home", cinema)
    arguments = ("import", tmp_path / "usb", "--config", config, "--json")
    async with process(*arguments, log=tmp_path / "import.log", clock="+31d") as importing:
        with trio.fail_after(60):
            assert await importing.process.wait() == 1
    said = importing.log.read_text()
    assert "nothing new is taken from the stick: metadata/timestamp.json of" in said
    assert "it has expired" in said
    answer = json.loads(said[said.index("{") :])
    assert [each["fate"] for each in answer["lessons"]] == ["refused"]
    assert not [path for path in files_of(tmp_path / "home" / "library") if "content/" in path]


async def test_root_works_as_the_user_whose_library_it_is(cinema: School, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    config = at_home(tmp_path / "home", cinema)
    library = tmp_path / "home" / "library"
    library.mkdir()
    os.chown(library, 12345, 12345)
    (tmp_path / "home").chmod(0o700)  # as systemd closes what is above a dynamic user's folder
    with tempfile.TemporaryDirectory() as usb:
        Path(usb).chmod(0o755)  # a stick that everybody may read
        cinema.export(Path(usb), "angles")
        code, said = await run("import", usb, "--config", config, log=tmp_path / "import.log")
    assert code == 0, said
    assert {path.stat().st_uid for path in (library / "incoming").rglob("*")} == {12345}
