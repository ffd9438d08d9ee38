from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from edgeshare.catalogue import Edition
from edgeshare.errors import LessonError, RepositoryError
from edgeshare.publish.delegations import MAX_PUBLISHERS
from edgeshare.publish.keys import Keys
from edgeshare.publishers import Publishers
from edgeshare.targets import publishers
from tests.publish.support import Publisher, make_lesson, now, served, tree


def versions(root: Path, client: Path) -> dict[str, dict[str, int]]:
    return {name: each.versions for name, each in served(root, client).items()}


def told(publisher: Publisher) -> Publishers:
    """What nodes are told of publishers."""
    return publishers(publisher.metadata("targets").signed)


@pytest.fixture
def lyon(publisher: Publisher, tmp_path: Path) -> Publisher:
    """An académie beside cned, on a machine of its own; cned's has the online keys."""
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    publisher.delegate("lyon", "lyon-")
    return publisher.holds("lyon", "lyon-lessons")


def test_a_delegated_publisher_publishes_under_its_own_keys(
    publisher: Publisher, lyon: Publisher, tmp_path: Path
) -> None:
    served(publisher.root, tmp_path / "client")
    lyon.add(make_lesson(tmp_path / "lyon-svt"))
    (waiting,) = lyon.release().waiting
    assert (waiting.role, waiting.needs) == ("lyon", ())
    released = publisher.release()
    assert [each.name for each in released.catalogues] == ["lyon/6e"]
    found = served(publisher.root, tmp_path / "client")
    assert {name: each.versions for name, each in found.items()} == {
        "cned/6e": {"maths": 1},
        "lyon/6e": {"lyon-svt": 1},
    }
    assert found["cned/6e"].keys.keys().isdisjoint(found["lyon/6e"].keys)
    assert told(publisher).delegations["lyon"].prefix == "lyon-"


def test_publishers_release_whoever_else_waits(publisher: Publisher, lyon: Publisher, tmp_path: Path) -> None:
    lyon.add(make_lesson(tmp_path / "lyon-svt"))
    publisher.add(make_lesson(tmp_path / "maths", title="Encore"))
    publisher.release()
    assert versions(publisher.root, tmp_path / "client") == {"cned/6e": {"maths": 2}}
    lyon.release()
    publisher.release()
    assert versions(publisher.root, tmp_path / "client") == {"cned/6e": {"maths": 2}, "lyon/6e": {"lyon-svt": 1}}


def test_a_publisher_adds_only_lessons_below_its_prefix(publisher: Publisher, lyon: Publisher, tmp_path: Path) -> None:
    before = tree(publisher.root)
    with pytest.raises(LessonError, match="maths is an id of cned, not of lyon: the ids of lyon begin with lyon-"):
        lyon.add(make_lesson(tmp_path / "maths", title="Autre"))
    with pytest.raises(LessonError, match="lyon-svt is an id of lyon, not of cned: name --publisher lyon"):
        publisher.add(make_lesson(tmp_path / "lyon-svt"))
    assert tree(publisher.root) == before


def test_a_publisher_withdraws_only_its_own_lessons(publisher: Publisher, lyon: Publisher) -> None:
    before = tree(publisher.root)
    with pytest.raises(LessonError, match="maths is an id of cned"):
        lyon.withdraw("maths")
    with pytest.raises(LessonError, match="maths is an id of cned"):
        lyon.reinstate("maths")
    assert tree(publisher.root) == before


def test_a_publisher_whose_keys_are_elsewhere_is_delegated_when_it_has_signed(
    publisher: Publisher, tmp_path: Path
) -> None:
    lyon = attrs.evolve(publisher, keys=tmp_path / "lyon-keys")
    Keys(lyon.keys).make("lyon", "lyon-lessons")
    waiting = publisher.delegate("lyon", "lyon-", [Keys(lyon.keys).signer("lyon").public_key]).waiting
    assert {each.role for each in waiting} == {"targets", "lyon"}
    assert publisher.release().roles == ()
    assert told(publisher).delegations.keys() == {"cned"}
    lyon.sign("lyon")
    assert set(publisher.release().roles) == {"targets", "lyon"}
    lyon.add(make_lesson(tmp_path / "lyon-svt"))
    lyon.release()
    publisher.release()
    assert versions(publisher.root, tmp_path / "client") == {"lyon/6e": {"lyon-svt": 1}}


