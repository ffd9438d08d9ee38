"""`edgeshare publish` as an editor meets it: what it prints, and what it says to a folder that cannot be published."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import edgeshare.cli.publish  # loaded before privileges are dropped
from edgeshare import host
from tests.publish.support import FIELDS, Editor, Printed, Publisher, make_lesson, served, toml

assert edgeshare.cli.publish.publish.name == "publish"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_lesson(tmp_path / "maths")


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[Path]:
    """A folder that belongs to somebody who is not root, and their rights for as long as the context lasts."""
    place = Path(tempfile.mkdtemp(prefix="edgeshare-test-"))
    try:
        if os.geteuid():
            yield place
            return
        nobody = 65534
        os.chown(place, nobody, nobody)
        os.setegid(nobody)
        os.seteuid(nobody)
        try:
            yield place
        finally:
            os.seteuid(0)
            os.setegid(0)
    finally:
        for path in place.rglob("*"):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(place)


def test_the_way_of_a_lesson_is_told_in_plain_lines(editor: Editor, folder: Path) -> None:
    added = editor.publish("add", folder)
    assert added == Printed(
        0, "staged maths, version 1: 2 files, 19.6 KiB; publish it with `edgeshare publish release`\n", ""
    )
    again = editor.publish("add", folder)
    assert again.out == "maths is unchanged, and staged as version 1; publish it with `edgeshare publish release`\n"
    released = editor.publish("release", "--tracker", "udp://t.example.fr:6969", "--origin", "https://o.example.fr/")
    assert released.out.startswith("maths, version 1: 19.6 KiB\nreleased cned/6e edition 1; fresh until 20")
    assert released.err == ""
    assert editor.publish("add", folder).out == "maths is unchanged, version 1: nothing to do\n"
    assert editor.publish("release").out.startswith("nothing is staged: nothing to release; fresh until 20")
    assert editor.publish("refresh").out.startswith("fresh until 20")
    gone = editor.publish("withdraw", "maths", "--reason", "Une erreur page 3")
    assert gone.out == "staged the withdrawal of maths, for good; publish it with `edgeshare publish release`\n"
    assert editor.publish("release").out.startswith("maths: withdrawn\nreleased cned/6e edition 2; fresh until 20")


def test_dropping_what_was_only_staged_says_so(editor: Editor, folder: Path) -> None:
    editor.publish("add", folder)
    dropped = editor.publish("withdraw", "maths", "--reason", "trop tôt")
    assert dropped.out == "maths was only staged, and no longer is: nothing to release\n"


def test_init_says_where_nodes_start_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    editor = Editor(Publisher(tmp_path / "new", tmp_path / "new-keys"), capsys)
    printed = editor.publish("init")
    assert printed.code == 0
    assert str(tmp_path / "new" / "metadata" / "1.root.json") in printed.out
    assert "back them up" in printed.err


def test_json_names_what_was_staged_and_released(editor: Editor, folder: Path) -> None:
    added = json.loads(editor.publish("add", folder, "--json").out)
    assert (added["id"], added["version"], added["unchanged"], added["staged"]) == ("maths", 1, False, True)
    assert (added["files"], added["size"], len(added["info_hash"])) == (2, 20_022, 64)
    released = json.loads(editor.publish("release", "--json").out)
    assert released["catalogues"] == [{"name": "cned/6e", "edition": 1}]
    assert released["lessons"] == [{"id": "maths", "version": 1}]
    assert set(json.loads(editor.publish("refresh", "--json").out)) == set(released)


def test_names_that_urls_and_shells_trip_over_are_published(editor: Editor, tmp_path: Path) -> None:
    names = [
        "a b.txt",
        "é à ç.txt",
        "#1.txt",
        "100%.txt",
        "a+b.txt",
        "x&y.txt",
        "-rf",
        "ø" * 127 + "x",
        "sub.x",
        "sub/z",
    ]
    make_lesson(tmp_path / "odd", {**dict.fromkeys(names, b"x"), "empty": b"", "index.html": b"x"})
    assert editor.publish("add", tmp_path / "odd") == Printed(
        0, "staged odd, version 1: 12 files, 11 B; publish it with `edgeshare publish release`\n", ""
    )
    assert editor.publish("release").code == 0
    assert served(editor.publisher.root, tmp_path / "client")["cned/6e"].versions == {"odd": 1}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("quoi?.txt", "the file 'quoi?.txt' holds ?, which Windows cannot keep in a name: rename it"),
        ("aux.txt", "the name of a device on Windows"),
        ("end.", "a dot or blank at the end"),
        ("INDEX.html", "is kept in the same place as"),
    ],
)
def test_names_that_windows_cannot_keep_are_refused(editor: Editor, tmp_path: Path, name: str, why: str) -> None:
    printed = editor.publish("add", make_lesson(tmp_path / "odd", {name: b"x", "index.html": b"x"}))
    assert printed.code == 1
    assert why in printed.err


def test_a_level_that_is_not_in_the_vocabulary_is_a_warning_and_kept(editor: Editor, tmp_path: Path) -> None:
    printed = editor.publish("add", make_lesson(tmp_path / "odd", levels=["6em"], subjects=["mathematique"]))
    assert printed.code == 0
    assert "levels: '6em' is not in the vocabulary, and kept (did you mean 6e?)" in printed.err
    assert "(did you mean mathematiques?)" in printed.err
    assert editor.publish("release").out.endswith(editor.publish("refresh").out)


def test_links_that_stay_inside_are_followed(editor: Editor, folder: Path, tmp_path: Path) -> None:
    (folder / "again.html").symlink_to("index.html")
    (folder / "pictures").symlink_to(folder / "img")
    assert "4 files" in editor.publish("add", folder).out
    editor.publish("release")
    assert served(editor.publisher.root, tmp_path / "client")["cned/6e"].versions == {"maths": 1}


Spoil = Callable[[Path], object]
Command = tuple[str, *tuple[str | Path, ...]]
WITHDRAW: Command = ("withdraw", "maths", "--reason", "x")


def describe(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        fields = {"id": "maths", **FIELDS, **changes}
        known = {key: value for key, value in fields.items() if value is not None}
        (folder / "lesson.toml").write_text(toml(known), encoding="utf-8")

    return spoil


def append(text: str) -> Spoil:
    def spoil(folder: Path) -> None:
        with (folder / "lesson.toml").open("a", encoding="utf-8") as file:
            file.write(text)

    return spoil


def name_in_bytes(name: bytes) -> Spoil:
    return lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"x")


def link(name: str, target: str) -> Spoil:
    return lambda folder: (folder / name).symlink_to(target)


def only_the_description(folder: Path) -> None:
    shutil.rmtree(folder / "img")
    (folder / "index.html").unlink()


def only_an_empty_file(folder: Path) -> None:
    only_the_description(folder)
    (folder / "index.html").touch()


def a_file_in_its_place(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def a_pipe_as_description(folder: Path) -> None:
    (folder / "lesson.toml").unlink()
    os.mkfifo(folder / "lesson.toml")


def maze(folder: Path) -> None:
    for n in range(16):
        inner = folder / "maze" / str(n)
        inner.mkdir(parents=True)
        for name in "ab":
            (inner / name).symlink_to(f"../{n + 1}")
    (folder / "maze" / "16").mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "lesson.toml").unlink(), "has no lesson.toml"),
        (shutil.rmtree, "does not exist"),
        (a_file_in_its_place, "is not a folder"),
        (only_the_description, "holds no files besides lesson.toml"),
        (only_an_empty_file, "are empty"),
        (append("titel = 'x'"), "unknown key `titel`: did you mean `title`?"),
        (append("zzz = 1"), "unknown key `zzz`: known keys: audience"),
        (append('"a\\nb" = 1'), r"unknown key `a\nb`"),
        (append("version = 3"), "unknown key `version`"),
        (append("["), "is not TOML in UTF-8"),
        (append("x = " + "[" * 9000), "is not TOML in UTF-8"),
        (append("#" * 300_000), "is larger than 262144 bytes"),
        (lambda folder: (folder / "lesson.toml").write_bytes(b"# \xe9"), "is not TOML in UTF-8"),
        (describe(id="Maths"), "'Maths' is not a lesson id"),
        (describe(id="../maths"), "is not a lesson id"),
        (describe(id="x" * 64), "is not a lesson id"),
        (describe(id=5), "id is not text"),
        (describe(id=None), "id is missing"),
        (describe(title=None), "title is missing"),
        (describe(title=""), "title has 0 characters, not 1 to 200"),
        (describe(title="x" * 201), "title has 201 characters, not 1 to 200"),
        (describe(title=["x"]), "title is not text"),
        (describe(levels="6e"), "levels is not a list of texts"),
        (describe(levels=[]), "levels is not a list of 1 to 32"),
        (describe(levels=[6]), "levels is not a list of texts"),
        (describe(levels=["Sixième"]), "levels is not a list of 1 to 32 different codes like '6e'"),
        (describe(subjects=None), "subjects is missing"),
        (describe(language="french!"), "is not a BCP 47 tag like 'fr'"),
        (describe(role="pupil"), "role 'pupil' is not one of learner, teacher"),
        (describe(audience="many"), "audience is not a whole number"),
        (describe(audience=0), "audience 0 is not from 1"),
        (append("audience = true"), "audience is not a whole number"),
        (append("audience = 2.5"), "audience is not a whole number"),
        (append("needed_at = 2026-11-24"), "`needed_at` has no time: write it like 2026"),
        (append("needed_at = 2026-11-24T08:00:00"), "`needed_at` has no time zone: write it like 2026"),
        (append("needed_at = 08:00:00"), "needed_at is not a time"),
        (append("needed_at = 'demain'"), "needed_at is not a time"),
        (describe(start=None), "start is missing"),
        (describe(start="indx.html"), "no file 'indx.html' to `start` with: did you mean index.html?"),
        (describe(start="lesson.toml"), "no file 'lesson.toml' to `start` with"),
        (describe(start="../index.html"), "start '../index.html' has an empty part, `.` or `..`"),
        (describe(start="img"), "no file 'img' to `start` with"),
        (link("out", "/etc/passwd"), "out leaves the lesson's folder"),
        (link("out", "../repository"), "out leaves the lesson's folder"),
        (link("out", "../maths-not"), "out leaves the lesson's folder"),
        (link("img/out", ".."), "img/out leads to a folder around it"),
        (link("gone", "nowhere"), "gone (No such file or directory)"),
        (link("loop", "loop"), "loop (Too many levels of symbolic links)"),
        pytest.param(maze, "holds more than 20000 folders", marks=pytest.mark.whole),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe is not a file or a folder"),
        (lambda folder: os.mkfifo(folder / "a\nb"), r"a\nb' is not a file or a folder"),
        (a_pipe_as_description, "is not a file"),
        (lambda folder: ((folder / "lesson.toml").unlink(), (folder / "lesson.toml").mkdir()), "is not a file"),
        (
            lambda folder: ((folder / "lesson.toml").unlink(), (folder / "lesson.toml").symlink_to("/etc/passwd")),
            "lesson.toml leaves the lesson's folder",
        ),
        (name_in_bytes(b"caf\xe9.html"), r"the name 'caf\xe9.html'"),
        (name_in_bytes(b"a\\b"), r"the file 'a\\b' holds a backslash: rename it"),
        (name_in_bytes(b"a\nb"), r"the file 'a\nb' holds a control character: rename it"),
        (name_in_bytes("a\u202eb".encode()), r"turns the reading direction: rename it"),
        (name_in_bytes(b"C:"), "the file 'C:' holds :, which Windows cannot keep"),
    ],
    ids=range(59),
)
def test_a_folder_that_cannot_be_published_gets_one_line_and_leaves_nothing(
    editor: Editor, folder: Path, spoil: Spoil, said: str
) -> None:
    spoil(folder)
    assert said in editor.refused("add", folder)


def test_a_lesson_holds_at_most_20000_files(editor: Editor, folder: Path) -> None:
    for n in range(19_999):
        (folder / f"{n}").touch()
    assert "holds more than 20000 files: make several lessons of it" in editor.refused("add", folder)


@pytest.mark.parametrize("spoiled", ["index.html", "img", "lesson.toml"])
def test_what_may_not_be_read_is_named(capsys: pytest.CaptureFixture[str], spoiled: str) -> None:
    with as_ordinary_user() as home:
        editor = Editor(Publisher(home / "repository", home / "keys").init(), capsys)
        folder = make_lesson(home / "maths")
        (folder / spoiled).chmod(0)
        line = editor.refused("add", folder)
        assert "cannot read" in line
        assert spoiled in line
        assert "Permission denied" in line


@pytest.mark.parametrize("closed", ["", "content", "torrents", ".edgeshare", ".edgeshare/staged", ".edgeshare/taken"])
def test_a_repository_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str], closed: str) -> None:
    with as_ordinary_user() as home:
        editor = Editor(Publisher(home / "repository", home / "keys").init(), capsys)
        folder = make_lesson(home / "maths")
        for path in [home / "repository" / closed, *((home / "repository").rglob("*") if not closed else ())]:
            path.chmod(path.stat().st_mode & ~0o222)
        printed = editor.publish("add", folder)
        assert printed.code == 1
        assert f"the repository {home / 'repository'} cannot be written (Permission denied)" in printed.err
        assert printed.err.count("\n") == 1
        for path in (home / "repository").rglob("*"):
            path.chmod(path.stat().st_mode | 0o200)
        (home / "repository").chmod(0o700)
        assert editor.publish("add", folder).code == 0
        assert editor.publish("release").code == 0
        assert served(home / "repository", home / "client")["cned/6e"].versions == {"maths": 1}


def test_a_timestamp_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with as_ordinary_user() as home:
        editor = Editor(Publisher(home / "repository", home / "keys").init(), capsys)
        (home / "repository" / "metadata").chmod(0o500)
        assert "cannot be written (Permission denied)" in editor.refused("refresh")


def test_a_repository_that_cannot_be_made_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with as_ordinary_user() as home:
        home.chmod(0o500)
        editor = Editor(Publisher(home / "repository", home / "keys"), capsys)
        assert "cannot be written (Permission denied)" in editor.refused("init")
        home.chmod(0o700)
        assert list(home.iterdir()) == []


class _Writing(threading.Thread):
    """Somebody who still works on a file."""

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__()
        self._path = path
        self._mode = mode
        self._is_over = threading.Event()

    def run(self) -> None:
        with open(self._path, self._mode, buffering=0) as file:
            while not self._is_over.is_set():
                file.write(b"x")
                if self._mode == "r+b":
                    file.seek(0)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join()


@pytest.mark.parametrize("mode", ["ab", "r+b"], ids=["grows", "is-overwritten"])
def test_a_file_that_changes_while_it_is_read_is_refused(editor: Editor, folder: Path, mode: str) -> None:
    (folder / "large.bin").write_bytes(bytes(30 * 2**20))
    with _Writing(folder / "large.bin", mode):
        assert "'large.bin' changed while it was read: publish again when it is finished" in editor.refused(
            "add", folder
        )


def test_a_repository_that_is_none_is_named(editor: Editor, folder: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path, folder / "index.html"):
        other = Editor(Publisher(place, editor.publisher.keys), editor.capsys)
        commands: list[Command] = [("add", folder), ("release",), ("refresh",), WITHDRAW]
        for command in commands:
            printed = other.publish(*command)
            assert (printed.code, printed.out) == (1, "")
            assert printed.err == (f"edgeshare: {place} is not a repository: make one with `edgeshare publish init`\n")


def test_a_refresh_says_what_it_has_published(editor: Editor, folder: Path) -> None:
    online = Editor(editor.publisher.holds("snapshot", "timestamp"), editor.capsys)
    editor.publish("add", folder)
    editor.publish("release")
    printed = online.publish("refresh")
    assert re.fullmatch(r"[a-z-]+, version 1: .*\nreleased cned/.* edition 1; fresh until .*\n", printed.out)


def test_keys_that_are_not_there_are_named(editor: Editor, folder: Path, tmp_path: Path) -> None:
    other = Editor(attrs.evolve(editor.publisher, keys=tmp_path / "nowhere"), editor.capsys)
    commands: list[Command] = [("add", folder), ("release",), ("refresh",)]
    for command in commands:
        assert f"there is no folder {tmp_path / 'nowhere'}: check --keys" in other.refused(*command)
    assert not (tmp_path / "nowhere").exists()


def test_a_key_that_others_can_read_is_named(editor: Editor, folder: Path) -> None:
    key = editor.publisher.keys / "cned-lessons.pem"
    key.chmod(stat.S_IRUSR | stat.S_IRGRP)
    assert f"the key {key} can be read by others: chmod 600 {key}" in editor.refused("add", folder)


def test_a_bad_name_for_a_publisher_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    editor = Editor(Publisher(tmp_path / "new", tmp_path / "new-keys"), capsys)
    assert "'CNED' cannot be a publisher's name" in editor.refused("init", "--publisher", "CNED")
    assert list(tmp_path.iterdir()) == []


def test_a_second_init_is_refused(editor: Editor) -> None:
    assert "is a repository already" in editor.refused("init")


def test_a_second_publisher_at_the_same_time_is_refused(editor: Editor, folder: Path) -> None:
    with host.locked(editor.publisher.root / ".edgeshare" / "lock"):
        commands: list[Command] = [("add", folder), ("release",), ("refresh",), WITHDRAW]
        for command in commands:
            assert "another publisher works on" in editor.refused(*command)


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (["--origin", "lecons.example.fr"], "origins has 'lecons.example.fr', which is not an origin's URL"),
        (["--origin", "file:///srv"], "which is not an origin's URL"),
        (["--tracker", "lecons:6969"], "trackers has 'lecons:6969', which is not a tracker's URL"),
        (["--origin", "https://o/"] * 33, "origins has 33 URLs, more than 32"),
    ],
    ids=["no-scheme", "file", "no-tracker", "33"],
)
def test_an_address_that_is_none_is_refused(editor: Editor, folder: Path, addresses: list[str], said: str) -> None:
    editor.publish("add", folder)
    assert said in editor.refused("release", *addresses)


@pytest.mark.parametrize(
    ("lesson", "reason", "said"),
    [
        ("math", "x", "no lesson math is published here: did you mean maths?"),
        ("zzz", "x", "no lesson zzz is published here"),
        ("../maths", "x", "'../maths' is not a lesson id"),
        ("maths", "", "the reason of a withdrawal has 0 characters, not 1 to 500"),
        ("maths", "x" * 501, "has 501 characters"),
        ("maths", "a\nb", "holds a control character"),
        ("maths", "\udcff", "surrogates not allowed"),
    ],
    ids=range(7),
)
def test_a_withdrawal_that_cannot_be_is_refused(
    editor: Editor, folder: Path, lesson: str, reason: str, said: str
) -> None:
    editor.publish("add", folder)
    editor.publish("release")
    assert said in editor.refused("withdraw", lesson, "--reason", reason)


def test_wrong_usage_is_exit_code_2(editor: Editor) -> None:
    for arguments in (["add"], ["release", "x"], ["nothing"], ["withdraw", "r", "l", "--keys", "k"]):
        assert editor.run(*arguments).code == 2
