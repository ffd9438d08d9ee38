"""Metadata that waits: made by an editor without the online keys, signed by several, and published when complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from edgeshare.errors import RepositoryError, TrustError
from edgeshare.publish import metadata as tuf
from edgeshare.publish.keys import Keys
from edgeshare.publish.repository import read_standing
from tests.publish.support import Publisher, key_id, make_lesson, now, served, tree

pytestmark = pytest.mark.whole  # together they take half a minute

TRACKER, ORIGIN = "udp://lecons.example.fr:6969", "https://lecons.example.fr/"


def versions(publisher: Publisher, client: Path) -> dict[str, dict[str, int]]:
    return {name: each.versions for name, each in served(publisher.root, client).items()}


def drafts(publisher: Publisher) -> list[str]:
    return sorted(path.name for path in (publisher.root / ".edgeshare" / "signing").glob("*"))


@pytest.fixture
def online(publisher: Publisher) -> Publisher:
    """The machine with the keys of snapshot and timestamp, and no others; `publisher` is the editor's from then on."""
    return publisher.holds("snapshot", "timestamp")


def test_an_editor_without_the_online_keys_changes_nothing_that_is_served(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    before = tree(publisher.root)
    released = publisher.release(trackers=[TRACKER], origins=[ORIGIN])
    assert released.catalogues == ()
    assert [(each.role, each.version, each.needs) for each in released.waiting] == [("cned", 2, ())]
    after = tree(publisher.root)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in set(after) - set(before)} == {".edgeshare", "content", "torrents", "targets"}
    assert versions(publisher, tmp_path / "client") == {}