def test_a_publisher_may_need_two_signatures(publisher: Publisher, tmp_path: Path) -> None:
    publisher.delegate("lyon", "lyon-", threshold=2)
    first, second = publisher.holds("lyon", "lyon-lessons"), publisher.holds("lyon.2")
    first.add(make_lesson(tmp_path / "lyon-svt"))
    (waiting,) = first.release().waiting
    assert [need.missing for need in waiting.needs] == [1]
    publisher.release()
    assert versions(publisher.root, tmp_path / "client") == {}
    second.sign("lyon")
    publisher.release()
    assert versions(publisher.root, tmp_path / "client") == {"lyon/6e": {"lyon-svt": 1}}


def test_a_revoked_publisher_is_named_with_the_reason_and_its_content_goes(
    publisher: Publisher, lyon: Publisher, tmp_path: Path
) -> None:
    lyon.add(make_lesson(tmp_path / "lyon-svt", {"index.html": b"of lyon"}))
    lyon.release()
    gone = publisher.release().lessons[0].info_hash.hex()
    assert versions(publisher.root, tmp_path / "client")["lyon/6e"] == {"lyon-svt": 1}
    lyon.add(make_lesson(tmp_path / "lyon-svt", {"index.html": b"of a thief"}))
    lyon.release()
    assert publisher.revoke("lyon").waiting == ()  # not the thief's draft either
    assert versions(publisher.root, tmp_path / "client") == {"cned/6e": {"maths": 1}}
    assert told(publisher).revoked == {"lyon": "Clé volée"}
    assert told(publisher).delegations.keys() == {"cned"}
    assert not [path for path in tree(publisher.root) if gone in path]
    with pytest.raises(RepositoryError, match="the repository has no publisher 'lyon'"):
        attrs.evolve(lyon, name="lyon").release()


def test_a_publisher_that_was_revoked_can_be_delegated_to_again_under_new_keys(
    publisher: Publisher, lyon: Publisher, tmp_path: Path
) -> None:
    served(publisher.root, tmp_path / "client")
    first = told(publisher).delegations["lyon"].epoch
    publisher.revoke("lyon")
    served(publisher.root, tmp_path / "client")
    for path in lyon.keys.iterdir():
        path.rename(publisher.keys / path.name)
    publisher.delegate("lyon", "lyon-")
    known = told(publisher)
    assert known.revoked == {"lyon": "Clé volée"}  # of its old keys: for nodes that were off
    assert "lyon" in known.delegations
    assert told(publisher).delegations["lyon"].epoch != first
    attrs.evolve(publisher, name="lyon").add(make_lesson(tmp_path / "lyon-svt"))
    attrs.evolve(publisher, name="lyon").release()
    assert versions(publisher.root, tmp_path / "client")["lyon/6e"] == {"lyon-svt": 1}


def test_the_repositorys_own_publisher_is_not_revoked(publisher: Publisher) -> None:
    with pytest.raises(RepositoryError, match=r"cned is the repository's own publisher: .*keys rotate cned"):
        publisher.revoke("cned")


@pytest.mark.parametrize("why", ["", "x" * 501, "a\nb"])
def test_a_publisher_is_revoked_for_a_reason_that_readers_can_be_shown(
    publisher: Publisher, lyon: Publisher, why: str
) -> None:
    with pytest.raises(RepositoryError, match="the reason"):
        publisher.revoke("lyon", why)
    assert told(publisher).revoked == {}


@pytest.mark.parametrize(
    "name", ["root", "targets", "snapshot", "timestamp", "lyon-lessons", "Lyon", "a/b", "", "x" * 64]
)
def test_a_publishers_name_is_not_that_of_another_role_or_key(publisher: Publisher, name: str) -> None:
    before = tree(publisher.root) | tree(publisher.keys)
    with pytest.raises(RepositoryError, match="cannot be a publisher's name"):
        publisher.delegate(name, "lyon-")
    assert tree(publisher.root) | tree(publisher.keys) == before


