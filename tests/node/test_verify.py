"""`edgeshare verify` against the library of a node that has run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeshare.catalogue import FILE_NAME, read_edition
from edgeshare.cli.main import main
from edgeshare.library.index import Index, StoredCatalogue
from edgeshare.manifest import read_catalogue
from tests.support.publisher import Publisher


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A node's library that has admitted one catalogue; its lesson's manifest lies beside it."""
    cned = Publisher(tmp_path / "cned")
    cned.begin()
    cned.add("fractions", {"index.html": b"<h1>Fractions</h1>"})
    cned.release()
    key = cned.keys.lesson_key("cned")
    keys = {key.id: key}
    (target,) = (cned.repository / "targets").rglob("*.6e.manifest")
    raw = target.read_bytes()
    manifest = read_catalogue(raw, keys)
    content = (cned.repository / "content" / manifest.info_hash.hex() / FILE_NAME).read_bytes()
    (tmp_path / "library").mkdir()
    index = Index(tmp_path / "library" / "index.sqlite")
    index.admit(
        StoredCatalogue(
            name=manifest.name, manifest=raw, content=content, keys=keys, admitted_at="2026-11-24T08:00:00Z"
        )
    )
    index.close()
    (lesson,) = read_edition(content, manifest.name, manifest.edition, keys).lessons
    (tmp_path / "fractions.manifest").write_bytes(lesson.raw)
    (tmp_path / "catalogue.manifest").write_bytes(raw)
    return tmp_path / "library"


def test_a_lessons_manifest_is_checked_and_every_check_is_named(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "fractions.manifest"), "--library", str(library)])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fractions, version 1, by cned: Une leçon"
    assert lines[1].startswith("  form: edgeshare-lesson/1, ")
    assert lines[2].startswith("  signature: right, by ")
    assert lines[3:] == [
        "  catalogue: cned/6e, edition 1 lists this very manifest",
        "  content: 1 file, 18 B, not on this machine",
    ]


def test_a_catalogues_manifest_is_checked_too(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "catalogue.manifest"), "--library", str(library)])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("cned/6e, edition 1, issued ")
    with pytest.raises(SystemExit):
        main(["verify", str(tmp_path / "catalogue.manifest"), "--library", str(library), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["edition"]) == ("cned/6e", 1)


def test_an_altered_manifest_is_refused_in_one_line(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fractions.manifest"
    path.write_bytes(path.read_bytes().replace(b"Une le", b"Une Le"))
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(path), "--library", str(library)])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (1, "")
    assert said.err == (
        "edgeshare: no key that the repository vouches for signed this manifest: "
        "it was altered, or is of a publisher whose catalogues are not here\n"
    )


def test_without_a_nodes_library_no_key_is_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.manifest").write_bytes(b"\x80")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "a.manifest"), "--library", str(tmp_path)])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (1, "")
    assert said.err == (
        f"edgeshare: {tmp_path} is not a node's library, so no key is trusted here: "
        "run a node first, or name its library with --library or --config\n"
    )


def test_a_damaged_index_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.manifest").write_bytes(b"\x80")
    (tmp_path / "index.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "a.manifest"), "--library", str(tmp_path)])
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (1, "", 1)
