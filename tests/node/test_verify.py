"""`edgeshare verify` against the library of a node that has run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import attrs
import pytest

from edgeshare.admission import Changes, Gone
from edgeshare.catalogue import FILE_NAME, read_edition
from edgeshare.cli.main import main
from edgeshare.library.index import Index, StoredCatalogue
from edgeshare.manifest import LessonId, read_catalogue
from edgeshare.publishers import Delegation, Publishers
from tests.support.publisher import Publisher, lesson_key


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A node's library that has admitted one catalogue; its lesson's manifest lies beside it."""
    cned = Publisher(tmp_path / "cned")
    cned.begin()
    cned.add("fractions", {"index.html": b"<h1>Fractions</h1>"})
    cned.release()
    key = lesson_key(cned.keys)
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
    assert lines[2].endswith(", which the catalogues vouch for, and which is not revoked")
    assert lines[3:5] == [
        "  publisher: the node has not heard yet who the publishers are",
        "  catalogue: cned/6e, edition 1 lists this very manifest",
    ]
    assert re.fullmatch(r"  age: issued on [0-9-]{10}, admitted here on 2026-11-24, \d+ days? ago", lines[5])
    assert lines[6:] == ["  metadata: none is here yet", "  content: 1 file, 18 B, not on this machine"]


def heard(library: Path, said: Publishers, *gone: Gone) -> None:
    """Have the node hear of publishers, and of what is withdrawn."""
    index = Index(library / "index.sqlite")
    index.heed(Changes(publishers=said, gone=gone))
    index.close()


def printed(library: Path, name: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """What `verify` of a file beside the library says: exit code, output, error."""
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(library.parent / name), "--library", str(library)])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


CNED, LYON = Delegation(prefix="", epoch="a"), Delegation(prefix="frac", epoch="b")


def test_whose_the_id_is_is_said(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard(library, Publishers(delegations={"cned": CNED}))
    assert (
        "publisher: the id is one of cned, as every id that nobody else was given\n"
        in printed(library, "fractions.manifest", capsys)[1]
    )
    heard(library, Publishers(delegations={"cned": attrs.evolve(CNED, prefix="frac")}))
    assert (
        "publisher: the id is one of cned, whose ids begin with frac\n"
        in printed(library, "fractions.manifest", capsys)[1]
    )


def test_an_id_that_is_another_publishers_is_refused(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard(library, Publishers(delegations={"cned": CNED, "lyon": LYON}))
    assert printed(library, "fractions.manifest", capsys) == (
        1,
        "",
        "edgeshare: fractions is not an id of cned, but of lyon: a publisher speaks for its own lessons only\n",
    )


def test_a_publisher_that_was_revoked_is_named(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard(library, Publishers(delegations={"lyon": LYON}, revoked={"cned": "Une clé volée"}))
    assert printed(library, "fractions.manifest", capsys) == (
        1,
        "",
        "edgeshare: cned was revoked, 'Une clé volée': its lessons are withdrawn\n",
    )


@pytest.mark.parametrize("name", ["fractions.manifest", "catalogue.manifest"])
def test_a_key_that_was_revoked_vouches_for_nothing(
    library: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    index = Index(library / "index.sqlite")
    keys = frozenset(index.catalogues()[0].keys)
    index.close()
    heard(library, Publishers(delegations={"cned": CNED}, revoked_keys=keys))
    code, out, err = printed(library, name, capsys)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"edgeshare: the key that signed this manifest, [0-9a-f]{16}, was revoked: .*\n", err)


def test_a_publisher_that_was_revoked_once_and_may_publish_again_speaks_for_its_lessons(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard(library, Publishers(delegations={"cned": CNED}, revoked={"cned": "Une clé volée"}))
    code, out, _ = printed(library, "fractions.manifest", capsys)
    assert (code, "  publisher: the id is one of cned" in out) == (0, True)


def test_a_withdrawal_that_the_node_remembers_is_named(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = Gone(id=LessonId("fractions"), by="cned/5e", why="Une erreur page 3", since=2)
    heard(library, Publishers(delegations={"cned": CNED}), gone)
    assert (
        "  catalogue: withdrawn by cned/5e, edition 2: Une erreur page 3\n"
        in printed(library, "fractions.manifest", capsys)[1]
    )


def test_how_old_the_metadata_is_is_said(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata, folder = tmp_path / "cned" / "repository" / "metadata", library / "trust"
    folder.mkdir()
    for role in ("root", "targets", "snapshot"):
        shutil.copy(metadata / f"1.{role}.json" if role == "root" else newest(metadata, role), folder / f"{role}.json")
    shutil.copy(metadata / "timestamp.json", folder)
    assert re.search(r"  metadata: fresh until \d{4}-\d\d-\d\d\n", printed(library, "fractions.manifest", capsys)[1])


def newest(metadata: Path, role: str) -> Path:
    return max(metadata.glob(f"*.{role}.json"), key=lambda path: int(path.name.partition(".")[0]))


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
        "it was altered, its key was revoked or replaced, or its publisher’s catalogues are not here\n"
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
