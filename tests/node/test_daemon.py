from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio

from edgeshare.cli.main import main
from tests.support.disk import read_only
from tests.support.nodes import STOP_WITHIN_S, Node, Process, apart, here, process, write_config
from tests.support.publisher import Publisher, noise, now
from tests.support.server import Answer, Asked, Site, always, drip, part_of, reply, serving, silence

LESSON = "maths-6e-fractions"
PAGE = noise(40_000)
FILM = noise(3 * 2**20)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """One lesson, released."""
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    publisher.add(LESSON, {"index.html": PAGE, "film.mp4": FILM})
    publisher.release()
    return publisher


@pytest.fixture
def site(publisher: Publisher) -> Site:
    return Site(publisher.repository)


def of_lesson(publisher: Publisher, answer: Answer) -> Site:
    """An origin that is right but for the content of the lesson."""
    site = Site(publisher.repository)
    catalogue, lesson = sorted(
        (folder.name for folder in (publisher.repository / "content").iterdir()),
        key=lambda name: (publisher.repository / "content" / name / "index.html").exists(),
    )
    assert catalogue != lesson
    site.wrong = lambda path: answer if path.startswith(f"content/{lesson}/") else None
    return site


async def test_a_node_fetches_what_it_follows_and_serves_it(publisher: Publisher, site: Site, tmp_path: Path) -> None:
    async with serving(site) as origin, here(write_config(tmp_path / "node", publisher, origin.url)) as node:
        view = await node.until(LESSON, "complete")
        assert view["bytes_have"] == view["size"] == view["origin_bytes"] == len(PAGE) + len(FILM)
        assert view["crowd"] is None
        assert await node.read(LESSON, "index.html") == (200, PAGE)
        assert await node.read(LESSON, "film.mp4") == (200, FILM)
        status = await node.status()
        assert (status["trouble"], status["fresh"]) == (None, True)
        assert status["catalogues"][0] | {"issued": None} == {
            "name": "cned/6e",
            "followed": True,
            "edition": 1,
            "issued": None,
            "lessons": 1,
            "trouble": None,
        }


@pytest.mark.whole
async def test_a_restart_fetches_nothing_again(publisher: Publisher, site: Site, tmp_path: Path) -> None:
    config = write_config(tmp_path / "node", publisher)
    async with serving(site) as origin:
        write_config(tmp_path / "node", publisher, origin.url)
        async with here(config) as node:
            await node.until(LESSON, "complete")
        site.asked.clear()
        async with here(config) as node:
            await node.until(LESSON, "complete")
            await node.until_status(lambda status: len(site.asked) > 1)
        assert {path.split("/")[0] for path in site.asked} == {"metadata", "targets"}


@pytest.mark.whole
async def test_a_new_edition_is_admitted_and_what_is_withdrawn_goes(
    publisher: Publisher, site: Site, tmp_path: Path
) -> None:
    async with serving(site) as origin, here(write_config(tmp_path / "node", publisher, origin.url)) as node:
        await node.until(LESSON, "complete")
        publisher.add("maths-6e-angles", {"index.html": PAGE[:1000]})
        publisher.withdraw(LESSON, "Une date est fausse.")
        publisher.release()
        await node.until("maths-6e-angles", "complete")
        assert await node.lesson(LESSON) is None
        assert (await node.read(LESSON, "index.html"))[0] == 410


@pytest.mark.whole
async def test_expired_metadata_adds_nothing_and_takes_nothing_away(
    publisher: Publisher, site: Site, tmp_path: Path
) -> None:
    async with serving(site) as origin, here(write_config(tmp_path / "node", publisher, origin.url)) as node:
        await node.until(LESSON, "complete")
        publisher.add("maths-6e-angles", {"index.html": PAGE[:1000]})
        publisher.release(at=now() - timedelta(days=31))
        status = await node.until_status(lambda status: bool(status["trouble"]))
        assert f"metadata/timestamp.json of {origin.url} is refused, it has expired" in status["trouble"]
        assert await node.lesson("maths-6e-angles") is None
        assert await node.read(LESSON, "index.html") == (200, PAGE)


@pytest.mark.whole
async def test_a_node_waits_for_an_origin_that_is_down(publisher: Publisher, site: Site, tmp_path: Path) -> None:
    async with serving(site) as down:
        pass
    async with here(write_config(tmp_path / "node", publisher, down.url)) as node:
        status = await node.until_status(lambda status: bool(status["trouble"]))
        assert status["trouble"] == f"{down.url} cannot be reached"
        async with serving(site, down.port):
            await node.until(LESSON, "complete")
            await node.until_status(lambda status: not status["trouble"])


