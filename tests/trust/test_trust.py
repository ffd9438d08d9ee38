from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from random import Random
from types import SimpleNamespace

import attrs
import httpx
import pytest
import trio
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edgeshare import RELEASED
from edgeshare.errors import LibraryError, OriginError, TrustError
from edgeshare.freshness import Clock
from edgeshare.manifest import MAX_MANIFEST, read_catalogue
from edgeshare.origin.client import OriginClient, open_origins
from edgeshare.origin.mirrors import MirrorState
from edgeshare.publish.keys import signed_file
from edgeshare.refusals import Refusal
from edgeshare.targets import hashed_target, lesson_keys, target_path
from edgeshare.trust import Trust, check_root
from tests.support.disk import read_only
from tests.support.publisher import CATALOGUE, Folder, Publisher, lesson_key, noise, now
from tests.support.server import drip, endless, serving, silence

MIRROR = "http://a/"


@attrs.define
class Node:
    """The trust of one node, and the origin that it asks."""

    trust: Trust
    origin: Folder
    folder: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    """One lesson in one catalogue, released once; nobody may change it."""
    return Publisher.of_one_lesson(tmp_path_factory.mktemp("published"))


@pytest.fixture
def publisher(published: Publisher, tmp_path: Path) -> Publisher:
    """The same, for this test alone."""
    shutil.copytree(published.folder, tmp_path / "publisher")
    return Publisher(tmp_path / "publisher")


@asynccontextmanager
async def node(publisher: Publisher, *, root: bytes | None = None) -> AsyncGenerator[Node, None]:
    origin = Folder(publisher.repository)
    folder = publisher.folder / "trust"
    folder.mkdir(exist_ok=True)
    async with open_origins((MIRROR,), Random(1), transport=origin) as origins:
        yield Node(Trust(folder, root or publisher.root.read_bytes(), origins), origin, folder)


def metadata(publisher: Publisher, name: str) -> Path:
    return publisher.repository / "metadata" / name