@pytest.mark.parametrize("prefix", ["", "-lyon", "Lyon-", "lyon_", "ly.on", "é", "x" * 63])
def test_a_prefix_that_no_id_can_begin_with_is_refused(publisher: Publisher, prefix: str) -> None:
    before = tree(publisher.root) | tree(publisher.keys)
    with pytest.raises(RepositoryError, match="no lesson's id can begin with"):
        publisher.delegate("lyon", prefix)
    assert tree(publisher.root) | tree(publisher.keys) == before


def test_a_prefix_has_up_to_62_characters(publisher: Publisher, tmp_path: Path) -> None:
    publisher.delegate("lyon", "x" * 62)
    attrs.evolve(publisher, name="lyon").add(make_lesson(tmp_path / ("x" * 63)))


def test_a_name_or_a_prefix_in_use_is_refused(publisher: Publisher, lyon: Publisher) -> None:
    with pytest.raises(RepositoryError, match="lyon is a publisher already"):
        publisher.delegate("lyon", "rhone-")
    with pytest.raises(RepositoryError, match="the prefix lyon- is that of lyon"):
        publisher.delegate("rhone", "lyon-")


def test_a_delegation_never_takes_over_an_id_in_use(publisher: Publisher, lyon: Publisher, tmp_path: Path) -> None:
    lyon.add(make_lesson(tmp_path / "lyon-svt"))
    lyon.release()
    publisher.release()
    publisher.add(make_lesson(tmp_path / "staged"), make_lesson(tmp_path / "gone"))
    publisher.release()
    publisher.withdraw("gone")
    publisher.release()
    publisher.add(make_lesson(tmp_path / "waits"))
    for prefix, used in (("ma", "maths"), ("lyon-s", "lyon-svt"), ("go", "gone"), ("wa", "waits")):
        with pytest.raises(RepositoryError, match=f"{used}, which is in use, would no longer be of"):
            publisher.delegate("other", prefix)


def test_the_longest_prefix_decides_whose_an_id_is(publisher: Publisher, lyon: Publisher, tmp_path: Path) -> None:
    publisher.delegate("lyon-sud", "lyon-sud-")
    south = attrs.evolve(publisher, name="lyon-sud")
    south.add(make_lesson(tmp_path / "lyon-sud-svt"))
    with pytest.raises(LessonError, match="lyon-sud-svt is an id of lyon-sud, not of lyon"):
        lyon.add(make_lesson(tmp_path / "lyon-sud-svt"))
    lyon.add(make_lesson(tmp_path / "lyon-svt"))
    lyon.release()
    south.release()
    assert versions(publisher.root, tmp_path / "client")["lyon-sud/6e"] == {"lyon-sud-svt": 1}


def test_a_repository_has_at_most_16_publishers_and_clients_find_the_last(publisher: Publisher, tmp_path: Path) -> None:
    for number in range(MAX_PUBLISHERS - 1):
        publisher.delegate(f"ac{number:02}", f"ac{number:02}-")
    last = attrs.evolve(publisher, name=f"ac{MAX_PUBLISHERS - 2}")
    last.add(make_lesson(tmp_path / f"ac{MAX_PUBLISHERS - 2}-maths"))
    last.release()
    assert versions(publisher.root, tmp_path / "client") == {f"ac{MAX_PUBLISHERS - 2}/6e": {"ac14-maths": 1}}
    with pytest.raises(RepositoryError, match="the repository has 16 publishers: at most 16"):
        publisher.delegate("one-more", "one-more-")


def test_a_threshold_is_not_above_the_number_of_keys(publisher: Publisher, tmp_path: Path) -> None:
    Keys(tmp_path / "elsewhere").make("lyon")
    key = Keys(tmp_path / "elsewhere").signer("lyon").public_key
    before = tree(publisher.root) | tree(publisher.keys)
    for threshold, keys in ((2, [key]), (2, [key, key]), (0, [key]), (0, []), (17, [])):
        with pytest.raises(RepositoryError, match="a threshold of"):
            publisher.delegate("lyon", "lyon-", keys, threshold)
    assert tree(publisher.root) | tree(publisher.keys) == before


