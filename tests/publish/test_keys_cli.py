"""`edgeshare publish keys` and `delegate` as those who hold keys meet them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from edgeshare.publish import ceremony
from edgeshare.publish.keys import Keys, public_half
from tests.publish.support import Editor, Publisher, key_id, make_lesson, now, served, tree


@pytest.fixture
def holder(editor: Editor) -> Editor:
    """Who holds a root key alone; a second one, which has to sign too, is on a stick."""
    Keys(editor.publisher.keys).make("root.2")
    stick = editor.publisher.holds("root.2")
    editor.publisher.add_key("root", Keys(stick.keys).signer("root.2").public_key, threshold=2)
    stick.sign("root")
    editor.publisher.release()
    return editor


def stick_of(holder: Editor) -> Path:
    return holder.publisher.keys.with_name("keys-root.2")


def draft_of(editor: Editor, role: str) -> Path:
    (path,) = (editor.publisher.root / ".edgeshare" / "signing").glob(f"*.{role}.json")
    return path


def test_a_repository_is_made_with_three_keys_of_which_two_sign(tmp_path: Path, editor: Editor) -> None:
    large = attrs.evolve(editor, publisher=Publisher(tmp_path / "large", tmp_path / "large-keys"))
    printed = large.publish("init", "--root-keys", "3", "--threshold", "2")
    assert printed.code == 0
    assert "keep the 6 of root and targets off this machine" in printed.err
    assert {path.stem for path in large.publisher.keys.iterdir()} == {
        *("root", "root.2", "root.3", "targets", "targets.2", "targets.3"),
        *("snapshot", "timestamp", "cned", "cned-lessons"),
    }
    listed = json.loads(large.run("keys", "list", large.publisher.root, "--json").out)
    assert [(role["threshold"], len(role["keys"])) for role in listed["roles"][:4]] == [(2, 3), (2, 3), (1, 1), (1, 1)]


@pytest.mark.parametrize(("keys", "threshold"), [(0, 1), (1, 0), (2, 3), (17, 1), (1, -1)])
def test_a_repository_is_not_made_with_a_threshold_that_cannot_be_reached(
    tmp_path: Path, editor: Editor, keys: int, threshold: int
) -> None:
    other = attrs.evolve(editor, publisher=Publisher(tmp_path / "other", tmp_path / "other-keys"))
    line = other.refused("init", "--root-keys", f"{keys}", "--threshold", f"{threshold}")
    assert f"a threshold of {threshold} with {keys} keys cannot be" in line
    assert not other.publisher.keys.exists()


def test_keys_are_listed_with_where_they_are(editor: Editor, tmp_path: Path) -> None:
    editor.publisher.add(make_lesson(tmp_path / "maths"))
    editor.publisher.release()
    (editor.publisher.keys / "root.pem").rename(tmp_path / "root.pem")
    lines = editor.publish("keys list").out.splitlines()
    root = lines[0]
    assert root.startswith("root: version 1, expires 20")
    assert root.endswith(", 1 of 1")
    assert lines[1].endswith(" ed25519")
    timestamp = lines.index(next(line for line in lines if line.startswith("timestamp: ")))
    assert lines[timestamp + 1] == f"  {key_id(editor.publisher.keys, 'timestamp')[:8]} ed25519, here as timestamp"
    assert lines[-2:][0] == "cned-lessons: 1 of 1"
    assert lines[-1].endswith(" ed25519, here as cned-lessons")


def test_keys_are_listed_without_any_key(editor: Editor) -> None:
    printed = editor.run("keys", "list", editor.publisher.root)
    assert printed.code == 0
    assert "here" not in printed.out


def test_a_draft_is_listed_with_those_who_are_missing(holder: Editor) -> None:
    printed = holder.publish("keys rotate", "timestamp")
    wanted = key_id(stick_of(holder), "root.2")[:8]
    line = f"root 3 waits for 1 signature of {wanted}: `edgeshare publish keys sign {draft_of(holder, 'root')}`"
    assert (printed.code, printed.out) == (0, "")
    assert line in printed.err
    assert line in holder.publish("keys list").err
    (waiting,) = json.loads(holder.publish("keys list", "--json").out)["waiting"]
    assert (waiting["role"], waiting["version"]) == ("root", 3)
    assert waiting["needs"] == [{"missing": 1, "keys": [key_id(stick_of(holder), "root.2")]}]
    assert line in holder.publish("release").err
    assert json.loads(holder.publish("release", "--json").out)["waiting"] == [waiting]


def test_a_draft_is_carried_signed_and_published(holder: Editor, tmp_path: Path) -> None:
    holder.publish("keys rotate", "timestamp")
    carried = Path(shutil.copy(draft_of(holder, "root"), tmp_path))
    shutil.copy(holder.publisher.root / "metadata" / "2.root.json", tmp_path)
    before = tree(holder.publisher.root)
    signed = holder.run("keys", "sign", carried, "--keys", stick_of(holder), "--yes")
    assert signed.code == 0
    assert signed.out.splitlines() == [
        f"signed by {key_id(stick_of(holder), 'root.2')[:8]}",
        "it has all signatures: `edgeshare publish release` publishes it",
    ]
    old, new = (key_id(holder.publisher.keys, name)[:8] for name in ("timestamp", "timestamp.2"))
    assert signed.err.splitlines()[0].startswith("root, version 3, expires 20")
    assert signed.err.splitlines()[1:] == [
        "root: 2 of 2 keys, 2 as before",
        "targets: 1 of 1 keys, 1 as before",
        "snapshot: 1 of 1 keys, 1 as before",
        f"timestamp: 1 of 1 keys, + {new}, - {old}",
    ]
    assert tree(holder.publisher.root) == before
    shutil.copy(carried, draft_of(holder, "root"))
    assert holder.publish("release").out.splitlines()[0] == "published new metadata of root"
    assert served(holder.publisher.root, tmp_path / "client") == {}


def test_signing_twice_says_so(holder: Editor) -> None:
    holder.publish("keys rotate", "snapshot")
    draft = draft_of(holder, "root")
    before = draft.read_bytes()
    printed = holder.run("keys", "sign", draft, "--keys", holder.publisher.keys, "--yes")
    assert printed.code == 0
    assert printed.out.splitlines()[0] == "these keys have signed it before: nothing changed"
    assert printed.out.splitlines()[1].startswith("it lacks 1 signature of ")
    assert draft.read_bytes() == before


def test_without_what_is_above_it_a_signer_is_told_that_all_is_new(editor: Editor, tmp_path: Path) -> None:
    targets = editor.publisher.holds("targets")
    editor.publish("delegate", "lyon", "--prefix", "lyon-")
    carried = Path(shutil.copy(draft_of(editor, "targets"), tmp_path))
    printed = editor.run("keys", "sign", carried, "--keys", targets.keys, "--yes")
    assert printed.code == 0
    assert "the version before is not beside it: everything below is shown as new" in printed.err
    assert "lyon publishes lessons whose ids begin with lyon-" in printed.err
    assert printed.out.splitlines() == [f"signed by {key_id(targets.keys, 'targets')[:8]}"]
    shutil.copy(carried, draft_of(editor, "targets"))
    assert "published new metadata of targets, lyon" in editor.publish("release").out


def test_signing_a_publishers_draft_shows_its_catalogues(editor: Editor, tmp_path: Path) -> None:
    editor.publisher.holds("timestamp")
    editor.publisher.add(make_lesson(tmp_path / "maths"))
    editor.publish("release")
    printed = editor.run("keys", "sign", draft_of(editor, "cned"), "--keys", editor.publisher.keys, "--yes")
    assert "new: catalogue/cned/6e.manifest" in printed.err


def test_without_a_terminal_nothing_is_signed_unasked(holder: Editor) -> None:
    holder.publish("keys rotate", "timestamp")
    draft = draft_of(holder, "root")
    before = draft.read_bytes()
    printed = holder.run("keys", "sign", draft, "--keys", stick_of(holder))
    assert (printed.code, printed.out) == (2, "")
    assert "there is no terminal to confirm at: give --yes" in printed.err
    assert draft.read_bytes() == before


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_at_a_terminal_a_signer_is_asked(holder: Editor, answer: str, code: int) -> None:
    holder.publish("keys rotate", "timestamp")
    draft = draft_of(holder, "root")
    before = draft.read_bytes()
    assert typed([("Sign root, version 3", answer)], "keys", "sign", draft, "--keys", stick_of(holder)) == code
    assert (draft.read_bytes() != before) == (code == 0)


def test_new_keys_are_encrypted_with_a_passphrase_that_is_typed_twice(editor: Editor, tmp_path: Path) -> None:
    root, keys = tmp_path / "locked", tmp_path / "locked-keys"
    new, again, old = "passphrase for the new keys", "Repeat", "passphrase of the key"
    answers = [(new, "secret"), (again, "other"), (new, "secret"), (again, "secret")]
    assert typed(answers, "init", root, "--keys", keys, "--encrypt") == 0
    for path in keys.iterdir():
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert typed([(old, "secret")], "refresh", root, "--keys", keys) == 0
    printed = editor.run("refresh", root, "--keys", keys)
    assert (printed.code, printed.err.count("\n")) == (1, 1)
    assert "needs its passphrase" in printed.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timestamp.json", "is a timestamp: `edgeshare publish release` signs it"),
        ("1.snapshot.json", "is a snapshot: `edgeshare publish release` signs it"),
        ("garbage", "is not TUF metadata"),
        ("huge", "is not TUF metadata"),
        ("nowhere.json", "cannot read"),
        ("7.targets.json", "is not what its name says"),
        ("1.root.json.targets.json", "is not what its name says"),
        ("1.cned2.json", "no key of cned2 is here"),
    ],
)
def test_a_file_that_is_no_draft_is_not_signed(editor: Editor, tmp_path: Path, name: str, said: str) -> None:
    folder = shutil.copytree(editor.publisher.root / "metadata", tmp_path / "folder")
    (folder / "garbage").write_bytes(b"[" * 9000)
    (folder / "huge").write_bytes((folder / "1.targets.json").read_bytes() + b" " * 6_000_000)
    shutil.copy(folder / "1.targets.json", folder / "7.targets.json")
    shutil.copy(folder / "1.root.json", folder / "1.root.json.targets.json")
    shutil.copy(folder / "1.cned.json", folder / "1.cned2.json")
    before = tree(folder)
    printed = editor.run("keys", "sign", folder / name, "--keys", editor.publisher.keys, "--yes")
    assert (printed.code, printed.out) == (1, "")
    assert said in printed.err.splitlines()[-1]
    assert tree(folder) == before


def test_a_key_that_does_not_count_signs_nothing(editor: Editor, tmp_path: Path) -> None:
    Keys(tmp_path / "strange").make("cned")
    editor.publisher.holds("timestamp")
    editor.publisher.add(make_lesson(tmp_path / "maths"))
    editor.publisher.release()
    draft = draft_of(editor, "cned")
    before = draft.read_bytes()
    printed = editor.run("keys", "sign", draft, "--keys", tmp_path / "strange", "--yes")
    assert (printed.code, printed.out) == (1, "")
    assert "the keys of cned here do not count for 2.cned.json" in printed.err
    assert draft.read_bytes() == before


def test_names_from_a_file_never_command_a_terminal(editor: Editor, tmp_path: Path) -> None:
    role = json.loads((editor.publisher.root / "metadata" / "1.targets.json").read_bytes())
    role["signed"]["delegations"]["roles"][0]["name"] = "\x9b2J"
    role["signed"]["targets"] = {"\u202ex\x07": {"length": 1, "hashes": {"sha256": "00"}}}
    role["signed"]["x-edgeshare"] = {"revoked": {"\x9b1m": "Clé volée"}}
    (tmp_path / "1.targets.json").write_text(json.dumps(role), encoding="utf-8")
    # Not ESC, which click keeps from what is no terminal: the test would not see it.
    printed = editor.run("keys", "sign", tmp_path / "1.targets.json", "--keys", editor.publisher.keys, "--yes")
    assert printed.code == 0
    assert printed.err.replace("\n", "").isprintable()


def test_an_odd_say_of_publishers_is_one_line(editor: Editor, tmp_path: Path) -> None:
    role = json.loads((editor.publisher.root / "metadata" / "1.targets.json").read_bytes())
    role["signed"]["x-edgeshare"] = {"revoked": ["x"]}
    (tmp_path / "1.targets.json").write_text(json.dumps(role), encoding="utf-8")
    printed = editor.run("keys", "sign", tmp_path / "1.targets.json", "--keys", editor.publisher.keys, "--yes")
    assert printed.code == 1
    assert "something else than who may publish" in printed.err.splitlines()[-1]


def test_a_key_is_made_and_its_public_half_added(editor: Editor, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    made = editor.run("keys", "make", "root", "--keys", stick)
    assert made.code == 0
    assert "PRIVATE" not in made.out + made.err
    (tmp_path / "anne.pem").write_text(made.out, encoding="ascii")
    added = editor.publish("keys add", "root", "--public", tmp_path / "anne.pem", "--threshold", "2")
    assert (added.code, added.out) == (0, "")
    assert f"root 2 waits for 1 signature of {key_id(stick, 'root')[:8]}" in added.err
    editor.run("keys", "sign", draft_of(editor, "root"), "--keys", stick, "--yes")
    assert editor.publish("release").out.startswith("published new metadata of root\n")
    assert served(editor.publisher.root, tmp_path / "client") == {}


def test_a_key_is_made_where_it_is_added(editor: Editor) -> None:
    added = editor.publish("keys add", "targets")
    assert added.out == "published new metadata of root\n"
    made = key_id(editor.publisher.keys, "targets.2")[:8]
    assert added.err == f"made targets.2 ({made}) in {editor.publisher.keys}\n"


def test_a_key_is_revoked(editor: Editor) -> None:
    editor.publish("keys add", "targets")
    first = key_id(editor.publisher.keys, "targets")
    revoked = editor.publish("keys revoke", "targets", "--key", first[:8])
    assert revoked.out == "published new metadata of root, targets\n"  # signed anew by the other
    assert editor.publisher.metadata("root").signed.roles["targets"].keyids != [first]


def test_a_key_that_replaces_a_lost_one_is_named_with_the_folder_that_it_came_to(holder: Editor) -> None:
    lost = key_id(stick_of(holder), "root.2")
    rotated = holder.publish("keys rotate", "root", "--key", lost)
    made = key_id(holder.publisher.keys, "root.2")
    assert f"made root.2 ({made[:8]}) in {holder.publisher.keys}\n" in rotated.err
    assert "warning: 2 keys of root are in one folder, and 2 are enough to sign: move them" in rotated.err
    # what a thief of that folder could do, nobody who holds one key is warned of
    assert "warning" not in holder.publish("keys rotate", "timestamp").err


def test_a_lost_key_is_replaced_by_one_that_its_holder_made(tmp_path: Path, editor: Editor) -> None:
    """The commands of docs/disasters.md, in their order."""
    whole = Publisher(tmp_path / "large", tmp_path / "large-keys").init(offline_keys=3, threshold=2)
    anne, bruno, lost = whole.holds("root", "targets"), whole.holds("root.2", "targets.2"), whole.holds("root.3")
    lost_id = key_id(lost.keys, "root.3")
    made = editor.run("keys", "make", "root", "--keys", tmp_path / "chloe")
    (tmp_path / "chloe.pem").write_text(made.out, encoding="ascii")
    with_anne = attrs.evolve(editor, publisher=anne)
    assert with_anne.publish("keys add", "root", "--public", tmp_path / "chloe.pem").code == 0
    revoked = with_anne.publish("keys revoke", "root", "--key", lost_id[:8])
    assert (revoked.code, "warning" in revoked.err) == (0, False)
    draft = draft_of(with_anne, "root")
    assert editor.run("keys", "sign", draft, "--keys", bruno.keys, "--yes").code == 0
    assert attrs.evolve(editor, publisher=whole).publish("release").out.startswith("published new metadata of root\n")
    root = whole.metadata("root").signed.roles["root"]
    wanted = {key_id(anne.keys, "root"), key_id(bruno.keys, "root.2"), key_id(tmp_path / "chloe", "root")}
    assert (set(root.keyids), root.threshold) == (wanted, 2)


def test_what_a_root_lacks_is_said_for_the_keys_before_and_the_new(tmp_path: Path, editor: Editor) -> None:
    whole = Publisher(tmp_path / "large", tmp_path / "large-keys").init(offline_keys=3, threshold=2)
    first = attrs.evolve(editor, publisher=whole.holds("root"))
    (tmp_path / "new.pem").write_text(editor.run("keys", "make", "root", "--keys", tmp_path / "new").out)
    said = first.publish("keys add", "root", "--public", tmp_path / "new.pem").err
    others = [key_id(whole.keys, name)[:8] for name in ("root.2", "root.3")]
    before, new = (", ".join(sorted(ids)) for ids in (others, [*others, key_id(tmp_path / "new", "root")[:8]]))
    assert f"root 2 waits for 1 of the keys before ({before}) and 1 of the new ({new}); one key may count for" in said


def test_a_root_alone_is_signed_by_none_but_the_keys_that_it_lists(holder: Editor, tmp_path: Path) -> None:
    holder.publish("keys rotate", "timestamp")
    carried = Path(shutil.copy(draft_of(holder, "root"), tmp_path))
    Keys(stick_of(holder)).make("root.7")
    signed = holder.run("keys", "sign", carried, "--keys", stick_of(holder), "--yes")
    assert signed.out == f"signed by {key_id(stick_of(holder), 'root.2')[:8]}\n"
    assert "cannot be told without 2.root.json beside it" in signed.err
    Keys(tmp_path / "strange").make("root")
    before = carried.read_bytes()
    refused = holder.run("keys", "sign", carried, "--keys", tmp_path / "strange", "--yes")
    assert "do not count for 3.root.json: put 2.root.json beside it" in refused.err
    assert (refused.code, carried.read_bytes()) == (1, before)


def test_a_role_whose_keys_nobody_told_is_signed_and_the_file_named(editor: Editor, tmp_path: Path) -> None:
    targets = editor.publisher.holds("targets")
    editor.publish("delegate", "lyon", "--prefix", "lyon-")
    carried = Path(shutil.copy(draft_of(editor, "targets"), tmp_path))
    printed = editor.run("keys", "sign", carried, "--keys", targets.keys, "--yes")
    assert (printed.code, printed.out) == (0, f"signed by {key_id(targets.keys, 'targets')[:8]}\n")
    assert "cannot be told without the newest N.root.json beside it" in printed.err


@pytest.mark.parametrize(
    "command", [("keys add", "targets"), ("keys rotate", "root"), ("delegate", "lyon", "--prefix=l-")]
)
def test_a_command_that_fails_leaves_no_new_key_behind(editor: Editor, command: tuple[str, ...]) -> None:
    Keys(editor.publisher.keys).make("root.9", "targets.9", passphrase="nobody knows")
    before = tree(editor.publisher.keys)
    name, *rest = command
    assert "needs its passphrase" in editor.refused(name, *rest)
    assert tree(editor.publisher.keys) == before


def test_keys_stay_when_a_command_fails_after_its_draft_was_kept(editor: Editor) -> None:
    keys = Keys(editor.publisher.keys)

    def interrupted() -> None:
        with ceremony.removed_if_it_fails(keys, editor.publisher.root):
            key = ceremony.make_key(keys, "targets")[1]
            ceremony.make_key(keys, "lyon-lessons")
            editor.publisher.add_key("targets", key)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {"targets.2", "lyon-lessons"} <= set(keys.names())


@pytest.mark.parametrize(
    "command",
    ["keys add R root", "keys rotate R root", "keys revoke R root --key 00", "keys sign R", "keys list R", "release R"],
)
def test_a_mistyped_folder_of_keys_is_not_made(editor: Editor, tmp_path: Path, command: str) -> None:
    file = editor.publisher.root / "metadata" / "1.root.json" if "sign" in command else editor.publisher.root
    arguments = [str(file) if word == "R" else word for word in command.split()]
    yes = ["--yes"] if "sign" in command else []
    printed = editor.run(*arguments, *yes, "--keys", tmp_path / "kyes")
    assert (printed.code, (tmp_path / "kyes").exists()) == (1, False)
    assert f"there is no folder {tmp_path / 'kyes'}: check --keys" in printed.err


def test_one_key_for_two_roles_is_warned_of(editor: Editor, tmp_path: Path) -> None:
    public = Keys(editor.publisher.keys).signer("root").public_key
    (tmp_path / "root.pub").write_text(ceremony.public_pem(public), encoding="ascii")
    added = editor.publish("keys add", "targets", "--public", tmp_path / "root.pub")
    assert added.code == 0
    assert f"warning: {public.keyid[:8]} signs for targets and for root: who steals it has both" in added.err
    lyon = editor.publish("delegate", "lyon", "--prefix", "lyon-", "--public", tmp_path / "root.pub")
    assert f"warning: {public.keyid[:8]} signs for lyon and for root" in lyon.err


def test_keys_that_lay_there_are_said_when_a_repository_is_made(editor: Editor, tmp_path: Path) -> None:
    keys = tmp_path / "some-keys"
    assert "already" not in editor.run("init", tmp_path / "new", "--keys", keys).err
    (keys / "cned.pem").unlink()
    printed = editor.run("init", tmp_path / "newer", "--keys", keys)
    assert (
        f"warning: root, targets, snapshot, timestamp, cned-lessons lay in {keys} already, and are used" in printed.err
    )


def test_new_keys_have_a_passphrase_from_a_terminal_or_a_file(editor: Editor, tmp_path: Path) -> None:
    printed = editor.run("init", tmp_path / "new", "--keys", tmp_path / "new-keys", "--encrypt")
    assert printed.err == (
        "edgeshare: the new keys need a passphrase: run it in a terminal, "
        "or name a file that holds one in EDGESHARE_PASSPHRASE_FILE\n"
    )
    assert not (tmp_path / "new").exists()


def test_a_publisher_without_a_release_has_no_key_for_manifests_yet(editor: Editor) -> None:
    assert editor.publish("keys list").out.splitlines()[-1] == "cned-lessons: no key yet: the first release names it"


def test_who_leaves_at_a_question_is_neither_wrong_nor_right(editor: Editor, tmp_path: Path) -> None:
    Keys(tmp_path / "locked").make("timestamp", passphrase="secret")
    asked = [("passphrase of the key timestamp", "\x04")]
    assert typed(asked, "refresh", editor.publisher.root, "--keys", tmp_path / "locked") == 130


def test_the_bar_of_a_lesson_waits_for_the_passphrase(editor: Editor, tmp_path: Path) -> None:
    keys, root = tmp_path / "locked", tmp_path / "locked-repository"
    Keys(keys).make("cned-lessons", passphrase="secret")
    editor.run("init", root, "--keys", keys)
    lesson = make_lesson(tmp_path / "maths")
    question = "passphrase of the key cned-lessons"
    before: list[bytes] = []
    assert typed([(question, "secret")], "add", root, lesson, "--keys", keys, before=before) == 0
    assert b"reading maths" not in before[0]


def test_a_key_for_manifests_is_rotated_then_revoked(editor: Editor, tmp_path: Path) -> None:
    editor.publisher.add(make_lesson(tmp_path / "maths"))
    editor.publish("release")
    listed = json.loads(editor.publish("keys list", "--json").out)["roles"][-1]
    old = listed["keys"][0]["id"]
    assert "are signed by" in editor.refused("keys revoke", "cned-lessons", "--key", old)
    rotated = editor.publish("keys rotate", "cned-lessons")
    assert rotated.out == "the next `edgeshare publish release` signs all lessons with cned-lessons.2\n"
    new = Keys(editor.publisher.keys).signer("cned-lessons.2").public_key
    assert f"made cned-lessons.2 ({public_half(new).id.hex()[:8]}) in" in rotated.err
    assert editor.publish("release").out.startswith("released cned/6e edition 2")
    editor.publish("keys rotate", "cned-lessons")
    assert editor.publish("release").code == 0
    second = json.loads(editor.publish("keys list", "--json").out)["roles"][-1]["keys"][0]["id"]
    assert second != old
    assert editor.publish("keys revoke", "cned-lessons", "--key", old).out == "published new metadata of targets\n"


def test_an_academie_publishes_and_is_revoked(editor: Editor, tmp_path: Path) -> None:
    assert editor.publish("delegate", "lyon", "--prefix", "lyon-").out == (
        "lyon may publish lessons whose ids begin with lyon-\n"
    )
    lyon = ("--publisher", "lyon")
    assert editor.publish("add", make_lesson(tmp_path / "lyon-svt"), *lyon).code == 0
    assert "lyon-svt is an id of lyon, not of cned" in editor.refused("add", tmp_path / "lyon-svt")
    assert "released lyon/6e edition 1" in editor.publish("release", *lyon).out
    assert editor.publish("withdraw", "lyon-svt", "--reason", "Erreur", *lyon).code == 0
    editor.publish("release", *lyon)
    assert editor.publish("reinstate", "lyon-svt", *lyon).out == (
        "staged the return of lyon-svt; add it again, and publish both with `edgeshare publish release`\n"
    )
    assert "staged lyon-svt, version 2" in editor.publish("add", tmp_path / "lyon-svt", *lyon).out
    editor.publish("release", *lyon)
    revoked = editor.publish("keys revoke", "lyon", "--reason", "Clé volée")
    assert revoked.out == "published new metadata of targets\n"
    assert served(editor.publisher.root, tmp_path / "client") == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keys rotate", "timestap"), "the repository has no role 'timestap': did you mean timestamp?"),
        (("keys add", "lyon"), "the repository has no role 'lyon': its roles are root, targets"),
        (("keys add", "cned-lessons"), "cned-lessons has one key at a time: `edgeshare publish keys rotate`"),
        (("keys add", "root", "--public", "/nowhere.pem"), "cannot read the public key /nowhere.pem"),
        (("keys add", "root", "--public", "/dev/null"), "/dev/null is not a public key that can be used"),
        (
            ("keys add", "timestamp", "--threshold", "3"),
            "the threshold of timestamp cannot be 3 when it has 2 keys: it can be 1 to 2",
        ),
        (("keys rotate", "root", "--key", "00000000"), "root has no key '00000000'"),
        (("keys rotate", "lyon-lessons"), "the repository has no publisher 'lyon'"),
        (("keys revoke", "root", "--key", "ffffffff"), "root has no key 'ffffffff'"),
        (("keys revoke", "lyon", "--reason", "x"), "the repository has no publisher 'lyon'"),
        (("keys revoke", "cned", "--reason", "x"), "cned is the repository's own publisher"),
        (("delegate", "root", "--prefix", "a-"), "'root' cannot be a publisher's name"),
        (("delegate", "lyon", "--prefix", "L-"), "no lesson's id can begin with 'L-'"),
        (("delegate", "lyon", "--prefix", "l-", "--public", "/dev/null"), "/dev/null is not a public key"),
        (("release", "--publisher", "cnedd"), "the repository has no publisher 'cnedd': did you mean cned?"),
        (("reinstate", "maths"), "no lesson maths was withdrawn here"),
    ],
    ids=range(16),
)
def test_a_change_that_cannot_be_is_one_line(editor: Editor, arguments: tuple[str, ...], said: str) -> None:
    command, *rest = arguments
    assert said in editor.refused(command, *rest)


def test_a_key_is_named_by_eight_digits_at_least(editor: Editor) -> None:
    seven = key_id(editor.publisher.keys, "root")[:7]
    line = editor.refused("keys rotate", "root", "--key", seven)
    assert f"root has no key '{seven}': give 8 digits or more of its id" in line


def test_a_role_whose_keys_are_all_elsewhere_is_not_rotated_by_name(editor: Editor) -> None:
    editor.publisher.holds("snapshot")
    line = editor.refused("keys rotate", "snapshot")
    assert "no key of snapshot is here: name the one to replace with --key" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "revoke", "R", "lyon", "--keys", "K"),
        ("keys", "revoke", "R", "lyon", "--keys", "K", "--key", "00", "--reason", "x"),
        ("keys", "add", "R", "root", "--keys", "K", "--public", "a", "--key-uri", "hsm:"),
        ("keys", "make", "--keys", "K"),
        ("keys", "make", "a", "b", "--keys", "K", "--key-uri", "hsm:"),
        ("keys", "rotate", "R", "--keys", "K"),
        ("keys", "sign", "--keys", "K"),
        ("delegate", "R", "lyon", "--keys", "K"),
        ("keys", "nothing"),
    ],
    ids=range(9),
)
def test_wrong_usage_is_exit_code_2(editor: Editor, arguments: tuple[str, ...]) -> None:
    assert editor.run(*arguments).code == 2


def test_the_keys_of_an_old_repository_are_listed_with_what_grows_old(tmp_path: Path, editor: Editor) -> None:
    old = Publisher(tmp_path / "old", tmp_path / "old-keys").init(at=now().replace(year=2024, month=1, day=1))
    printed = attrs.evolve(editor, publisher=old).publish("keys list")
    assert "root: version 1, expires 2025-12-31, 1 of 1" in printed.out


def typed(answers: list[tuple[str, str]], *arguments: str | Path, before: list[bytes] | None = None) -> int:
    """The exit code of a command at a terminal, where somebody answers each question when it is there.

    What was printed up to each question comes into `before`.
    """
    terminal, ours = os.openpty()
    command = [sys.executable, "-m", "edgeshare", "publish", *map(str, arguments)]
    with subprocess.Popen(command, stdin=ours, stdout=ours, stderr=ours, start_new_session=True) as process:
        os.close(ours)
        printed = b""
        for question, answer in answers:
            while question.encode() not in printed:
                printed += os.read(terminal, 4096)
            if before is not None:
                before.append(printed)
            printed = b""
            os.write(terminal, f"{answer}\n".encode())
        with contextlib.suppress(OSError):  # it has finished, and closed the other end
            while os.read(terminal, 4096):
                pass
        code = process.wait(timeout=30)
    os.close(terminal)
    return code