def test_the_online_machine_publishes_what_the_editor_signed(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release(trackers=[TRACKER], origins=[ORIGIN])
    released = online.release()
    assert [each.id for each in released.lessons] == ["maths"]
    assert (released.roles, released.waiting) == (("cned",), ())
    found = served(publisher.root, tmp_path / "client")["cned/6e"]
    assert (found.versions, found.manifest.trackers, found.manifest.origins) == ({"maths": 1}, (TRACKER,), (ORIGIN,))
    assert drafts(publisher) == []
    assert list((publisher.root / ".edgeshare" / "staged").iterdir()) == []
    assert (publisher.root / "tracker" / "whitelist.txt").stat().st_size > 0


def test_the_nightly_refresh_publishes_what_is_signed(publisher: Publisher, online: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    released = online.refresh(now() + timedelta(hours=1))
    assert [each.name for each in released.catalogues] == ["cned/6e"]
    assert versions(publisher, tmp_path / "client") == {"cned/6e": {"maths": 1}}


def test_a_refresh_with_the_timestamps_key_alone_leaves_drafts_alone(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    online.holds("snapshot")
    assert online.refresh(now() + timedelta(hours=1)).catalogues == ()
    assert drafts(publisher) == ["2.cned.json"]


def test_a_refresh_with_the_snapshots_key_renews_an_old_snapshot(tmp_path: Path) -> None:
    old = Publisher(tmp_path / "old", tmp_path / "old-keys").init(at=now() - timedelta(days=50))
    assert old.metadata("snapshot").signed.version == 1
    assert old.refresh().warnings == ()
    assert old.metadata("snapshot").signed.version == 2
    assert served(old.root, tmp_path / "client") == {}


def test_the_next_release_of_an_editor_holds_what_the_last_held(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release(trackers=[TRACKER])
    publisher.add(make_lesson(tmp_path / "svt"))
    publisher.release()
    assert drafts(publisher) == ["2.cned.json"]
    online.release()
    found = served(publisher.root, tmp_path / "client")["cned/6e"]
    assert (found.versions, found.manifest.edition, found.manifest.trackers) == ({"maths": 1, "svt": 1}, 1, (TRACKER,))
    assert len(list((publisher.root / "targets" / "catalogue" / "cned").iterdir())) == 1


def test_a_release_of_the_same_again_keeps_the_signatures_of_its_draft(publisher: Publisher, tmp_path: Path) -> None:
    Keys(publisher.keys).make("cned.2")
    second = publisher.holds("cned.2")
    publisher.add_key("cned", Keys(second.keys).signer("cned.2").public_key, threshold=2)
    second.sign("cned")
    publisher.release()
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    path = publisher.root / ".edgeshare" / "signing" / drafts(publisher)[0]
    before = path.read_bytes()
    assert publisher.release(now() + timedelta(hours=1)).catalogues == ()
    assert path.read_bytes() == before
    second.sign("cned")
    assert [each.id for each in publisher.release().lessons] == ["maths"]
    assert versions(publisher, tmp_path / "client") == {"cned/6e": {"maths": 1}}


def test_a_key_that_has_signed_a_draft_does_not_sign_it_again(tmp_path: Path) -> None:
    """It shows with ECDSA, whose signatures differ each time; a device would be asked for its PIN."""
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (keys / "cned.pem").touch(mode=0o600)
    (keys / "cned.pem").write_bytes(CryptoSigner.generate_ecdsa().private_bytes)
    publisher = Publisher(tmp_path / "repository", keys).init()
    publisher.holds("snapshot", "timestamp")
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    path = publisher.root / ".edgeshare" / "signing" / "2.cned.json"
    before = path.read_bytes()
    publisher.release()
    assert path.read_bytes() == before


def test_what_is_taken_back_is_not_published_by_its_draft(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    publisher.withdraw("maths", "trop tôt")
    publisher.release()
    online.release()
    assert versions(publisher, tmp_path / "client") == {}
    assert not [path for path in tree(publisher.root) if path.startswith(("content/", "torrents/"))]


def test_a_withdrawal_is_signed_by_the_editor_and_published_online(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    online.release()
    publisher.withdraw("maths")
    publisher.release()
    assert versions(publisher, tmp_path / "client") == {"cned/6e": {"maths": 1}}
    assert online.release().withdrawn == ("maths",)
    assert versions(publisher, tmp_path / "client") == {"cned/6e": {}}


def test_an_editor_can_release_while_a_ceremony_lasts_for_weeks(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    """Targets waits with another key for cned; the present one goes on counting."""
    targets = publisher.holds("targets")
    new = attrs.evolve(publisher, keys=tmp_path / "new")
    new.rotate("cned", key_id(publisher.keys, "cned"))
    for number in (1, 2, 3):
        publisher.add(make_lesson(tmp_path / "maths", title=f"{number}"))
        publisher.release()
        assert [each.version for each in online.release().lessons] == [number]
        assert online.release().roles == ()
        assert versions(publisher, tmp_path / "client") == {"cned/6e": {"maths": number}}
    targets.sign("targets")
    assert online.release().roles == ()
    new.sign("cned")
    assert set(online.release().roles) == {"targets", "cned"}
    assert versions(publisher, tmp_path / "client") == {"cned/6e": {"maths": 3}}
    assert drafts(publisher) == []


def test_a_draft_whose_content_is_not_whole_is_not_published(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    lesson = publisher.add(make_lesson(tmp_path / "maths")).manifest
    publisher.release()
    (publisher.root / "content" / lesson.info_hash.hex() / "img" / "a.png").write_bytes(b"")
    before = tree(publisher.root)
    with pytest.raises(RepositoryError, match=r"the content of maths, .* is not whole"):
        online.release()
    assert tree(publisher.root) == before


def not_json(path: Path) -> None:
    path.write_bytes(b"<html>")


def another_role(path: Path) -> None:
    path.write_bytes((path.parents[2] / "metadata" / "1.root.json").read_bytes())


def another_version(path: Path) -> None:
    path.rename(path.with_name("3.cned.json"))


@pytest.mark.parametrize("spoil", [not_json, another_role, another_version])
def test_a_file_that_is_no_draft_is_named(
    publisher: Publisher, online: Publisher, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    spoil(publisher.root / ".edgeshare" / "signing" / "2.cned.json")
    with pytest.raises(RepositoryError, match=r"cned\.json is not .*: remove it, and make it again"):
        online.release()
    assert versions(publisher, tmp_path / "client") == {}


def test_a_draft_that_is_broken_does_not_let_the_timestamp_expire(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    not_json(publisher.root / ".edgeshare" / "signing" / "2.cned.json")
    with pytest.raises(RepositoryError, match="is not TUF metadata"):
        online.refresh()
    assert online.metadata("timestamp").signed.version == 2
    assert versions(publisher, tmp_path / "client") == {}


def test_a_draft_that_was_altered_is_not_published(publisher: Publisher, online: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    path = publisher.root / ".edgeshare" / "signing" / "2.cned.json"
    draft = json.loads(path.read_bytes())
    draft["signed"]["expires"] = "2099-01-01T00:00:00Z"
    path.write_text(json.dumps(draft), encoding="utf-8")
    assert online.release().roles == ()
    assert versions(publisher, tmp_path / "client") == {}


def test_what_cannot_be_signed_is_refused_before_anything_is_written(publisher: Publisher, tmp_path: Path) -> None:
    """A fraction is no number in TUF's canonical JSON, whoever wrote it into a role."""
    path = publisher.root / "metadata" / "1.cned.json"
    role = json.loads(path.read_bytes())
    role["signed"]["x-odd"] = 0.5
    path.write_text(json.dumps(role), encoding="utf-8")
    publisher.add(make_lesson(tmp_path / "maths"))
    before = tree(publisher.root)
    with pytest.raises(RepositoryError, match="metadata of the type targets holds a value that cannot be signed"):
        publisher.release()
    assert tree(publisher.root) == before


def test_a_root_and_a_timestamp_that_were_torn_apart_are_mended_by_the_next_run(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    """The power went after the root, before the timestamp that its new key signs."""
    served(publisher.root, tmp_path / "client")
    old = tree(publisher.root)
    new = attrs.evolve(publisher, keys=tmp_path / "new")
    Keys(new.keys).make("snapshot", "timestamp")
    before = (publisher.root / "metadata" / "timestamp.json").read_bytes()
    for role in ("snapshot", "timestamp"):
        new.rotate(role, key_id(online.keys, role))
    publisher.sign("root")
    new.release()
    (publisher.root / "metadata" / "timestamp.json").write_bytes(before)
    for path in set(tree(publisher.root / "metadata")) - {path.removeprefix("metadata/") for path in old}:
        if "root" not in path:
            (publisher.root / "metadata" / path).unlink()
    assert new.refresh().waiting == ()
    assert served(publisher.root, tmp_path / "client") == {}
    assert new.metadata("timestamp").signed.version == 2


def test_readers_of_the_old_root_and_of_the_new_one_follow_a_rotation_at_every_step(
    publisher: Publisher, tmp_path: Path
) -> None:
    """What was written before and after the root is right for both: each file alone makes nobody wait."""
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    for role in ("timestamp", "snapshot", "targets"):
        publisher.rotate(role)
        version = publisher.metadata("root").signed.version
        newest = publisher.root / "metadata" / f"{version}.root.json"
        held = newest.rename(tmp_path / "held")
        assert versions(publisher, tmp_path / f"old-{role}") == {"cned/6e": {"maths": 1}}
        held.rename(newest)
        assert versions(publisher, tmp_path / f"old-{role}") == {"cned/6e": {"maths": 1}}


@pytest.mark.parametrize("has_old_keys", [True, False], ids=["rotated", "lost"])
def test_a_root_with_another_key_for_the_timestamp_is_written_last_unless_the_old_key_is_gone(
    publisher: Publisher, online: Publisher, tmp_path: Path, has_old_keys: bool
) -> None:
    machine = online if has_old_keys else attrs.evolve(online, keys=tmp_path / "new")
    machine.rotate("timestamp", key_id(online.keys, "timestamp"))
    if not has_old_keys:
        machine.rotate("snapshot", key_id(online.keys, "snapshot"))
    publisher.sign("root")
    standing = read_standing(publisher.root)
    wanted = tuf.shown(standing.published, standing.ready(), Keys(machine.keys), now())
    place = shutil.copytree(publisher.root / "metadata", tmp_path / "metadata")
    (place / "timestamp.json").unlink()
    (place / "timestamp.json").mkdir()  # the disk fails there
    with pytest.raises(IsADirectoryError):
        tuf.write(place, standing.published, wanted)
    assert (place / "2.root.json").exists() == (not has_old_keys)


def test_an_old_draft_is_never_published(publisher: Publisher, online: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    draft = (publisher.root / ".edgeshare" / "signing" / "2.cned.json").read_bytes()
    online.release()
    publisher.add(make_lesson(tmp_path / "maths", title="Encore"))
    publisher.release()
    online.release()
    (publisher.root / ".edgeshare" / "signing" / "2.cned.json").write_bytes(draft)
    assert online.release().roles == ()
    assert drafts(publisher) == []
    assert versions(publisher, tmp_path / "client") == {"cned/6e": {"maths": 2}}


def test_what_half_of_a_life_asks_for_becomes_a_draft_where_a_key_is_here(tmp_path: Path) -> None:
    old = Publisher(tmp_path / "old", tmp_path / "old-keys")
    old.init(at=now() - timedelta(days=400), offline_keys=3, threshold=2)
    second = old.holds("root.2", "targets.2")
    old.holds("root.3", "targets.3")
    waiting = old.release().waiting
    assert {each.role: [need.missing for need in each.needs] for each in waiting} == {"root": [1], "targets": [1]}
    for role in ("root", "targets"):
        second.sign(role)
    assert old.release().warnings == ()
    assert served(old.root, tmp_path / "client") == {}


def test_the_online_machine_says_who_releases_what_is_staged(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    with pytest.raises(TrustError, match="no key of cned-lessons is here: its holder runs `edgeshare publish release`"):
        online.release()
    with pytest.raises(TrustError, match="no key of cned-lessons is here: its holder adds lessons"):
        online.add(make_lesson(tmp_path / "svt"))


def test_a_release_with_no_keys_at_all_says_which(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"no key of cned-lessons is here: .*; or give --keys the folder"):
        attrs.evolve(publisher, keys=tmp_path / "nowhere").release()


def test_the_state_of_a_repository_is_read_without_a_key(
    publisher: Publisher, online: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    (waiting,) = read_standing(publisher.root).waiting()
    assert waiting.signed == (key_id(publisher.keys, "cned"),)
    assert isinstance(read_standing(publisher.root).drafts["cned"], Metadata)
