from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
import trio

from edgeshare import __version__
from edgeshare.cli.main import cli, main
from edgeshare.cli.node import _aside
from edgeshare.control import serve_control
from edgeshare.freshness import Freshness
from edgeshare.manifest import LessonId
from edgeshare.refusals import Refusal, RefusalNote
from edgeshare.view import MirrorView, Need, State
from tests.shim.conftest import NOW, NodeInMemory, manifest

LESSON = "maths-6e-fractions"


class CompletingNode(NodeInMemory):
    """A node in memory where a wish comes true when a test says so."""

    is_slow: bool = False

    async def want(self, lesson: LessonId) -> None:
        if not self.is_slow:
            self.alter(lesson, state=State.COMPLETE, bytes_have=1000, peer_bytes=750, origin_bytes={"alone": 250})


@attrs.frozen
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Awaitable[Said]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in a thread of this process, beside the node that it speaks to."""

    def in_thread(arguments: tuple[str, ...]) -> int:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        return left.value.code if isinstance(left.value.code, int) else 0

    async def called(*arguments: str | Path) -> Said:
        code = await trio.to_thread.run_sync(in_thread, tuple(map(str, arguments)))
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return called


@pytest.fixture
def node() -> CompletingNode:
    node = CompletingNode()
    fetching = manifest(LESSON, title="Les fractions [1/2]", size=1000)
    node.add(fetching, State.FETCHING, bytes_have=250, peers=2)
    node.add(manifest("anglais-5e-school", title="My [/school]", levels=("5e",)), State.LISTED)
    return node


@asynccontextmanager
async def answering(node: NodeInMemory, library: Path) -> AsyncGenerator[Path, None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, node, library)
        with trio.fail_after(20):
            yield library
        nursery.cancel_scope.cancel()


async def test_status_says_how_the_node_stands(call: Call, node: CompletingNode, tmp_path: Path) -> None:
    node.needs = (Need(at=datetime(2026, 11, 25, 8).astimezone(), lessons=3, ready=2),)
    async with answering(node, tmp_path) as library:
        said = await call("status", "--library", library)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "edgeshare 0.1.0: home node with 2 peers",
        "lessons: 1 fetching, 1 listed",
        "catalogue cned/6e: edition 4, 2 lessons",
        "received since the start: 5 B from peers, 7 B from the origin (42 % from peers)",
        "from the origin because: no other node was there (7 B)",
        "given to peers since the start: 3 B",
        "library: 1.0 GiB of its 20.0 GiB; free on the disk: 953.7 MiB",
        "needed 2026-11-25 08:00: 2 of 3 lessons here",
        "fresh until 2026-11-23",
    ]


async def test_status_says_what_is_wrong(call: Call, node: CompletingNode, tmp_path: Path) -> None:
    node.trouble = "http://a/ cannot be reached"
    node.freshness, node.warning = Freshness(is_fresh=False, expires=NOW), "nothing new is accepted: this and that"
    what = [f"timestamp.json of http://{name}/ is refused" for name in "abcd"] + [node.trouble]  # said already
    node.refusals = tuple(RefusalNote(at=NOW, refusal=Refusal.OLDER, what=each) for each in what)
    async with answering(node, tmp_path) as library:
        said = await call("status", "--library", library)
    assert said.code == 0
    assert said.out.splitlines()[-5:] == [
        "the origin: http://a/ cannot be reached",
        *(f"refused on {NOW:%Y-%m-%d at %H:%M}: timestamp.json of http://{name}/ is refused" for name in "bcd"),
        "nothing new is accepted: this and that",
    ]


async def test_status_says_why_bytes_came_from_the_origin(call: Call, node: CompletingNode, tmp_path: Path) -> None:
    node.origin_bytes = {"metadata": 2048, "nobody_has_it": 3 * 2**19, "peers_stall": 0, "something_new": 300_000}
    async with answering(node, tmp_path) as library:
        said = await call("status", "--library", library)
    told = "nobody had it (1.5 MiB), something new (293.0 KiB), metadata and lists of files (2.0 KiB)"
    assert f"from the origin because: {told}" in said.out.splitlines()


async def test_status_names_the_mirrors_that_are_set_aside(call: Call, node: CompletingNode, tmp_path: Path) -> None:
    later = datetime(2031, 11, 24, 7, 0, tzinfo=UTC)
    wrong = "sends other bytes than were published"
    node.mirrors = (
        MirrorView(name="http://a/", is_aside=True, until=later, reason=wrong),
        MirrorView(name="http://b/", is_aside=False, received_bytes=1),
        MirrorView(name="http://c/", is_aside=True),
    )
    async with answering(node, tmp_path) as library:
        said = await call("status", "--library", library)
    assert [line for line in said.out.splitlines() if line.startswith("mirror")] == [
        f"mirror http://a/ is left alone until {later.astimezone():%Y-%m-%d %H:%M}: it {wrong}",
        "mirror http://c/ is left alone",
    ]


def test_a_mirror_is_left_alone_until_an_hour_of_the_readers_clock() -> None:
    now = datetime(2026, 11, 24, 7, 50, tzinfo=timezone(timedelta(hours=1)))
    mirror = {"until": "2026-11-24T07:15:30+00:00", "reason": "answers 500"}
    assert _aside(mirror, now) == "left alone until 08:15:30: it answers 500"


async def test_status_as_json_has_the_fields_that_others_build_on(
    call: Call, node: CompletingNode, tmp_path: Path
) -> None:
    async with answering(node, tmp_path) as library:
        said = await call("status", "--library", library, "--json")
    assert json.loads(said.out) == node.status().as_json()


async def test_lessons_are_a_table(call: Call, node: CompletingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        said = await call("lessons", "--library", library)
    heading, *rows = said.out.splitlines()
    assert heading.split() == ["lesson", "title", "level", "size", "state"]
    assert sorted(row.split("  ")[0] for row in rows) == ["anglais-5e-school", LESSON]
    assert "Les fractions [1/2]" in said.out  # as it is: no markup
    assert "My [/school]" in said.out
    assert "fetching, 25 %" in said.out
    assert "\x1b" not in said.out


async def test_lessons_as_json_are_a_list(call: Call, node: CompletingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        said = await call("lessons", "--library", library, "--json", "--level", "5e")
        nothing = await call("lessons", "--library", library, "--json", "--level", "3e")
    assert [each["id"] for each in json.loads(said.out)] == ["anglais-5e-school"]
    assert json.loads(nothing.out) == []


async def test_no_lessons_is_a_message_and_no_result(call: Call, node: CompletingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        said = await call("lessons", "--library", library, "--level", "3e")
    assert (said.code, said.out) == (0, "")
    assert said.err == "no lessons of the level 3e here yet: does `edgeshare status` show a catalogue?\n"


async def test_get_waits_until_the_lesson_is_here(call: Call, node: CompletingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        said = await call("get", LESSON, "--library", library)
    assert said == Said(0, f"{LESSON} is here: 1000 B, 75 % from peers\n", "")


async def test_get_says_why_a_lesson_does_not_come(call: Call, node: CompletingNode, tmp_path: Path) -> None:
    node.is_slow = True
    node.alter(LESSON, state=State.FAILED, reason="no space left on the device")
    async with answering(node, tmp_path) as library:
        said = await call("get", LESSON, "--library", library)
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        f"edgeshare: {LESSON} is failed: no space left on the device: the node tries again; see `edgeshare status`\n"
    )


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["lessons"], ["get", LESSON]])
async def test_without_a_node_each_command_says_so_in_one_line(call: Call, tmp_path: Path, command: list[str]) -> None:
    said = await call(*command, "--library", tmp_path / "nothing")
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        f"edgeshare: no daemon runs on the library {tmp_path / 'nothing'}: "
        "start one with `edgeshare run --config FILE`, or name another with --library or --config\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["statsu"], "No such command 'statsu'. Did you mean 'status'?"),
        (["origin", "sevre"], "No such command 'sevre'. Did you mean 'serve'?"),
        (["dance"], "No such command 'dance'."),
        (["status", "--jsno"], "No such option '--jsno'"),
        (["run"], "Missing option '--config'"),
        (["get"], "Missing argument 'LESSON'"),
        (["origin", "serve", "/tmp", "--listen", "8080"], "'8080' is not host:port, like 127.0.0.1:8470"),
    ],
)
async def test_wrong_usage_is_code_2_and_names_what_was_meant(call: Call, arguments: list[str], said: str) -> None:
    answer = await call(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


async def test_nothing_to_do_is_wrong_usage_and_shows_the_commands(call: Call) -> None:
    said = await call()
    assert said.code == 2
    assert "Commands:" in said.err


async def test_the_version_is_one_line(call: Call) -> None:
    assert await call("--version") == Said(0, f"edgeshare, version {__version__}\n", "")


def _commands() -> list[tuple[str, ...]]:
    """Every command there is, and the groups."""
    found: list[tuple[str, ...]] = [()]

    def walk(group: click.Group, above: tuple[str, ...]) -> None:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            found.append((*above, name))
            if isinstance(command, click.Group):
                walk(command, (*above, name))

    walk(cli, ())
    return found


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
async def test_the_help_of_each_command_has_an_example_of_it(call: Call, command: tuple[str, ...]) -> None:
    said = await call(*command, "--help")
    assert (said.code, said.err) == (0, "")
    example = said.out.partition("Example:\n")[2]
    assert example.strip().startswith(" ".join(("edgeshare", *command)))


def test_a_folder_that_is_no_repository_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["origin", "serve", str(tmp_path), "--listen", "127.0.0.1:0"])
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (1, "")
    assert err.startswith(f"edgeshare: {tmp_path} is no repository, it has no folder metadata: name the folder")
    assert err.count("\n") == 1


# As processes: pipes, terminals, signals


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edgeshare", *map(str, arguments)]


async def test_who_reads_no_further_ends_a_command_well_and_quietly(node: CompletingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        for arguments in (["lessons"], ["lessons", "--json"], ["status"]):
            reader, writer = os.pipe()
            os.close(reader)
            asked = command(*arguments, "--library", library)
            done = await trio.run_process(asked, stdout=writer, capture_stderr=True, check=False)
            os.close(writer)
            assert (done.returncode, done.stderr) == (0, b"")


async def test_get_shows_a_bar_on_a_terminal_and_its_result_elsewhere(node: CompletingNode, tmp_path: Path) -> None:
    node.is_slow = True
    async with answering(node, tmp_path) as library:
        screen, terminal = pty.openpty()
        asked = await trio.lowlevel.open_process(
            command("get", LESSON, "--library", library),
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"},
        )
        os.close(terminal)
        shown = b""
        with os.fdopen(screen, "rb", buffering=0) as opened:
            while b"250/1,000 bytes" not in shown:
                shown += await trio.to_thread.run_sync(opened.read, 4096)
            node.alter(LESSON, state=State.COMPLETE, bytes_have=1000, peer_bytes=1000)
            assert asked.stdout
            assert await asked.stdout.receive_some(1000) == f"{LESSON} is here: 1000 B, 100 % from peers\n".encode()
            assert await asked.wait() == 0
            await asked.stdout.aclose()
        assert "━".encode() in shown


@pytest.mark.parametrize("arguments", [["get", LESSON], ["status", "--watch"]])
async def test_ctrl_c_ends_a_command_without_a_traceback(
    node: CompletingNode, tmp_path: Path, arguments: list[str]
) -> None:
    node.is_slow = True
    async with answering(node, tmp_path) as library:
        heeding = ["env", "--default-signal=INT"]  # also where the tests themselves run with SIGINT ignored
        asked = await trio.lowlevel.open_process(
            [*heeding, *command(*arguments, "--library", library)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        await trio.sleep(1.0)  # to be in the middle of it
        asked.send_signal(signal.SIGINT)
        assert asked.stdout
        said = b"".join([portion async for portion in asked.stdout])
        assert await asked.wait() == (130 if "get" in arguments else 0)
        assert b"Traceback" not in said


async def test_an_origin_says_where_it_serves_and_stops_on_a_signal(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    asked = await trio.lowlevel.open_process(
        command("origin", "serve", tmp_path, "--listen", "127.0.0.1:0", "--counters"), stderr=subprocess.PIPE
    )
    assert asked.stderr
    with trio.fail_after(10):
        said = (await asked.stderr.receive_some(1000)).decode()
        assert said.startswith(f"serving {tmp_path} at http://127.0.0.1:")
        port = int(said.rstrip("/\n").rpartition(":")[2])
        assert await _counters(port) == {"connections": 1, "requests": 0, "bytes_sent": 0}
        asked.send_signal(signal.SIGTERM)
        assert await asked.wait() == 0
        assert await asked.stderr.receive_some(1000) == b""
        await asked.stderr.aclose()


async def _counters(port: int) -> Any:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /-/counters HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = b"".join([portion async for portion in stream])
    return json.loads(received.partition(b"\r\n\r\n")[2])
