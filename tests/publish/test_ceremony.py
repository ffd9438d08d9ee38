"""Keys come and go while python-tuf's own client follows: it begins at 1.root.json, and believes nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from edgeshare.errors import RepositoryError, TrustError
from edgeshare.publish.ceremony import public_pem, read_public
from edgeshare.publish.countersign import countersign, read_document
from edgeshare.publish.keys import Keys
from edgeshare.publish.repository import read_standing
from edgeshare.targets import publishers
from tests.publish.support import Publisher, key_id, make_lesson, served, tree

pytestmark = pytest.mark.whole  # together they take half a minute

LISTED = {"cned/6e": {"maths": 1}}


def versions(root: Path, client: Path) -> dict[str, dict[str, int]]:
    return {name: each.versions for name, each in served(root, client).items()}


def drafts(publisher: Publisher) -> set[str]:
    return set(read_standing(publisher.root).drafts)


@pytest.fixture
def released(publisher: Publisher, tmp_path: Path) -> Publisher:
    """A repository with one lesson."""
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    return publisher


@attrs.frozen
class Holders:
    """Those who hold the keys of one repository, each on a machine of their own."""

    first: Publisher
    second: Publisher
    third: Publisher
    editor: Publisher
    online: Publisher


@pytest.fixture
def holders(tmp_path: Path) -> Holders:
    """Root and targets need two of three."""
    whole = Publisher(tmp_path / "repository", tmp_path / "keys").init(offline_keys=3, threshold=2)
    return Holders(
        first=whole.holds("root", "targets"),
        second=whole.holds("root.2", "targets.2"),
        third=whole.holds("root.3", "targets.3"),
        editor=whole.holds("cned", "cned-lessons"),
        online=whole.holds("snapshot", "timestamp"),
    )


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "cned"])
def test_a_client_follows_the_rotation_of_any_role(released: Publisher, tmp_path: Path, role: str) -> None:
    assert versions(released.root, tmp_path / "client") == LISTED
    old = key_id(released.keys, role)
    for _ in range(3):
        assert released.rotate(role).waiting == ()
        assert versions(released.root, tmp_path / "client") == LISTED
    above = released.metadata("targets" if role == "cned" else "root").signed
    with pytest.raises(ValueError, match="not found"):
        above.get_key(old)
    assert above.get_delegated_role(role).keyids == [key_id(released.keys, f"{role}.4")]
    assert (released.keys / f"{role}.pem").exists()
    assert versions(released.root, tmp_path / "new client") == LISTED
    (released.keys / f"{role}.pem").unlink()
    released.add(make_lesson(tmp_path / "maths", title="Encore"))
    released.release()
    assert versions(released.root, tmp_path / "client") == {"cned/6e": {"maths": 2}}


def test_a_client_that_missed_ten_roots_follows(released: Publisher, tmp_path: Path) -> None:
    served(released.root, tmp_path / "client")
    for role in ("root", "timestamp", "snapshot", "targets", "root") * 2:
        released.rotate(role)
    assert released.metadata("root").signed.version == 11
    assert versions(released.root, tmp_path / "client") == LISTED


def test_a_rotated_key_for_manifests_signs_all_lessons_anew_as_they_are(released: Publisher, tmp_path: Path) -> None:
    released.add(make_lesson(tmp_path / "gone"))
    released.release()
    released.withdraw("gone")
    released.release()
    before = served(released.root, tmp_path / "client")["cned/6e"]
    assert released.rotate_lesson_key("cned-lessons") == "cned-lessons.2"
    after_rotation = released.release()
    after = served(released.root, tmp_path / "client")["cned/6e"]
    assert [item.manifest for item in after.edition.lessons] == [item.manifest for item in before.edition.lessons]
    assert [item.raw for item in after.edition.lessons] != [item.raw for item in before.edition.lessons]
    assert after.keys.keys().isdisjoint(before.keys)
    (gone,) = after.edition.withdrawn  # still named to readers
    assert gone.lesson is not None
    assert (after_rotation.lessons, [each.edition for each in after_rotation.catalogues]) == ((), [4])
    assert released.release().catalogues == ()


def test_a_lesson_that_was_staged_before_its_key_was_rotated_is_released(released: Publisher, tmp_path: Path) -> None:
    released.add(make_lesson(tmp_path / "svt"))
    released.rotate_lesson_key("cned-lessons")
    released.release()
    assert versions(released.root, tmp_path / "client") == {"cned/6e": {"maths": 1, "svt": 1}}
    assert released.release().catalogues == ()


def test_a_catalogue_with_nothing_in_it_goes_on_under_the_new_key_too(released: Publisher, tmp_path: Path) -> None:
    released.withdraw("maths")
    released.release()
    released.reinstate("maths")
    released.release()
    (old,) = served(released.root, tmp_path / "client")["cned/6e"].keys
    released.rotate_lesson_key("cned-lessons")
    released.release()
    found = served(released.root, tmp_path / "client")["cned/6e"]
    assert (found.edition.lessons, found.edition.withdrawn) == ((), ())
    assert old not in found.keys


def test_a_revoked_key_for_manifests_is_named_in_targets(released: Publisher, tmp_path: Path) -> None:
    (old,) = served(released.root, tmp_path / "client")["cned/6e"].keys
    released.rotate_lesson_key("cned-lessons")
    waiting = released.revoke_key("cned-lessons", old.hex()).waiting
    assert [each.role for each in waiting] == ["targets"]  # not before the lessons have another signature
    assert released.metadata("targets").signed.version == 1
    assert released.release().roles == ("targets", "cned")
    assert publishers(released.metadata("targets").signed).revoked_keys == {old}
    assert old not in served(released.root, tmp_path / "client")["cned/6e"].keys


def test_a_key_on_which_the_lessons_rest_is_not_revoked(released: Publisher, tmp_path: Path) -> None:
    (only,) = served(released.root, tmp_path / "client")["cned/6e"].keys
    before = tree(released.root)
    with pytest.raises(RepositoryError, match=r"the lessons of cned are signed by .* `edgeshare publish keys rotate`"):
        released.revoke_key("cned-lessons", only.hex())
    assert tree(released.root) == before


def test_a_revoked_key_for_manifests_signs_nothing(released: Publisher, tmp_path: Path) -> None:
    (old,) = served(released.root, tmp_path / "client")["cned/6e"].keys
    released.rotate_lesson_key("cned-lessons")
    released.revoke_key("cned-lessons", old.hex())
    released.release()
    (released.keys / "cned-lessons.2.pem").unlink()
    with pytest.raises(TrustError, match="the key here for the manifests of cned was revoked"):
        released.add(make_lesson(tmp_path / "svt"))


def test_two_of_three_sign_a_root_one_after_another(holders: Holders, tmp_path: Path) -> None:
    served(holders.online.root, tmp_path / "client")
    made = CryptoSigner.generate_ed25519().public_key
    (waiting,) = holders.first.add_key("root", made).waiting
    assert (waiting.role, waiting.version, len(waiting.signed)) == ("root", 2, 1)
    assert {need.missing for need in waiting.needs} == {1}
    assert holders.online.release().roles == ()
    assert holders.online.metadata("root").signed.version == 1
    signed = holders.third.sign("root")
    assert (signed.signed, signed.needs) == ((key_id(holders.third.keys, "root.3"),), ())
    assert holders.online.release().roles == ("root",)
    assert made.keyid in holders.online.metadata("root").signed.roles["root"].keyids
    assert served(holders.online.root, tmp_path / "client") == {}


def test_a_draft_is_signed_where_there_is_nothing_but_the_file(holders: Holders, tmp_path: Path) -> None:
    holders.first.rotate("root")
    signing = holders.first.root / ".edgeshare" / "signing"
    stick = tmp_path / "stick"
    stick.mkdir()
    shutil.move(signing / "2.root.json", stick)
    for holder in (holders.second, holders.third):
        assert len(countersign(read_document(stick / "2.root.json"), Keys(holder.keys)).signed) == 1
    shutil.move(stick / "2.root.json", signing)
    assert holders.online.release().roles == ("root",)
    assert served(holders.online.root, tmp_path / "client") == {}


def test_the_same_key_counts_once_and_signing_again_changes_nothing(holders: Holders) -> None:
    holders.first.rotate("targets", key_id(holders.second.keys, "targets.2"))
    draft = holders.first.root / ".edgeshare" / "signing" / "2.root.json"
    before = draft.read_bytes()
    again = holders.first.sign("root")
    assert (again.signed, len(again.had_signed)) == ((), 1)
    assert draft.read_bytes() == before
    assert holders.online.release().roles == ()


def test_a_root_that_only_its_own_keys_have_signed_is_not_published(holders: Holders) -> None:
    holders.first.rotate("root")
    path = holders.first.root / ".edgeshare" / "signing" / "2.root.json"
    draft = Metadata.from_file(str(path))
    old = holders.first.metadata("root").signed.roles["root"].keyids
    holders.second.sign("root")
    draft = Metadata.from_file(str(path))
    # what the new root asks for is there: its own two; of the old threshold one is taken away
    del draft.signatures[next(key for key in old if key in draft.signatures and key not in draft.signed.keys)]
    assert draft.signed.get_verification_result("root", draft.signed_bytes, draft.signatures)
    draft.to_file(str(path))
    assert holders.online.release().roles == ()
    assert holders.online.metadata("root").signed.version == 1


def test_a_role_that_gets_a_higher_threshold_is_signed_by_more_before_its_root_is_published(
    released: Publisher, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    other = attrs.evolve(released, keys=elsewhere)
    Keys(elsewhere).make("targets")
    added = released.add_key("targets", Keys(elsewhere).signer("targets").public_key, threshold=2)
    assert {each.role for each in added.waiting} == {"root", "targets"}
    assert released.metadata("root").signed.version == 1
    other.sign("targets")
    assert set(released.release().roles) == {"root", "targets"}
    assert released.metadata("root").signed.roles["targets"].threshold == 2
    assert versions(released.root, tmp_path / "client") == LISTED


def test_a_root_that_takes_away_the_keys_of_targets_waits_until_targets_is_signed_anew(
    holders: Holders, tmp_path: Path
) -> None:
    holders.first.rotate("targets")
    holders.second.rotate("targets")  # changes the draft, which nobody has signed any more
    assert drafts(holders.online) == {"root", "targets"}
    holders.first.sign("root")
    assert holders.online.release().roles == ()
    holders.first.sign("targets")
    assert set(holders.online.release().roles) == {"root", "targets"}
    keys = holders.online.metadata("root").signed.roles["targets"].keyids
    assert key_id(holders.first.keys, "targets") not in keys
    assert served(holders.online.root, tmp_path / "client") == {}


def test_a_change_to_a_draft_takes_its_signatures_away(holders: Holders) -> None:
    holders.first.add_key("root", CryptoSigner.generate_ed25519().public_key)
    (waiting,) = holders.third.add_key("root", CryptoSigner.generate_ed25519().public_key).waiting
    assert waiting.signed == (key_id(holders.third.keys, "root.3"),)


def test_a_key_leaves_its_role(holders: Holders, tmp_path: Path) -> None:
    leaving = key_id(holders.third.keys, "root.3")
    holders.first.revoke_key("root", leaving[:8])
    holders.second.sign("root")
    holders.online.release()
    assert leaving not in holders.online.metadata("root").signed.keys
    assert served(holders.online.root, tmp_path / "client") == {}


def test_a_role_is_never_left_with_fewer_keys_than_its_threshold(released: Publisher) -> None:
    before = tree(released.root)
    with pytest.raises(RepositoryError, match="timestamp would have no key left"):
        released.revoke_key("timestamp", key_id(released.keys, "timestamp"))
    for threshold in (0, -1, 3):
        with pytest.raises(
            RepositoryError, match=f"the threshold of root cannot be {threshold} when it has 2 keys: it can be 1 to 2"
        ):
            released.add_key("root", CryptoSigner.generate_ed25519().public_key, threshold=threshold)
    assert tree(released.root) == before


def test_a_key_counts_once_in_a_role(released: Publisher) -> None:
    """A threshold of two with one key twice could never be reached."""
    before = tree(released.root)
    with pytest.raises(RepositoryError, match=r"root has the key [0-9a-f]{8} already"):
        released.add_key("root", Keys(released.keys).signer("root").public_key, threshold=2)
    assert tree(released.root) == before


def test_the_keys_of_snapshot_and_timestamp_are_replaced_without_the_old_ones(holders: Holders, tmp_path: Path) -> None:
    """The machine with the online keys was stolen, and its keys with it."""
    served(holders.online.root, tmp_path / "client")
    new = attrs.evolve(holders.online, keys=tmp_path / "new-online")
    for role in ("snapshot", "timestamp"):
        new.rotate(role, key_id(holders.online.keys, role))
    assert drafts(new) == {"root"}
    holders.first.sign("root")
    holders.second.sign("root")
    assert new.release().roles == ("root",)
    assert served(new.root, tmp_path / "client") == {}
    with pytest.raises(TrustError, match="do not count"):
        holders.online.refresh()


def test_a_wrong_key_for_the_timestamp_writes_nothing(released: Publisher, tmp_path: Path) -> None:
    before = tree(released.root)
    Keys(tmp_path / "strange").make("timestamp")
    with pytest.raises(TrustError, match="the keys here for snapshot and timestamp do not count"):
        attrs.evolve(released, keys=tmp_path / "strange").refresh()
    assert tree(released.root) == before


def test_a_public_key_is_read_as_it_was_printed(tmp_path: Path) -> None:
    for signer in (CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa()):
        (tmp_path / "key.pem").write_text(public_pem(signer.public_key), encoding="ascii")
        assert read_public(tmp_path / "key.pem") == signer.public_key


def test_a_stranger_cannot_sign_a_role(released: Publisher, tmp_path: Path) -> None:
    strange = attrs.evolve(released, keys=tmp_path / "strange")
    Keys(strange.keys).make("root", "targets")
    assert drafts(released) == set()
    strange.rotate("targets", key_id(released.keys, "targets"))
    draft = read_standing(released.root).drafts["root"]
    with pytest.raises(UnsignedMetadataError):
        released.metadata("root").signed.verify_delegate("root", draft.signed_bytes, draft.signatures)
    assert released.release().roles == ()
    assert versions(released.root, tmp_path / "client") == LISTED
