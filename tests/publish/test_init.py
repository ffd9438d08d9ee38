from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgeshare.errors import RepositoryError, TrustError
from edgeshare.publish.keys import Keys
from edgeshare.publish.repository import open_repository
from tests.publish.support import Publisher, make_lesson, served, tree


def test_a_new_repository_has_keys_that_only_their_owner_reads(publisher: Publisher) -> None:
    names = ["cned-lessons", "cned", "root", "snapshot", "targets", "timestamp"]
    assert sorted(path.name for path in publisher.keys.iterdir()) == sorted(f"{name}.pem" for name in names)
    for path in (publisher.keys, *publisher.keys.iterdir()):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def test_a_repository_is_not_made_over_another(publisher: Publisher) -> None:
    before = tree(publisher.root) | tree(publisher.keys)
    with pytest.raises(RepositoryError, match="is a repository already"):
        publisher.init()
    assert tree(publisher.root) | tree(publisher.keys) == before


def test_keys_that_are_there_are_kept(publisher: Publisher, tmp_path: Path) -> None:
    before = tree(publisher.keys)
    second = Publisher(tmp_path / "second", publisher.keys).init()
    assert tree(publisher.keys) == before
    second.add(make_lesson(tmp_path / "maths"))
    second.release()
    assert served(second.root, tmp_path / "client")


def test_a_repository_that_was_half_made_is_made(publisher: Publisher, tmp_path: Path) -> None:
    (publisher.root / "metadata" / "timestamp.json").unlink()
    publisher.init()
    assert served(publisher.root, tmp_path / "client") == {}


@pytest.mark.parametrize("name", ["", "CNED", "a/b", "..", "a.b", "a_b", "é", "x" * 64, "a\nb", "root", "timestamp"])
def test_a_publisher_has_a_name_of_its_own_that_can_stand_in_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(RepositoryError, match="cannot be a publisher's name") as caught:
        Publisher(tmp_path / "repository", tmp_path / "keys").init(name)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 63, "ac-paris", "2"])
def test_a_publishers_name_has_up_to_63_characters(tmp_path: Path, name: str) -> None:
    other = Publisher(tmp_path / "repository", tmp_path / "keys").init(name)
    other.add(make_lesson(tmp_path / "maths"))
    assert other.release().catalogues[0].name == f"{name}/6e"


@pytest.mark.parametrize("place", [".", "keys", "metadata/keys", "../link"])
def test_keys_never_lie_where_a_web_server_would_hand_them_out(tmp_path: Path, place: str) -> None:
    root = tmp_path / "repository"
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(TrustError, match="the keys lie inside the repository"):
        Publisher(root, root / place).init()
    assert not root.exists()


def test_keys_that_were_moved_into_the_repository_are_not_used(publisher: Publisher) -> None:
    inside = publisher.keys.rename(publisher.root / "keys")
    with (
        pytest.raises(TrustError, match="the keys lie inside the repository"),
        open_repository(publisher.root, Keys(inside)),
    ):
        pass
    with pytest.raises(TrustError, match="the keys lie inside the repository"):
        Publisher(publisher.root, inside).refresh()


def test_a_key_that_others_can_read_is_not_used(publisher: Publisher, tmp_path: Path) -> None:
    (publisher.keys / "cned-lessons.pem").chmod(0o640)
    with pytest.raises(TrustError, match=r"cned-lessons\.pem can be read by others: chmod 600"):
        publisher.add(make_lesson(tmp_path / "maths"))


@pytest.mark.parametrize("raw", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_named(publisher: Publisher, raw: bytes) -> None:
    (publisher.keys / "timestamp.pem").write_bytes(raw)
    with pytest.raises(TrustError, match=r"timestamp\.pem is not a private key"):
        publisher.refresh()


@pytest.mark.parametrize("path", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.cned.json", "1.root.json"])
def test_a_repository_whose_metadata_is_broken_is_named(publisher: Publisher, path: str) -> None:
    (publisher.root / "metadata" / path).write_text("{}", encoding="utf-8")
    with pytest.raises(RepositoryError, match="is not what was published"):
        publisher.release()