async def test_what_is_published_is_vouched_for_with_its_keys(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        refreshed = await asking.trust.refresh((CATALOGUE,))
        expires = asking.trust.freshness().expires
    vouched = refreshed.catalogues[CATALOGUE]
    assert (vouched.manifest.name, vouched.manifest.edition) == (CATALOGUE, 1)
    assert list(vouched.keys.values()) == [lesson_key(publisher.keys)]
    assert expires is not None
    assert expires - now() > timedelta(days=29)
    assert (refreshed.unpublished, refreshed.refused) == ((), {})


async def test_a_new_edition_is_found(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        publisher.add("maths-6e-angles", {"index.html": noise(100)})
        publisher.release()
        refreshed = await asking.trust.refresh((CATALOGUE,))
    assert refreshed.catalogues[CATALOGUE].manifest.edition == 2


async def test_where_nothing_is_new_two_small_questions_say_so(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        asking.origin.asked.clear()
        await asking.trust.refresh((CATALOGUE,))
    assert asking.origin.asked == ["metadata/2.root.json", "metadata/timestamp.json"]


async def test_a_catalogue_that_is_not_published_is_named_and_touches_no_other(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        refreshed = await asking.trust.refresh((CATALOGUE, "cned/5e", "lyon/6e"))
    assert refreshed.unpublished == ("cned/5e", "lyon/6e")
    assert list(refreshed.catalogues) == [CATALOGUE]


async def test_a_manifest_that_cannot_be_right_touches_no_other_catalogue(publisher: Publisher) -> None:
    publisher.add("maths-5e-angles", {"index.html": noise(100)}, levels="5e")
    publisher.keys.make("stranger-lessons")
    publisher.release()
    _vouch_anew(publisher, "cned/5e", signer="stranger")
    async with node(publisher) as asking:
        refreshed = await asking.trust.refresh((CATALOGUE, "cned/5e"))
    assert list(refreshed.catalogues) == [CATALOGUE]
    assert refreshed.refused["cned/5e"].startswith("no key that the repository vouches for signed this manifest")


async def test_a_manifest_of_another_catalogue_is_refused(publisher: Publisher) -> None:
    _vouch_anew(publisher, CATALOGUE, name="cned/5e")
    async with node(publisher) as asking:
        refreshed = await asking.trust.refresh((CATALOGUE,))
    assert refreshed.refused == {CATALOGUE: f"the manifest of {CATALOGUE} says that it is cned/5e"}


async def test_a_manifest_that_is_too_long_is_refused(publisher: Publisher) -> None:
    _vouch_anew(publisher, CATALOGUE, raw=bytes(MAX_MANIFEST + 1))
    async with node(publisher) as asking:
        refreshed = await asking.trust.refresh((CATALOGUE,))
    assert "is longer than a manifest may be" in refreshed.refused[CATALOGUE]
    assert not [path for path in asking.origin.asked if path.startswith("targets/")]


def _vouch_anew(
    publisher: Publisher, catalogue: str, *, signer: str = "cned", name: str | None = None, raw: bytes | None = None
) -> None:
    """Have the role vouch for another manifest of a catalogue: of another signer, for another name, or no manifest."""
    role_path = max(metadata(publisher, "").glob("*.cned.json"), key=lambda path: int(path.name.split(".")[0]))
    role = Metadata[Targets].from_bytes(role_path.read_bytes())
    path = target_path(catalogue)
    before = role.signed.targets[path]
    served = publisher.repository / "targets" / hashed_target(path, before)
    manifest = read_catalogue(served.read_bytes(), lesson_keys(before))
    raw = raw or signed_file(attrs.evolve(manifest, name=name or catalogue), publisher.keys.signer(f"{signer}-lessons"))
    target = TargetFile.from_data(path, raw, ["sha256"])
    target.unrecognized_fields["custom"] = before.custom
    (publisher.repository / "targets" / hashed_target(path, target)).write_bytes(raw)
    role.signed.targets[path] = target
    role.sign(publisher.keys.signer("cned"))
    role_path.write_bytes(role.to_bytes(JSONSerializer()))
    publisher.snapshot_anew()


async def test_what_is_older_than_what_the_node_has_is_refused(publisher: Publisher) -> None:
    shutil.copytree(publisher.repository, publisher.folder / "old")
    publisher.add("maths-6e-angles", {"index.html": noise(100)})
    publisher.release()
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        asking.origin.root = publisher.folder / "old"
        with pytest.raises(TrustError, match=f"metadata/timestamp.json of {MIRROR} is refused, it is older than what"):
            await asking.trust.refresh((CATALOGUE,))
        asking.origin.root = publisher.repository
        assert (await asking.trust.refresh((CATALOGUE,))).catalogues[CATALOGUE].manifest.edition == 2


async def test_parts_of_two_editions_are_not_mixed(publisher: Publisher) -> None:
    publisher.add("maths-6e-angles", {"index.html": noise(100)})
    publisher.release()
    old_role = metadata(publisher, "2.cned.json").read_bytes()
    old_snapshot = metadata(publisher, "2.snapshot.json").read_bytes()
    async with node(publisher) as asking:
        asking.origin.instead = {"metadata/3.cned.json": old_role}
        refreshed = await asking.trust.refresh((CATALOGUE,))
        assert re.match("metadata/3.cned.json is refused, it is (older|not the file)", refreshed.refused[CATALOGUE])
        asking.origin.instead = {"metadata/3.snapshot.json": old_snapshot}
        shutil.rmtree(asking.folder)
        asking.folder.mkdir()
        with pytest.raises(TrustError, match="is refused, "):
            await asking.trust.refresh((CATALOGUE,))


async def test_expired_metadata_adds_nothing_new(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        known = asking.trust.freshness().expires
        publisher.add("maths-6e-angles", {"index.html": noise(100)})
        publisher.release(at=now() - timedelta(days=31))
        expired = rf"metadata/timestamp.json of {MIRROR} is refused, it has expired .* is this machine's clock right"
        with pytest.raises(TrustError, match=expired):
            await asking.trust.refresh((CATALOGUE,))
        assert asking.trust.freshness().expires == known
        publisher.refresh()
        assert (await asking.trust.refresh((CATALOGUE,))).catalogues[CATALOGUE].manifest.edition == 2


async def test_a_node_that_never_refreshed_knows_no_expiry_and_takes_nothing_for_fresh(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        freshness = asking.trust.freshness()
    assert (freshness.is_fresh, freshness.expires, freshness.warning(now())) == (False, None, None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>Sign in to the school's network</body></html>",
        b'{"signed": {"_type": "timestamp", "spec_ver',
        b"[" * 16_000,
        b"9" * 16_000,
        b"\xef\xbb\xbf{}",
        b'{"signed": {}, "signatures": []}',
        b"null",
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.root.json"])
async def test_what_is_not_metadata_is_refused(publisher: Publisher, name: str, content: bytes) -> None:
    async with node(publisher) as asking:
        asking.origin.instead = {f"metadata/{name}": content}
        with pytest.raises(TrustError, match=rf"^metadata/{name} of {MIRROR} is refused, it is (not|longer) "):
            await asking.trust.refresh((CATALOGUE,))
        asking.origin.instead = {}
        await asking.trust.refresh((CATALOGUE,))


async def test_metadata_that_somebody_altered_is_refused(publisher: Publisher) -> None:
    text = metadata(publisher, "timestamp.json").read_text()
    altered = json.loads(text)
    altered["signed"]["version"] += 1
    async with node(publisher) as asking:
        asking.origin.instead = {"metadata/timestamp.json": json.dumps(altered).encode()}
        with pytest.raises(TrustError, match="too few of the keys that count have signed it"):
            await asking.trust.refresh((CATALOGUE,))


def _signed_again(raw: bytes, publisher: Publisher, **changes: object) -> bytes:
    """A timestamp with fields that python-tuf itself would not write, signed by the right key all the same."""
    whole = json.loads(raw)
    whole["signed"] |= changes
    canonical = encode_canonical(whole["signed"])
    assert canonical is not None
    signature = publisher.keys.signer("timestamp").sign(canonical.encode())
    whole["signatures"] = [signature.to_dict()]
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"expires": "2026-13-45T00:00:00Z"}, "it is not TUF metadata"),
        ({"expires": "tomorrow"}, "it is not TUF metadata"),
        ({"spec_version": "2.0.0"}, "it is not TUF metadata"),
        ({"version": -1}, "it is not TUF metadata"),
        ({"version": "3"}, "it is not TUF metadata"),
        ({"version": 1}, "it is older than what this machine has"),
        ({"_type": "snapshot"}, "it breaks a rule of TUF"),
        ({"meta": {}}, "it is not TUF metadata"),
        ({"meta": {"snapshot.json": {"version": 1}}}, "it is older than what this machine has"),
    ],
)
async def test_a_timestamp_that_cannot_be_is_refused_though_the_right_key_signed_it(
    publisher: Publisher, changes: dict[str, object], said: str
) -> None:
    raw = metadata(publisher, "timestamp.json").read_bytes()
    publisher.refresh()
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        asking.origin.instead = {"metadata/timestamp.json": _signed_again(raw, publisher, **{"version": 9, **changes})}
        with pytest.raises(TrustError, match=f"timestamp.json of {MIRROR} is refused, {said}"):
            await asking.trust.refresh((CATALOGUE,))
        asking.origin.instead = {}
        await asking.trust.refresh((CATALOGUE,))


def _without_signatures(raw: bytes) -> bytes:
    return json.dumps(json.loads(raw) | {"signatures": []}).encode()


def _twice_signed(raw: bytes) -> bytes:
    whole = json.loads(raw)
    return json.dumps(whole | {"signatures": whole["signatures"] * 2}).encode()


def _not_hex(raw: bytes) -> bytes:
    whole = json.loads(raw)
    whole["signatures"][0]["sig"] = "zz" * 64
    return json.dumps(whole).encode()


def _not_a_number(raw: bytes) -> bytes:
    whole = json.loads(raw)
    return json.dumps(whole | {"signed": whole["signed"] | {"version": float("nan")}}).encode()


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (_without_signatures, "too few of the keys that count"),
        (_twice_signed, "it is not TUF metadata"),
        (_not_hex, "too few of the keys that count"),
        (_not_a_number, ""),
        (lambda raw: raw + b"x", "it is not TUF metadata"),
        (lambda raw: b"\xef\xbb\xbf" + raw, "it is not TUF metadata"),
    ],
)
async def test_an_envelope_that_cannot_be_is_refused(
    publisher: Publisher, alter: Callable[[bytes], bytes], said: str
) -> None:
    async with node(publisher) as asking:
        raw = metadata(publisher, "timestamp.json").read_bytes()
        asking.origin.instead = {"metadata/timestamp.json": alter(raw)}
        with pytest.raises(TrustError, match=f"timestamp.json of {MIRROR} is refused, {said}"):
            await asking.trust.refresh((CATALOGUE,))
        asking.origin.instead = {}
        await asking.trust.refresh((CATALOGUE,))


async def test_more_than_16_kib_after_a_timestamp_is_too_long(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        raw = metadata(publisher, "timestamp.json").read_bytes()
        asking.origin.instead = {"metadata/timestamp.json": raw + b" " * 17_000}
        with pytest.raises(OriginError, match="sends more than 16384 bytes"):
            await asking.trust.refresh((CATALOGUE,))
        assert [note.refusal for note in asking.trust.notes] == [Refusal.TOO_LONG]


@pytest.mark.parametrize("other", ["2.snapshot.json", "1.targets.json", "1.root.json"])
async def test_other_metadata_is_no_timestamp_though_its_key_is_right(publisher: Publisher, other: str) -> None:
    async with node(publisher) as asking:
        asking.origin.instead = {"metadata/timestamp.json": metadata(publisher, other).read_bytes()}
        with pytest.raises(TrustError, match=f"timestamp.json of {MIRROR} is refused, "):
            await asking.trust.refresh((CATALOGUE,))


async def test_the_root_that_is_here_is_not_taken_for_the_next_one(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        asking.origin.instead = {"metadata/2.root.json": publisher.root.read_bytes()}
        with pytest.raises(TrustError, match=f"2.root.json of {MIRROR} is refused, it is older than what this machine"):
            await asking.trust.refresh((CATALOGUE,))


async def test_an_expired_root_is_named(publisher: Publisher) -> None:
    root = Metadata[Root].from_bytes(publisher.root.read_bytes())
    root.signed.version = 2
    root.signed.expires = now() - timedelta(days=1)
    root.sign(publisher.keys.signer("root"))
    metadata(publisher, "2.root.json").write_bytes(root.to_bytes(JSONSerializer()))
    async with node(publisher) as asking:
        with pytest.raises(TrustError, match=r"it has expired .*root"):
            await asking.trust.refresh((CATALOGUE,))


async def test_a_snapshot_that_drops_a_role_is_a_rollback(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        publisher.snapshot_anew(lambda snapshot: snapshot.meta.__delitem__("cned.json"))
        with pytest.raises(TrustError, match=r"it breaks a rule of TUF .*New snapshot is missing"):
            await asking.trust.refresh((CATALOGUE,))


async def test_a_target_that_somebody_altered_is_refused(publisher: Publisher) -> None:
    (target,) = (publisher.repository / "targets").rglob("*.manifest")
    path = str(target.relative_to(publisher.repository))
    raw = target.read_bytes()
    async with node(publisher) as asking:
        for altered in (raw[:-1], raw + b"x", bytes([raw[0] ^ 1]) + raw[1:], b""):
            asking.origin.instead = {path: altered}
            refreshed = await asking.trust.refresh((CATALOGUE,))
            assert not refreshed.catalogues
            assert refreshed.refused[CATALOGUE].startswith(f"{path} is refused, it is ")


async def test_the_root_of_another_publisher_trusts_nothing_here(publisher: Publisher, tmp_path: Path) -> None:
    other = Publisher(tmp_path / "other")
    other.begin()
    async with node(publisher, root=other.root.read_bytes()) as asking:
        with pytest.raises(TrustError, match="too few of the keys that count have signed it"):
            await asking.trust.refresh((CATALOGUE,))


async def test_an_update_that_is_not_whole_yet_is_no_news(publisher: Publisher) -> None:
    publisher.add("maths-6e-angles", {"index.html": noise(100)})
    publisher.release()
    async with node(publisher) as asking:
        asking.origin.instead = {"metadata/3.snapshot.json": 404}
        with pytest.raises(
            TrustError, match=r"an update is announced, and not complete yet \(.* no metadata/3.snapshot.json"
        ):
            await asking.trust.refresh((CATALOGUE,))


async def test_a_server_that_is_no_repository_is_named(publisher: Publisher, tmp_path: Path) -> None:
    async with node(publisher) as asking:
        asking.origin.root = tmp_path / "nothing"
        with pytest.raises(OriginError, match=rf"{MIRROR} has no metadata/timestamp.json: is it a repository"):
            await asking.trust.refresh((CATALOGUE,))


async def test_a_new_root_changes_the_keys(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        _rotate_timestamp_key(publisher)
        await asking.trust.refresh((CATALOGUE,))
        assert "metadata/3.root.json" in asking.origin.asked
        timestamp = Metadata[Timestamp].from_bytes(metadata(publisher, "timestamp.json").read_bytes())
        timestamp.signed.version += 1
        timestamp.sign(publisher.keys.signer("timestamp"))  # it no longer counts
        metadata(publisher, "timestamp.json").write_bytes(timestamp.to_bytes(JSONSerializer()))
        with pytest.raises(TrustError, match="too few of the keys that count have signed it"):
            await asking.trust.refresh((CATALOGUE,))


def _rotate_timestamp_key(publisher: Publisher) -> None:
    new = CryptoSigner.generate_ed25519()
    root = Metadata[Root].from_bytes(publisher.root.read_bytes())
    root.signed.revoke_key(root.signed.roles["timestamp"].keyids[0], "timestamp")
    root.signed.add_key(new.public_key, "timestamp")
    root.signed.version = 2
    root.sign(publisher.keys.signer("root"))
    metadata(publisher, "2.root.json").write_bytes(root.to_bytes(JSONSerializer()))
    timestamp = Metadata[Timestamp].from_bytes(metadata(publisher, "timestamp.json").read_bytes())
    timestamp.signed.version += 1
    timestamp.sign(new)
    metadata(publisher, "timestamp.json").write_bytes(timestamp.to_bytes(JSONSerializer()))


@pytest.mark.parametrize("name", ["root.json", "timestamp.json", "snapshot.json", "targets.json", "cned.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"<html>"])
async def test_what_a_power_cut_left_of_the_metadata_is_fetched_again(
    publisher: Publisher, name: str, content: bytes | None
) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        (asking.folder / name).unlink()
        if content is not None:
            (asking.folder / name).write_bytes(content)
        assert list((await asking.trust.refresh((CATALOGUE,))).catalogues) == [CATALOGUE]


async def test_metadata_that_cannot_be_written_is_said_to_be(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        with read_only(asking.folder), pytest.raises(LibraryError, match=r"cannot be written .*: is the disk full or"):
            await asking.trust.refresh((CATALOGUE,))
        assert asking.trust.freshness().is_fresh
        await asking.trust.refresh((CATALOGUE,))


# Several mirrors, and servers that take their time


class Mirrors(httpx.AsyncBaseTransport):
    """Each host its own origin."""

    def __init__(self, **folders: Folder) -> None:
        self._folders = folders

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._folders[request.url.host].handle_async_request(request)


def trusting(publisher: Publisher, **folders: Folder) -> AbstractAsyncContextManager[Trust]:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Trust, None]:
        folder = publisher.folder / "trust"
        folder.mkdir(exist_ok=True)
        urls = tuple(f"http://{host}/" for host in folders)
        async with open_origins(urls, Random(1), transport=Mirrors(**folders)) as origins:
            yield Trust(folder, publisher.root.read_bytes(), origins)

    return opened()


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "1.targets.json", "2.cned.json", "2.root.json"])
async def test_one_mirror_that_sends_what_is_wrong_does_not_stop_the_others(publisher: Publisher, name: str) -> None:
    evil, good = Folder(publisher.repository), Folder(publisher.repository)
    evil.instead = {f"metadata/{name}": b'{"signed": {}, "signatures": []}'}
    async with trusting(publisher, evil=evil, good=good) as trust:
        assert list((await trust.refresh((CATALOGUE,))).catalogues) == [CATALOGUE]


async def test_when_no_mirror_sends_what_is_right_the_reason_names_one(publisher: Publisher) -> None:
    evil, down = Folder(publisher.repository), Folder(publisher.repository)
    evil.instead = {"metadata/timestamp.json": b"<html>"}
    down.instead = dict.fromkeys(("metadata/timestamp.json", "metadata/2.root.json"), 500)
    async with trusting(publisher, evil=evil, down=down) as trust:
        with pytest.raises(TrustError, match=r"metadata/timestamp.json of http://evil/ is refused, it is not TUF"):
            await trust.refresh((CATALOGUE,))


async def test_a_server_that_drips_is_cut_at_the_refreshs_deadline(publisher: Publisher) -> None:
    folder = publisher.folder / "trust"
    folder.mkdir()
    async with serving(drip) as server, open_origins((server.url,), Random(1)) as origins:
        trust = Trust(folder, publisher.root.read_bytes(), origins, refresh_s=0.5)
        started = trio.current_time()
        with pytest.raises(OriginError, match="took more than"):
            await trust.refresh((CATALOGUE,))
        assert trio.current_time() - started < 2


@pytest.mark.parametrize("answer", [drip, silence])
async def test_a_refresh_under_way_ends_when_it_is_cancelled(publisher: Publisher, answer: object) -> None:
    folder = publisher.folder / "trust"
    folder.mkdir()
    async with (
        serving(drip if answer is drip else silence) as server,
        open_origins((server.url,), Random(1)) as origins,
    ):
        trust = Trust(folder, publisher.root.read_bytes(), origins)
        threads = threading.active_count()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trust.refresh, (CATALOGUE,))
            while not server.asked:
                await trio.sleep(0.01)
            started = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started < 1
        assert threading.active_count() <= threads + 1  # trio keeps the idle thread for the next call


async def test_metadata_without_an_end_is_cut(publisher: Publisher) -> None:
    folder = publisher.folder / "trust"
    folder.mkdir()
    async with serving(endless) as server, open_origins((server.url,), Random(1)) as origins:
        with pytest.raises(OriginError, match=f"{server.url} sends more than"):
            await Trust(folder, publisher.root.read_bytes(), origins).refresh((CATALOGUE,))


async def test_the_newest_of_several_mirrors_wins_whatever_their_order(publisher: Publisher) -> None:
    shutil.copytree(publisher.repository, publisher.folder / "old")
    publisher.add("maths-6e-angles", {"index.html": noise(100)})
    publisher.release()
    async with trusting(publisher, old=Folder(publisher.folder / "old"), new=Folder(publisher.repository)) as trust:
        assert (await trust.refresh((CATALOGUE,))).catalogues[CATALOGUE].manifest.edition == 2
        assert trust.versions()["timestamp"] == 3
    assert not trust.notes


async def test_one_mirror_cannot_hide_that_the_root_has_changed(publisher: Publisher) -> None:
    _rotate_timestamp_key(publisher)
    hiding, honest = Folder(publisher.repository), Folder(publisher.repository)
    hiding.instead = {"metadata/2.root.json": 404}
    async with trusting(publisher, hiding=hiding, honest=honest) as trust:
        await trust.refresh((CATALOGUE,))
        assert trust.versions()["root"] == 2


def mirrors_of(trust: Trust) -> tuple[MirrorState, ...]:
    assert isinstance(trust._origins, OriginClient)
    return trust._origins.states()


async def test_a_mirror_that_lies_is_set_aside_when_another_does_better_and_one_that_lags_is_not(
    publisher: Publisher,
) -> None:
    shutil.copytree(publisher.repository, publisher.folder / "old")
    publisher.add("maths-6e-angles", {"index.html": noise(100)})
    publisher.release()
    evil, old, new = Folder(publisher.repository), Folder(publisher.folder / "old"), Folder(publisher.repository)
    forged = json.loads(metadata(publisher, "timestamp.json").read_text())
    forged["signed"]["version"] = 9
    evil.instead = {"metadata/timestamp.json": json.dumps(forged).encode()}
    async with trusting(publisher, old=old, evil=evil, new=new) as trust:
        assert (await trust.refresh((CATALOGUE,))).catalogues[CATALOGUE].manifest.edition == 2
        aside = {state.name: state.reason for state in mirrors_of(trust) if state.is_aside}
        assert list(aside) == ["http://evil/"]
        assert aside["http://evil/"] is not None
        assert aside["http://evil/"].startswith("sends a metadata/timestamp.json that is refused, too few of the keys")
        evil.asked.clear()
        await trust.refresh((CATALOGUE,))
        assert evil.asked == []
    assert [note.refusal for note in trust.notes] == [Refusal.SIGNATURES]


async def test_mirrors_are_not_blamed_for_what_a_publisher_signed_wrongly(publisher: Publisher) -> None:
    role = Metadata[Targets].from_bytes(metadata(publisher, "2.cned.json").read_bytes())
    role.sign(CryptoSigner.generate_ed25519())  # a stranger's, in place of the publisher's
    _show_role(publisher, "2.cned.json", role)
    one, two = Folder(publisher.repository), Folder(publisher.repository)
    async with trusting(publisher, one=one, two=two) as trust:
        refreshed = await trust.refresh((CATALOGUE,))
        assert refreshed.refused[CATALOGUE].startswith("metadata/2.cned.json is refused, too few of the keys")
        assert not any(state.is_aside for state in mirrors_of(trust))


async def test_what_the_targets_role_says_in_another_form_is_refused_whole(publisher: Publisher) -> None:
    role = Metadata[Targets].from_bytes(metadata(publisher, "1.targets.json").read_bytes())
    role.signed.unrecognized_fields["x-edgeshare"] = {"revoked": ["cned"]}
    role.sign(publisher.keys.signer("targets"))
    _show_role(publisher, "1.targets.json", role)
    async with node(publisher) as asking:
        with pytest.raises(
            TrustError, match=r"the targets metadata .* is refused, .* something else than who may publish"
        ):
            await asking.trust.refresh((CATALOGUE,))
        assert [note.refusal for note in asking.trust.notes] == [Refusal.INVALID]


async def test_a_publisher_whose_role_has_expired_does_not_keep_the_others_back(publisher: Publisher) -> None:
    role = Metadata[Targets].from_bytes(metadata(publisher, "2.cned.json").read_bytes())
    role.signed.expires = now() - timedelta(days=1)
    role.sign(publisher.keys.signer("cned"))
    _show_role(publisher, "2.cned.json", role)
    async with node(publisher) as asking:
        refreshed = await asking.trust.refresh((CATALOGUE, "nobody/6e"))
    assert "it has expired" in refreshed.refused[CATALOGUE]
    assert refreshed.unpublished == ("nobody/6e",)


def _show_role(publisher: Publisher, name: str, role: Metadata[Targets]) -> None:
    """Publish other metadata of a targets role, under a snapshot and a timestamp that are right."""
    raw = role.to_bytes(JSONSerializer())
    metadata(publisher, name).write_bytes(raw)
    named = MetaFile.from_data(role.signed.version, raw, ["sha256"])
    publisher.snapshot_anew(lambda snapshot: snapshot.meta.update({name.partition(".")[2]: named}))


# What is kept of the trusted metadata


async def test_what_a_power_cut_tore_is_put_back_so_that_nothing_older_is_taken(publisher: Publisher) -> None:
    shutil.copytree(publisher.repository, publisher.folder / "old")
    publisher.add("maths-6e-angles", {"index.html": noise(100)})
    publisher.release()
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
    before = asking.trust.versions()
    for torn in asking.folder.glob("*.json"):
        torn.unlink()
        torn.write_bytes(b"")
    async with node(publisher) as asking:
        assert asking.trust.versions() == before
        asking.origin.root = publisher.folder / "old"
        with pytest.raises(TrustError, match="it is older than what this machine has"):
            await asking.trust.refresh((CATALOGUE,))


async def test_an_older_file_that_came_back_gives_way_to_the_newer_one(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        old = (asking.folder / "timestamp.json").read_bytes()
        publisher.refresh()
        await asking.trust.refresh((CATALOGUE,))
    (asking.folder / "timestamp.json").write_bytes(old)
    async with node(publisher) as asking:
        assert asking.trust.versions()["timestamp"] == 3


@pytest.mark.parametrize("copy", [b"", b"\xc1", b"\x80", b"\x01"])
async def test_a_damaged_copy_is_as_if_there_were_none(publisher: Publisher, copy: bytes) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
    (asking.folder / "trusted.msgpack").write_bytes(copy)
    async with node(publisher) as asking:
        assert asking.trust.freshness().is_fresh
        await asking.trust.refresh((CATALOGUE,))


async def test_when_the_origin_was_heard_last_is_known_after_a_restart(publisher: Publisher) -> None:
    async with node(publisher) as asking:
        await asking.trust.refresh((CATALOGUE,))
        heard = asking.trust.freshness().refreshed
    async with node(publisher) as asking:
        assert asking.trust.freshness().refreshed == heard


# Clocks


@asynccontextmanager
async def at(publisher: Publisher, moment: datetime) -> AsyncGenerator[Trust, None]:
    """The trust of a node whose own clock says `moment`; the updater's is right."""
    folder = publisher.folder / "trust"
    folder.mkdir(exist_ok=True)
    async with open_origins((MIRROR,), Random(1), transport=Folder(publisher.repository)) as origins:
        yield Trust(folder, publisher.root.read_bytes(), origins, now=lambda: moment)


async def test_a_clock_that_is_far_behind_is_named_and_takes_what_is_fresh(publisher: Publisher) -> None:
    async with at(publisher, datetime(1970, 1, 1, tzinfo=UTC)) as trust:
        await trust.refresh((CATALOGUE,))
        freshness = trust.freshness()
    assert (freshness.is_fresh, freshness.clock) == (True, Clock.BEHIND)


async def test_a_clock_that_is_behind_makes_nothing_fresh_that_expired(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.add("maths-6e-angles", {"index.html": noise(100)})
    publisher.release(at=RELEASED - timedelta(days=40))
    updaters = SimpleNamespace(datetime=_Clock1970, timezone=timezone)
    monkeypatch.setattr("tuf.ngclient._internal.trusted_metadata_set.datetime", updaters)
    async with at(publisher, datetime(1970, 1, 1, tzinfo=UTC)) as trust:
        with pytest.raises(TrustError, match=r"the timestamp metadata of .* it expired on .* clock is behind"):
            await trust.refresh((CATALOGUE,))


class _Clock1970(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _Clock1970:
        return cls(1970, 1, 1, tzinfo=tz)


@pytest.mark.parametrize("content", [b"", b"{}", b"<html>", b"[" * 5000])
def test_a_root_that_is_none_is_refused_at_the_start(content: bytes) -> None:
    with pytest.raises(TrustError):
        check_root(content)


def test_other_metadata_is_no_root(published: Publisher) -> None:
    with pytest.raises(TrustError, match="it is timestamp metadata, not a root of trust"):
        check_root(metadata(published, "timestamp.json").read_bytes())


def test_a_root_that_its_own_keys_did_not_sign_is_refused(published: Publisher) -> None:
    altered = json.loads(published.root.read_text())
    altered["signed"]["version"] = 7
    with pytest.raises(TrustError, match="that its own keys signed"):
        check_root(json.dumps(altered).encode())


def test_a_publishers_root_is_one(published: Publisher) -> None:
    check_root(published.root.read_bytes())