@pytest.mark.whole
async def test_a_node_starts_and_serves_without_its_origin(publisher: Publisher, site: Site, tmp_path: Path) -> None:
    config = write_config(tmp_path / "node", publisher)
    async with serving(site) as origin:
        write_config(tmp_path / "node", publisher, origin.url)
        async with here(config) as node:
            await node.until(LESSON, "complete")
    async with here(config) as node:
        assert await node.read(LESSON, "index.html") == (200, PAGE)


async def truncated(_: Asked, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + PAGE[:20_000])
    await stream.aclose()


async def torn_part(asked: Asked, stream: trio.SocketStream) -> None:
    whole = part_of(FILM if "film" in asked.path else PAGE, asked)
    await stream.send_all(whole[: len(whole) // 2])
    await stream.aclose()


async def other_part(asked: Asked, stream: trio.SocketStream) -> None:
    size = len(FILM) if "film" in asked.path else len(PAGE)
    await stream.send_all(part_of(bytes(size), asked))


HTML = always(reply(200, b"<html>Sign in</html>", content_type="text/html"))
ELSEWHERE = always(reply(302, location="http://login.example/"))


async def for_ever(asked: Asked, stream: trio.SocketStream) -> None:
    await stream.send_all(reply(302, location=asked.path))


@pytest.mark.whole
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(HTML, "answers with a web page (a login page?)", id="html"),
        pytest.param(truncated, "breaks off in the middle", id="truncated"),
        pytest.param(ELSEWHERE, "redirects to another place (a login page?)", id="elsewhere"),
        pytest.param(for_ever, "redirects more than 5 times", id="for_ever"),
        pytest.param(always(reply(200, PAGE)), "is refused, it is not TUF metadata", id="other_bytes"),
        pytest.param(always(reply(200, b"{}")), "is refused, it is not TUF metadata", id="no_metadata"),
    ],
)
async def test_an_origin_that_is_wrong_is_not_believed_and_may_become_right(
    publisher: Publisher, site: Site, tmp_path: Path, answer: Answer, said: str
) -> None:
    site.wrong = lambda path: answer
    async with serving(site) as origin, here(write_config(tmp_path / "node", publisher, origin.url)) as node:
        status = await node.until_status(lambda status: bool(status["trouble"]))
        assert said in status["trouble"]
        assert origin.url in status["trouble"]
        assert (status["lessons"], status["catalogues"][0]["edition"]) == ({}, None)
        site.wrong = lambda path: None
        await node.until(LESSON, "complete")
        assert await node.read(LESSON, "film.mp4") == (200, FILM)


@pytest.mark.whole
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(HTML, "answers with a web page (a login page?)", id="html"),
        pytest.param(torn_part, "breaks off in the middle", id="truncated"),
        pytest.param(ELSEWHERE, "redirects to another place", id="elsewhere"),
        pytest.param(for_ever, "redirects more than 5 times", id="for_ever"),
        pytest.param(other_part, "sends other bytes than were published", id="other_bytes"),
    ],
)
async def test_content_that_is_wrong_is_never_kept_or_served(
    publisher: Publisher, tmp_path: Path, answer: Answer, said: str
) -> None:
    site = of_lesson(publisher, answer)
    async with (
        serving(site) as origin,
        here(write_config(tmp_path / "node", publisher, origin.url, refresh_every_s=1000)) as node,
    ):
        status = await node.until_status(lambda status: said in (status["trouble"] or ""))
        assert origin.url in status["trouble"]
        view = await node.lesson(LESSON)
        assert view
        assert (view["state"], view["bytes_have"]) == ("fetching", view["origin_bytes"])
        assert view["crowd"] == 1
        assert view["bytes_have"] == 0 or answer is torn_part  # what came whole before it broke off was right
        with trio.move_on_after(0.5):  # a browser would wait for what is right
            code, body = await node.read(LESSON, "index.html")
            assert code != 200
            assert body not in PAGE
        site.wrong = lambda path: None
        await node.until(LESSON, "complete")
        assert await node.read(LESSON, "index.html") == (200, PAGE)
        await node.until_status(lambda status: not status["trouble"])


