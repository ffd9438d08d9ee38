"""`edgeshare export` and `edgeshare import`: what they say, and their exit codes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import trio

from edgeshare.bundle.intake import Intake, Outcome
from edgeshare.cli.main import main
from edgeshare.manifest import LessonManifest
from tests.support.nodes import NOBODY, here, write_config
from tests.support.sticks import LESSONS, School, bundle


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_an_export_says_what_is_on_the_stick_and_until_when_it_is_good(
    made: School, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "angles", "fractions", "--to", tmp_path, "--library", made.library) == 0
    said = capsys.readouterr()
    assert said.err == "2 lessons, 200.0 KiB; on the stick they still need 216.0 KiB\n"
    assert said.out.startswith(f"2 lessons, 200.0 KiB, on {tmp_path}; to be imported before 20")


def test_an_export_names_each_lesson_that_it_refuses_and_writes_the_others(
    made: School, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "angle", "fractions", "--to", tmp_path, "--library", made.library, "--json") == 1
    said = capsys.readouterr()
    assert "edgeshare: 'angle' is in no catalogue of this node: did you mean angles?" in said.err
    results = json.loads(said.out)
    assert [(each["id"], each["refused"] is None) for each in results] == [("angle", False), ("fractions", True)]
    assert (bundle(tmp_path) / "manifests" / "fractions.manifest").exists()


def test_an_export_of_nothing_that_can_go_touches_no_stick(made: School, tmp_path: Path) -> None:
    assert run("export", "angle", "--to", tmp_path, "--library", made.library) == 1
    assert list(tmp_path.iterdir()) == []


async def test_an_import_without_a_daemon_waits_for_the_next_start(
    made: School, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.export(tmp_path / "usb")
    config = write_config(tmp_path / "home", made.publisher, NOBODY)
    assert await trio.to_thread.run_sync(run, "import", tmp_path / "usb", "--config", config) == 0
    assert capsys.readouterr().out == (
        "lessons: 2 imported\n"
        "no daemon runs on this library: it takes them in when it starts; the stick is not needed\n"
    )
    shutil.rmtree(tmp_path / "usb")
    async with here(config) as node:
        await node.until("fractions", "complete")
        assert await node.read("fractions", "index.html") == (200, LESSONS["fractions"]["index.html"])


async def test_an_import_beside_a_daemon_is_over_when_the_lessons_are_served(
    made: School, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.export(tmp_path / "usb")
    config = write_config(tmp_path / "home", made.publisher, NOBODY)
    async with here(config) as node:
        arguments = ("import", tmp_path / "usb", "--config", config, "--json")
        assert await trio.to_thread.run_sync(run, *arguments) == 0
        assert await node.read("fractions", "index.html") == (200, LESSONS["fractions"]["index.html"])
        answer = json.loads(capsys.readouterr().out)
        assert answer["taken_in"] is True
        assert {each["id"]: each["fate"] for each in answer["lessons"]} == {
            "angles": "copied",
            "fractions": "copied",
        }
        assert await trio.to_thread.run_sync(run, *arguments[:-1]) == 0
        assert capsys.readouterr().out == "lessons: 2 here before\n"


async def test_what_the_daemon_refuses_is_told_by_the_command(
    made: School, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made.export(tmp_path / "usb", "angles")
    config = write_config(tmp_path / "home", made.publisher, NOBODY)
    folder = tmp_path / "home" / "library" / "incoming" / "content" / made.content("angles").hex()
    take = Intake.take

    def damaged_after(intake: Intake, manifest: LessonManifest) -> Outcome:
        outcome = take(intake, manifest)
        (folder / "index.html").write_bytes(bytes(manifest.size))
        return outcome

    monkeypatch.setattr(Intake, "take", damaged_after)
    async with here(config):
        assert await trio.to_thread.run_sync(run, "import", tmp_path / "usb", "--config", config) == 1
    said = capsys.readouterr()
    assert said.err == "edgeshare: angles is refused: its files are not whole: import it again\n"
    assert said.out == "lessons: 1 refused\n"


def test_an_import_with_another_root_is_refused_with_the_reason(
    made: School, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.export(tmp_path / "usb", "angles")
    other = School(tmp_path / "other")
    other.publisher.begin()
    config = write_config(tmp_path / "home", other.publisher, NOBODY)
    assert run("import", tmp_path / "usb", "--config", config) == 1
    said = capsys.readouterr()
    assert "edgeshare: nothing new is taken from the stick: metadata/" in said.err
    assert "edgeshare: angles is refused: this node does not list it, and takes nothing new from the stick" in said.err


def test_the_bundles_own_folder_may_be_named_too(
    made: School, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.export(tmp_path / "usb", "angles")
    config = write_config(tmp_path / "home", made.publisher, NOBODY)
    assert run("import", bundle(tmp_path / "usb"), "--config", config) == 0
    assert capsys.readouterr().out.startswith("lessons: 1 imported\n")


def test_another_users_library_is_not_written_to(
    made: School, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made.export(tmp_path / "usb", "angles")
    config = write_config(tmp_path / "home", made.publisher, NOBODY)
    (tmp_path / "home" / "library").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert run("import", tmp_path / "usb", "--config", config) == 1
    assert "belongs to another user: run this as the user that the daemon runs as" in capsys.readouterr().err
    assert list((tmp_path / "home" / "library").iterdir()) == []
