from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from edgeshare import host
from edgeshare.errors import LessonError, RepositoryError, TrustError
from edgeshare.manifest import InfoHash
from edgeshare.publish.torrent import tracker_hashes
from tests.publish.support import Publisher, make_lesson, now, served, tree

TRACKER, ORIGIN = "udp://lecons.example.fr:6969", "https://lecons.example.fr/"


def names(root: Path) -> set[str]:
    return set(tree(root))


def trackers_of(publisher: Publisher, info_hash: InfoHash) -> list[str]:
    whole: Any = lt.bdecode((publisher.root / "torrents" / f"{info_hash.hex()}.torrent").read_bytes())
    return [url.decode() for tier in whole.get(b"announce-list", []) for url in tier]


def whitelist(publisher: Publisher) -> set[str]:
    return set((publisher.root / "tracker" / "whitelist.txt").read_text(encoding="ascii").split())


def hashes_of(publisher: Publisher, *info_hashes: InfoHash) -> set[str]:
    found: set[str] = set()
    for info_hash in info_hashes:
        found.update(
            tracker_hashes((publisher.root / "torrents" / f"{info_hash.hex()}.torrent").read_bytes(), info_hash)
        )
    return found


def test_what_is_released_is_what_a_client_gets(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths", levels=["6e", "5e"]), make_lesson(tmp_path / "svt", title="Le sol"))
    released = publisher.release()
    found = served(publisher.root, tmp_path / "client")
    assert {name: each.versions for name, each in found.items()} == {
        "cned/5e": {"maths": 1},
        "cned/6e": {"maths": 1, "svt": 1},
    }
    assert {each.name: each for each in released.catalogues} == {name: each.manifest for name, each in found.items()}
    assert [lesson.manifest for lesson in found["cned/6e"].edition.lessons] == list(released.lessons)


def test_an_empty_repository_can_be_refreshed_by_a_client(publisher: Publisher, tmp_path: Path) -> None:
    assert served(publisher.root, tmp_path / "client") == {}


def test_staging_changes_nothing_that_is_listed(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    before = tree(publisher.root)
    publisher.add(make_lesson(tmp_path / "svt"))
    after = tree(publisher.root)
    new = set(after) - set(before)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in new} == {".edgeshare", "content", "torrents"}
    assert served(publisher.root, tmp_path / "client")["cned/6e"].versions == {"maths": 1}


def test_publishing_the_same_folder_again_changes_no_file(publisher: Publisher, tmp_path: Path) -> None:
    folder = make_lesson(tmp_path / "maths")
    publisher.add(folder)
    publisher.release(trackers=[TRACKER], origins=[ORIGIN])
    before = tree(publisher.root)
    staged = publisher.add(folder)
    released = publisher.release()
    assert (staged.is_unchanged, staged.is_waiting, staged.manifest.version) == (True, False, 1)
    assert released.catalogues == ()
    assert tree(publisher.root) == before


def test_staging_the_same_folder_again_changes_no_file(publisher: Publisher, tmp_path: Path) -> None:
    folder = make_lesson(tmp_path / "maths")
    publisher.add(folder)
    before = tree(publisher.root)
    staged = publisher.add(folder)
    assert (staged.is_unchanged, staged.is_waiting) == (True, True)
    assert tree(publisher.root) == before


@pytest.mark.parametrize(
    "change",
    [{"files": {"index.html": b"new"}}, {"title": "Autres fractions"}, {"audience": 5}],
    ids=["content", "description", "audience"],
)
def test_a_changed_lesson_is_its_next_version(publisher: Publisher, tmp_path: Path, change: dict[str, Any]) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    staged = publisher.add(make_lesson(tmp_path / "maths", **change))
    assert (staged.is_unchanged, staged.manifest.version) == (False, 2)
    publisher.release()
    found = served(publisher.root, tmp_path / "client")["cned/6e"]
    assert found.versions == {"maths": 2}
    assert found.manifest.edition == 2


def test_a_superseded_version_can_still_be_fetched(publisher: Publisher, tmp_path: Path) -> None:
    first = publisher.add(make_lesson(tmp_path / "maths")).manifest
    publisher.release()
    before = names(publisher.root / "content")
    publisher.add(make_lesson(tmp_path / "maths", files={"index.html": b"new"}))
    publisher.release()
    assert before <= names(publisher.root / "content")
    assert (publisher.root / "torrents" / f"{first.info_hash.hex()}.torrent").exists()


def test_a_staged_version_that_another_replaces_leaves_nothing(publisher: Publisher, tmp_path: Path) -> None:
    first = publisher.add(make_lesson(tmp_path / "maths", files={"index.html": b"draft"})).manifest
    publisher.add(make_lesson(tmp_path / "maths", files={"index.html": b"final"}))
    publisher.release()
    assert not [path for path in names(publisher.root) if first.info_hash.hex() in path]
    assert served(publisher.root, tmp_path / "client")["cned/6e"].versions == {"maths": 1}


def test_a_change_that_is_taken_back_before_the_release_leaves_nothing(publisher: Publisher, tmp_path: Path) -> None:
    folder = make_lesson(tmp_path / "maths", files={"index.html": b"one"})
    publisher.add(folder)
    publisher.release()
    before = tree(publisher.root)
    publisher.add(make_lesson(folder, files={"index.html": b"two"}))
    staged = publisher.add(make_lesson(folder, files={"index.html": b"one"}))
    assert (staged.is_unchanged, staged.is_waiting) == (True, False)
    assert publisher.release().catalogues == ()
    assert tree(publisher.root) == before


def test_a_release_with_nothing_staged_changes_no_file(publisher: Publisher) -> None:
    before = tree(publisher.root)
    released = publisher.release()
    assert (released.catalogues, released.lessons, released.withdrawn) == ((), (), ())
    assert tree(publisher.root) == before


def test_a_refresh_changes_the_timestamp_alone(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    publisher.add(make_lesson(tmp_path / "svt"))
    before = tree(publisher.root)
    publisher.refresh(now() + timedelta(hours=1))
    after = tree(publisher.root)
    assert set(after) == set(before)
    assert [path for path in before if after[path] != before[path]] == ["metadata/timestamp.json"]
    assert served(publisher.root, tmp_path / "client")["cned/6e"].versions == {"maths": 1}


def test_a_refresh_needs_no_key_but_the_timestamps(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    publisher.add(make_lesson(tmp_path / "svt"))
    for key in publisher.keys.iterdir():
        if key.name != "timestamp.pem":
            key.unlink()
    assert publisher.refresh().warnings == ()
    assert served(publisher.root, tmp_path / "client")


def test_a_release_without_the_key_for_manifests_changes_no_file(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    before = tree(publisher.root)
    (publisher.keys / "cned-lessons.pem").unlink()
    with pytest.raises(TrustError, match="no key of cned-lessons is here: its holder runs"):
        publisher.release()
    assert tree(publisher.root) == before


def test_a_release_needs_neither_the_root_key_nor_that_of_targets(publisher: Publisher, tmp_path: Path) -> None:
    (publisher.keys / "root.pem").unlink()
    (publisher.keys / "targets.pem").unlink()
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    assert served(publisher.root, tmp_path / "client")


def test_a_withdrawn_lesson_is_named_and_its_content_is_gone(publisher: Publisher, tmp_path: Path) -> None:
    gone = publisher.add(make_lesson(tmp_path / "maths", levels=["6e", "5e"])).manifest
    publisher.add(make_lesson(tmp_path / "svt"))
    publisher.release()
    assert publisher.withdraw("maths")
    released = publisher.release()
    found = served(publisher.root, tmp_path / "client")
    assert released.withdrawn == ("maths",)
    assert found["cned/6e"].versions == {"svt": 1}
    assert found["cned/5e"].versions == {}
    for catalogue in found.values():
        (withdrawal,) = catalogue.edition.withdrawn
        assert (withdrawal.id, withdrawal.why, withdrawal.since) == ("maths", "Une erreur page 3", 2)
        assert withdrawal.lesson is not None
        assert withdrawal.lesson.manifest == gone
    assert not [path for path in names(publisher.root) if gone.info_hash.hex() in path]


def test_every_version_of_a_withdrawn_lesson_is_gone(publisher: Publisher, tmp_path: Path) -> None:
    versions = []
    for text in (b"one", b"two", b"three"):
        versions.append(publisher.add(make_lesson(tmp_path / "maths", files={"index.html": text})).manifest)
        publisher.release()
    publisher.withdraw("maths")
    publisher.release()
    for manifest in versions:
        assert not [path for path in names(publisher.root) if manifest.info_hash.hex() in path]


def test_a_withdrawal_reaches_those_who_know_an_older_version_from_another_level(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.add(make_lesson(tmp_path / "maths", levels=["6e"]))
    publisher.release()
    publisher.add(make_lesson(tmp_path / "maths", levels=["5e"]))
    publisher.release()
    publisher.withdraw("maths")
    publisher.release()
    found = served(publisher.root, tmp_path / "client")
    assert [gone.id for gone in found["cned/6e"].edition.withdrawn] == ["maths"]
    assert [gone.id for gone in found["cned/5e"].edition.withdrawn] == ["maths"]


def test_a_withdrawal_stays_in_later_editions(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    publisher.withdraw("maths")
    publisher.release()
    publisher.add(make_lesson(tmp_path / "svt"))
    publisher.release()
    found = served(publisher.root, tmp_path / "client")["cned/6e"]
    assert [(gone.id, gone.since) for gone in found.edition.withdrawn] == [("maths", 2)]
    assert found.manifest.edition == 3


def test_a_withdrawn_id_is_never_published_again(publisher: Publisher, tmp_path: Path) -> None:
    folder = make_lesson(tmp_path / "maths")
    publisher.add(folder)
    publisher.release()
    publisher.withdraw("maths")
    publisher.release()
    before = tree(publisher.root)
    with pytest.raises(LessonError, match=r"maths was withdrawn \(Une erreur page 3\).*another id"):
        publisher.add(folder)
    assert tree(publisher.root) == before


def test_a_lesson_that_is_added_again_before_the_release_is_not_withdrawn(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    publisher.withdraw("maths")
    staged = publisher.add(make_lesson(tmp_path / "maths", title="Sans erreur"))
    assert any("withdrawal of maths was staged, and is dropped" in warning for warning in staged.warnings)
    released = publisher.release()
    assert released.withdrawn == ()
    assert served(publisher.root, tmp_path / "client")["cned/6e"].versions == {"maths": 2}


def test_withdrawing_a_lesson_drops_its_staged_version(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    staged = publisher.add(make_lesson(tmp_path / "maths", files={"index.html": b"two"})).manifest
    publisher.withdraw("maths")
    released = publisher.release()
    assert (released.lessons, released.withdrawn) == ((), ("maths",))
    assert not [path for path in names(publisher.root) if staged.info_hash.hex() in path]


def test_withdrawing_what_was_only_staged_needs_no_release(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    assert not publisher.withdraw("maths")
    assert publisher.release().catalogues == ()
    assert names(publisher.root / "content") == set()
    publisher.add(make_lesson(tmp_path / "maths"))
    assert publisher.release().lessons[0].version == 1


def test_origins_and_trackers_stay_until_others_are_named(publisher: Publisher, tmp_path: Path) -> None:
    maths = publisher.add(make_lesson(tmp_path / "maths")).manifest
    publisher.release(trackers=[TRACKER], origins=[ORIGIN])
    svt = publisher.add(make_lesson(tmp_path / "svt", levels=["5e"])).manifest
    publisher.release()
    found = served(publisher.root, tmp_path / "client")
    for each in found.values():
        assert (each.manifest.trackers, each.manifest.origins) == ((TRACKER,), (ORIGIN,))
        assert trackers_of(publisher, each.manifest.info_hash) == [TRACKER]
    assert trackers_of(publisher, maths.info_hash) == trackers_of(publisher, svt.info_hash) == [TRACKER]

    released = publisher.release(trackers=["https://other/announce", TRACKER])
    assert {each.name for each in released.catalogues} == {"cned/6e", "cned/5e"}
    assert trackers_of(publisher, maths.info_hash) == ["https://other/announce", TRACKER]
    found = served(publisher.root, tmp_path / "client")
    assert {each.manifest.origins for each in found.values()} == {(ORIGIN,)}


def test_the_whitelist_has_both_hashes_of_all_that_is_listed(publisher: Publisher, tmp_path: Path) -> None:
    assert whitelist(publisher) == set()
    maths = publisher.add(make_lesson(tmp_path / "maths")).manifest
    svt = publisher.add(make_lesson(tmp_path / "svt")).manifest
    assert whitelist(publisher) == set()
    catalogue = publisher.release().catalogues[0]
    assert whitelist(publisher) == hashes_of(publisher, maths.info_hash, svt.info_hash, catalogue.info_hash)
    assert all(len(line) == 40 for line in whitelist(publisher))
    publisher.withdraw("svt")
    catalogue = publisher.release().catalogues[0]
    assert whitelist(publisher) == hashes_of(publisher, maths.info_hash, catalogue.info_hash)


def test_a_teachers_lesson_stands_in_the_teachers_catalogue_alone(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"), make_lesson(tmp_path / "corrige", role="teacher"))
    publisher.release()
    found = served(publisher.root, tmp_path / "client")
    assert {name: each.versions for name, each in found.items()} == {
        "cned/6e": {"maths": 1},
        "cned/6e.teacher": {"corrige": 1},
    }


def test_only_catalogues_that_change_get_a_new_edition(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"), make_lesson(tmp_path / "svt", levels=["5e"]))
    publisher.release()
    publisher.add(make_lesson(tmp_path / "svt", levels=["5e"], title="Le sol"))
    assert [each.name for each in publisher.release().catalogues] == ["cned/5e"]
    found = served(publisher.root, tmp_path / "client")
    assert {name: each.manifest.edition for name, each in found.items()} == {"cned/6e": 1, "cned/5e": 2}


def test_a_client_of_the_first_edition_follows(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    served(publisher.root, tmp_path / "client")
    publisher.add(make_lesson(tmp_path / "maths", title="Encore"))
    publisher.release()
    assert served(publisher.root, tmp_path / "client")["cned/6e"].versions == {"maths": 2}


def test_metadata_past_half_of_its_life_is_renewed_by_a_release(publisher: Publisher, tmp_path: Path) -> None:
    old = Publisher(tmp_path / "old", tmp_path / "old-keys").init(at=now() - timedelta(days=500))
    old.add(make_lesson(tmp_path / "maths"))
    old.release(now() - timedelta(days=500))
    assert len(old.refresh().warnings) == 3  # it renews the snapshot, whose key is here
    assert old.refresh().expires < now()
    released = old.release()
    assert (released.catalogues, released.warnings) == ((), ())
    assert released.expires - now() > timedelta(days=29)
    assert served(old.root, tmp_path / "client")["cned/6e"].versions == {"maths": 1}


def test_what_cannot_be_renewed_for_want_of_its_key_is_warned_of(tmp_path: Path) -> None:
    old = Publisher(tmp_path / "old", tmp_path / "old-keys").init(at=now() - timedelta(days=200))
    (old.keys / "targets.pem").unlink()
    (warning,) = old.release().warnings
    assert warning.startswith("the targets metadata expires on ")


def test_two_publishers_at_once_are_one_too_many(publisher: Publisher, tmp_path: Path) -> None:
    folder = make_lesson(tmp_path / "maths")
    with host.locked(publisher.root / ".edgeshare" / "lock"):
        for step in (lambda: publisher.add(folder), publisher.release, publisher.refresh):
            with pytest.raises(RepositoryError, match="another publisher works on"):
                step()


@pytest.mark.parametrize("torn", ["shortened", "missing", "no-torrent"])
def test_content_that_did_not_outlive_a_power_cut_is_not_released(
    publisher: Publisher, tmp_path: Path, torn: str
) -> None:
    folder = make_lesson(tmp_path / "maths")
    manifest = publisher.add(folder).manifest
    place = publisher.root / "content" / manifest.info_hash.hex()
    if torn == "shortened":
        (place / "img" / "a.png").write_bytes(b"")
    elif torn == "missing":
        shutil.rmtree(place)
    else:
        (publisher.root / "torrents" / f"{manifest.info_hash.hex()}.torrent").unlink()
    before = tree(publisher.root)
    with pytest.raises(RepositoryError, match=r"the content of maths, .* is not whole: add it again"):
        publisher.release()
    assert tree(publisher.root) == before
    assert publisher.add(folder).is_waiting
    publisher.release()
    assert served(publisher.root, tmp_path / "client")["cned/6e"].versions == {"maths": 1}


def test_what_a_killed_run_left_is_cleared_by_the_next(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    before = tree(publisher.root)
    for path in (
        ".edgeshare/incoming/00ff/index.html",
        ".edgeshare/.releasing.1.part",
        ".edgeshare/staged/.svt.manifest.1.part",
        ".edgeshare/taken/.svt.00.1.part",
        f".edgeshare/taken/svt.{'00' * 32}",
        "metadata/.timestamp.json.1.part",
        "metadata/3.cned.json",
        "targets/catalogue/cned/.x.6e.manifest.1.part",
        "targets/catalogue/cned/00.6e.manifest",
        f"torrents/.{'00' * 32}.torrent.1.part",
        f"torrents/{'00' * 32}.torrent",
        f"content/{'00' * 32}/index.html",
        f"content/{'11' * 32}/catalogue.msgpack",
        f"torrents/{'11' * 32}.torrent",
        "tracker/.whitelist.txt.1.part",
    ):
        file = publisher.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    named = [
        f"content/{'11' * 32}",
        f"torrents/{'11' * 32}.torrent",
        "targets/catalogue/cned/00.6e.manifest",
        "metadata/3.cned.json",
        *(path for path in before if path.startswith(("metadata/2.", "targets/"))),
    ]
    (publisher.root / ".edgeshare" / "releasing").write_text("".join(f"{path}\n" for path in named), encoding="utf-8")
    publisher.release()
    assert tree(publisher.root) == before