@pytest.mark.whole
async def test_a_mirror_that_sends_wrong_bytes_is_named_in_the_status_and_another_asked(
    publisher: Publisher, site: Site, tmp_path: Path
) -> None:
    async with (
        serving(of_lesson(publisher, other_part)) as wrong,
        serving(site) as right,
        here(write_config(tmp_path / "node", publisher, wrong.url, right.url, refresh_every_s=1000)) as node,
    ):
        await node.until(LESSON, "complete")
        status = await node.status()
        aside, asked = status["mirrors"]
        assert (aside["name"], aside["aside"]) == (wrong.url, True)
        assert aside["reason"].startswith("sends other bytes than were published in content/")
        assert datetime.fromisoformat(aside["until"]) > now() + timedelta(minutes=55)
        assert (asked["name"], asked["aside"], asked["until"], asked["reason"]) == (right.url, False, None, None)
        assert asked["received_bytes"] > len(PAGE) + len(FILM)
        assert aside["received_bytes"] + asked["received_bytes"] == status["origin_bytes"]
        assert status["origin_bytes"] == sum(status["origin_bytes_by_reason"].values())


# What only processes show: signals, and death


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_a_node_at_rest(
    publisher: Publisher, site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    config = write_config(tmp_path / "node", publisher, "http://127.0.0.1:1/")
    async with apart(config) as (node, running):
        assert (await node.status())["lessons"] == {}
        await assert_stops(running, number)
        assert not (node.library / "control.sock").exists()
        assert "Traceback" not in running.log.read_text()


async def assert_stops(running: Process, number: signal.Signals = signal.SIGTERM) -> None:
    code, seconds = await running.stop(number)
    assert code == 0, running.log.read_text()
    assert seconds < STOP_WITHIN_S


@pytest.mark.whole
@pytest.mark.parametrize("answer", [drip, silence])
async def test_a_signal_stops_a_node_while_a_refresh_hangs(
    publisher: Publisher, site: Site, tmp_path: Path, answer: Answer
) -> None:
    site.wrong = lambda path: answer
    async with (
        serving(site) as origin,
        apart(write_config(tmp_path / "node", publisher, origin.url)) as (_, running),
    ):
        while not site.asked:
            await trio.sleep(0.02)
        await assert_stops(running)


@pytest.mark.whole
@pytest.mark.parametrize("answer", [drip, silence])
async def test_a_signal_stops_a_node_while_it_fetches(publisher: Publisher, tmp_path: Path, answer: Answer) -> None:
    site = of_lesson(publisher, answer)
    async with (
        serving(site) as origin,
        apart(write_config(tmp_path / "node", publisher, origin.url)) as (node, running),
    ):
        await node.until(LESSON, "fetching")
        while not any(site.wrong(path) for path in site.asked):
            await trio.sleep(0.02)
        await assert_stops(running)


@pytest.mark.whole
async def test_a_signal_stops_a_node_while_browsers_read_slowly(
    publisher: Publisher, site: Site, tmp_path: Path
) -> None:
    async with (
        serving(site) as origin,
        apart(write_config(tmp_path / "node", publisher, origin.url)) as (node, running),
    ):
        await node.until(LESSON, "complete")
        readers = [await _begin_to_read(node) for _ in range(3)]
        await assert_stops(running)
        for reader in readers:
            await reader.aclose()


async def _begin_to_read(node: Node) -> trio.SocketStream:
    stream = await trio.open_tcp_stream(node.shim.host, node.shim.port)
    await stream.send_all(f"GET /lessons/{LESSON}/film.mp4 HTTP/1.1\r\nHost: {node.shim}\r\n\r\n".encode())
    assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 200")
    return stream


@pytest.mark.whole
async def test_what_was_fetched_survives_a_kill(publisher: Publisher, site: Site, tmp_path: Path) -> None:
    async with serving(site) as origin:
        config = write_config(tmp_path / "node", publisher, origin.url)
        async with apart(config) as (node, running):
            await node.until(LESSON, "complete")
            assert (await running.stop(signal.SIGKILL))[0] == -signal.SIGKILL
        site.asked.clear()
        async with apart(config) as (node, running):
            assert (await node.lesson(LESSON) or {})["state"] == "complete"
            assert await node.read(LESSON, "film.mp4") == (200, FILM)
            await assert_stops(running)
        assert not [path for path in site.asked if path.startswith(("content/", "torrents/"))]


@pytest.mark.whole
@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.6, 1.0])
async def test_a_node_killed_at_any_moment_goes_on_after_a_restart(
    publisher: Publisher, site: Site, tmp_path: Path, after_s: float
) -> None:
    async with serving(site) as origin:
        config = write_config(tmp_path / "node", publisher, origin.url)
        async with apart(config) as (_, running):
            await trio.sleep(after_s)
            await running.stop(signal.SIGKILL)
        async with apart(config) as (node, running):
            await node.until(LESSON, "complete")
            assert await node.read(LESSON, "index.html") == (200, PAGE)
            await assert_stops(running)