def test_a_withdrawn_lesson_comes_back_as_its_next_version(publisher: Publisher, tmp_path: Path) -> None:
    folder = make_lesson(tmp_path / "maths", levels=["6e", "5e"])
    publisher.add(folder)
    publisher.release()
    publisher.add(make_lesson(folder, title="Deux", levels=["6e", "5e"]))
    publisher.release()
    publisher.withdraw("maths")
    publisher.release()
    publisher.reinstate("maths")
    publisher.release()
    for edition in editions(publisher, tmp_path):
        assert (edition.withdrawn, [(back.id, back.since) for back in edition.reinstated]) == ((), [("maths", 4)])
    assert publisher.add(folder).manifest.version == 3
    publisher.release()
    assert versions(publisher.root, tmp_path / "client") == {"cned/5e": {"maths": 3}, "cned/6e": {"maths": 3}}
    for edition in editions(publisher, tmp_path):
        assert [(back.id, back.since) for back in edition.reinstated] == [("maths", 4)]  # for those who were away


def test_a_lesson_comes_back_and_is_listed_by_one_release(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    publisher.withdraw("maths")
    publisher.release()
    publisher.reinstate("maths")
    assert publisher.add(make_lesson(tmp_path / "maths")).manifest.version == 2
    publisher.release()
    (edition,) = editions(publisher, tmp_path)
    assert (edition.withdrawn, [back.since for back in edition.reinstated]) == ((), [3])
    assert versions(publisher.root, tmp_path / "client") == {"cned/6e": {"maths": 2}}


def test_a_lesson_that_came_back_can_be_withdrawn_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    for number in (1, 2):
        publisher.release()
        publisher.withdraw("maths", f"{number}")
        publisher.release()
        publisher.reinstate("maths")
        publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    publisher.withdraw("maths", "3")
    publisher.release()
    (edition,) = editions(publisher, tmp_path)
    assert [(gone.id, gone.why) for gone in edition.withdrawn] == [("maths", "3")]
    assert edition.reinstated == ()


def test_a_return_that_is_only_staged_is_taken_back(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    publisher.withdraw("maths")
    publisher.release()
    publisher.reinstate("maths")
    assert not publisher.withdraw("maths")
    assert publisher.release().catalogues == ()


def test_what_is_neither_withdrawn_nor_published_cannot_come_back(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "svt"))
    publisher.release()
    publisher.withdraw("svt")
    publisher.release()
    with pytest.raises(RepositoryError, match="no lesson maths was withdrawn here"):
        publisher.reinstate("maths")
    with pytest.raises(RepositoryError, match="no lesson svtt was withdrawn here: did you mean svt"):
        publisher.reinstate("svtt")


def test_what_a_thief_withdrew_elsewhere_is_said_to_be_back_each_time(publisher: Publisher, tmp_path: Path) -> None:
    """The repository, from a backup, knows of no withdrawal; the nodes do, and hear that it is undone."""
    publisher.add(make_lesson(tmp_path / "maths", levels=["6e", "5e"]))
    publisher.release()
    for number in (2, 3):
        publisher.reinstate("maths")
        publisher.release()
        assert publisher.release().catalogues == ()
        for edition in editions(publisher, tmp_path):
            assert [(back.id, back.since) for back in edition.reinstated] == [("maths", number)]
            assert [item.manifest.version for item in edition.lessons] == [1]


def test_numbers_go_on_from_the_repository_after_a_thief_published_the_last_possible_edition(
    publisher: Publisher, tmp_path: Path
) -> None:
    """Nodes that saw edition 2^31 take a lower one from the new keys: another epoch."""
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    before = told(publisher).delegations["cned"].epoch
    publisher.rotate("cned")
    publisher.add(make_lesson(tmp_path / "maths", title="Encore"))
    assert [each.edition for each in publisher.release(now()).catalogues] == [2]
    assert told(publisher).delegations["cned"].epoch != before
    assert versions(publisher.root, tmp_path / "client") == {"cned/6e": {"maths": 2}}


def editions(publisher: Publisher, tmp_path: Path) -> list[Edition]:
    return [each.edition for each in served(publisher.root, tmp_path / "reader").values()]