@pytest.mark.whole
async def test_a_node_tells_its_service_manager_when_it_is_ready_and_when_it_stops(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM)
    await manager.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with manager:
        async with apart(write_config(tmp_path / "node", publisher, "http://127.0.0.1:1/")) as (_, running):
            with trio.fail_after(5):
                assert await manager.recv(100) == b"READY=1"
            await assert_stops(running)
            with trio.fail_after(5):
                assert await manager.recv(100) == b"STOPPING=1"


# A node that cannot start: one line that says what to do


def start(config: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `edgeshare run` says when it fails: its one line."""
    with pytest.raises(SystemExit) as left:
        main(["run", "--config", str(config)])
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (1, "")
    assert err.startswith("edgeshare: ")
    assert err.count("\n") == 1
    return err.removeprefix("edgeshare: ").rstrip("\n")


def test_a_port_in_use_for_readers_is_named(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _listening() as port:
        said = start(write_config(tmp_path, publisher, "http://a/", shim=f"127.0.0.1:{port}"), capsys)
    assert said.startswith(f"cannot listen on 127.0.0.1:{port}, it is in use: choose another port, or stop the program")


def test_a_port_in_use_for_peers_is_named(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _listening() as port:
        said = start(write_config(tmp_path, publisher, "http://a/", swarm=f"127.0.0.1:{port}"), capsys)
    assert said.startswith(f"cannot listen for peers on 127.0.0.1:{port} (")
    assert said.endswith("is another program using it? give [swarm] another `listen`")


@contextmanager
def _listening() -> Iterator[int]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def test_a_file_in_the_librarys_place_is_named(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, publisher, "http://a/")
    (tmp_path / "library").write_text("")
    said = start(config, capsys)
    assert said.startswith(f"the library {tmp_path / 'library'} cannot be written (")
    assert said.endswith("): is its disk full, read-only, or another user's?")


def test_a_library_that_is_read_only_is_named(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, publisher, "http://a/")
    (tmp_path / "library").mkdir()
    with read_only(tmp_path / "library"):
        said = start(config, capsys)
    assert said.startswith(f"the library {tmp_path / 'library'} cannot be written (")


async def test_a_library_in_use_is_named(publisher: Publisher, tmp_path: Path) -> None:
    config = write_config(tmp_path / "node", publisher, "http://127.0.0.1:1/")
    async with here(config) as node, process("run", "--config", config, log=tmp_path / "second") as second:
        with trio.fail_after(20):
            assert await second.process.wait() == 1
        assert (tmp_path / "second").read_text() == (
            f"edgeshare: another edgeshare uses the library {node.library}: "
            "stop it, or give this node another `library`\n"
        )
        assert (await node.status())["lessons"] == {}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("qouta = '20 GiB'", "unknown key `qouta`: did you mean `quota`?"),
        ("quota = '20'", "quota"),
        ("quota = '20 Mbit/s'", "quota"),
        ("profile = 'class'", "profile 'class': use one of home, school, origin"),
        ("fetch = ['Maths']", "fetch"),
        ("fetch = 5", "fetch"),
        ("= 5", "is not TOML"),
    ],
)
def test_a_config_that_cannot_be_is_named_with_its_key(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, said: str
) -> None:
    config = write_config(tmp_path, publisher, "http://a/", more=more)
    line = start(config, capsys)
    assert line.startswith(f"{config}")
    assert said in line
    assert not (tmp_path / "library").exists()


def test_a_rate_that_cannot_be_is_named(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = start(write_config(tmp_path, publisher, "http://a/", peers="upload = '5 MB'"), capsys)
    assert "upload" in line
    assert "Mbit/s" in line


def test_a_config_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(tmp_path / "none.toml", capsys) == (
        f"cannot read {tmp_path / 'none.toml'} (No such file or directory): give the node's config with --config FILE"
    )


@pytest.mark.parametrize(
    ("root", "said"),
    [
        (None, "cannot read the root of trust {root} (No such file or directory): `root` names the publisher's"),
        (b"<html>", "cannot start from {root}, it is not a root of trust that its own keys signed: `root` names"),
    ],
)
def test_a_root_of_trust_that_is_none_is_named(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str], root: bytes | None, said: str
) -> None:
    publisher.root.unlink()
    if root is not None:
        publisher.root.write_bytes(root)
    line = start(write_config(tmp_path, publisher, "http://a/"), capsys)
    assert line.startswith(said.format(root=publisher.root))
