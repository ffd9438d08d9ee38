from __future__ import annotations

import re
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import libtorrent as lt
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from edgeshare import vocabulary
from edgeshare.cli.drill import LEAD, lines, seconds_of, size_of, start_of
from edgeshare.config import CatalogueName, Config
from edgeshare.drill import nodes, stage
from edgeshare.drill.accesslog import Tail, about, parse
from edgeshare.drill.rehearsal import rehearse
from edgeshare.drill.report import (
    Answer,
    NodePart,
    OriginPart,
    Outcome,
    Report,
    Seen,
    Served,
    SwarmPart,
    from_counters,
    from_log,
    from_tracker,
)
from edgeshare.drill.scrape import Counts, HttpTracker, ScrapeError, UdpTracker
from edgeshare.drill.stage import Plan
from edgeshare.errors import ConfigError, ManifestError, RepositoryError, TrustError
from edgeshare.keeper import Keeper
from edgeshare.manifest import LessonId, LessonManifest
from edgeshare.origin.serve import serve_repository
from edgeshare.publish.repository import open_repository
from edgeshare.publish.torrent import scraped
from edgeshare.trust import Trust
from edgeshare.view import State
from tests.support.node import Origin, parts
from tests.support.publisher import CATALOGUE, Publisher, noise, now

NGINX = Path(__file__).parents[2] / "seeders" / "origin" / "nginx.conf"
START = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)
HASHES = (b"1" * 20, b"2" * 20)


def seen(after_s: float, complete: int, incomplete: int, ever: int | None = None) -> Seen:
    return Seen(after_s=after_s, complete=complete, incomplete=incomplete, ever=complete if ever is None else ever)


def answer(
    after_s: float, sent: int, *, seconds: float = 0.0, status: int = 206, path: str = "/content/ab/x"
) -> Answer:
    return Answer(ended=START + timedelta(seconds=after_s), seconds=seconds, path=path, status=status, bytes_sent=sent)


# The crowd


def test_the_times_of_the_crowd_are_those_of_the_samples_that_show_them_first() -> None:
    samples = [seen(0, 0, 20), *(seen(n, n, 20 - n) for n in range(1, 20)), seen(90, 20, 0)]
    crowd = from_tracker(samples)
    assert crowd == SwarmPart(nodes=20, complete=20, early=0, p50_s=10.0, p95_s=19.0, last_s=90.0)


def test_a_node_that_leaves_after_it_was_complete_still_counts() -> None:
    crowd = from_tracker([seen(1, 0, 4), seen(2, 3, 1, ever=3), seen(3, 0, 1, ever=4)])
    assert crowd
    assert (crowd.nodes, crowd.complete, crowd.unfinished, crowd.last_s) == (4, 4, 0, 3.0)


def test_nodes_that_began_and_never_finished_are_counted() -> None:
    crowd = from_tracker([seen(1, 0, 5), seen(2, 3, 2), seen(9, 3, 0)])
    assert crowd
    assert (crowd.nodes, crowd.complete, crowd.unfinished) == (5, 3, 2)


def test_nodes_that_began_before_the_start_are_told_apart() -> None:
    crowd = from_tracker([seen(-30, 0, 0), seen(-5, 1, 1), seen(3, 4, 0)])
    assert crowd
    assert (crowd.early, crowd.complete, crowd.p50_s) == (2, 4, 3.0)


def test_a_crowd_of_which_nobody_finished_has_no_times() -> None:
    crowd = from_tracker([seen(1, 0, 3)])
    assert crowd
    assert (crowd.nodes, crowd.complete, crowd.p50_s, crowd.last_s) == (3, 0, None, None)


def test_without_a_sample_after_the_start_nothing_is_known_of_the_crowd() -> None:
    assert from_tracker([]) is None
    assert from_tracker([seen(-1, 0, 0)]) is None


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=30))
def test_whatever_a_tracker_says_the_figures_keep_their_order(counts: list[tuple[int, int, int]]) -> None:
    crowd = from_tracker([seen(at, *each) for at, each in enumerate(counts)])
    assert crowd
    assert 0 <= crowd.complete <= crowd.nodes
    if crowd.complete:
        assert crowd.p50_s is not None
        assert crowd.p95_s is not None
        assert crowd.last_s is not None
        assert crowd.p50_s <= crowd.p95_s <= crowd.last_s


# The origin


def test_copies_are_the_contents_bytes_over_the_lessons_size() -> None:
    told = [
        answer(1, 600),
        answer(2, 500, status=200),
        answer(2, 40, path="/torrents/ab.torrent", status=200),
        answer(3, 10, status=429),
        answer(3, 10, status=503),
    ]
    part = from_log(told, 1000)
    assert (part.copies, part.bytes_sent, part.requests, part.refused) == (1.1, 1160, 5, 2)


def test_the_peak_is_the_busiest_second_with_long_answers_spread() -> None:
    told = [answer(1, 1000), answer(9, 8000, seconds=7.9), answer(9, 500)]
    assert from_log(told, 1000).peak_bytes_per_s == 1500.0
    assert from_log([answer(1, 1000), answer(1.5, 1000)], 1000).peak_bytes_per_s == 2000.0


def test_a_silent_log_is_no_copies() -> None:
    assert from_log([], 1000) == OriginPart(copies=0, bytes_sent=0, peak_bytes_per_s=0, requests=0, refused=None)


def test_counters_tell_what_was_given_since_the_start() -> None:
    samples = [Served(after_s=t / 2, requests=10 + t, bytes_sent=7000 + 500 * t) for t in range(7)]
    part = from_counters(samples, 1000)
    assert part
    assert (part.copies, part.requests, part.refused, part.peak_bytes_per_s) == (3.0, 6, None, 1000.0)


def test_two_samples_that_fall_close_together_are_no_rate() -> None:
    samples = [Served(after_s=0.0, requests=0, bytes_sent=0), Served(after_s=0.001, requests=1, bytes_sent=900)]
    part = from_counters(samples, 1000)
    assert part
    assert part.peak_bytes_per_s == 900.0


def test_counters_of_an_origin_that_was_started_anew_tell_nothing() -> None:
    samples = [Served(after_s=0, requests=9, bytes_sent=900), Served(after_s=1, requests=1, bytes_sent=100)]
    assert from_counters(samples, 1000) is None
    assert from_counters(samples[:1], 1000) is None


# The log


def logged(**changed: str) -> str:
    """A line as nginx writes it with the `log_format` of seeders/origin/nginx.conf."""
    text = NGINX.read_text(encoding="utf-8")
    form = "".join(re.findall(r"'([^']*)'", text[text.index("log_format network") :].split(";")[0]))
    values = {
        "network": "192.0.2.0",
        "time_iso8601": "2026-11-23T20:30:01+00:00",
        "request_method": "GET",
        "uri": "/content/ab/x",
        "status": "206",
        "body_bytes_sent": "262144",
        "http_range": "bytes=0-262143",
        "request_time": "0.250",
    } | changed
    return re.sub(r"\$(\w+)", lambda found: values.get(found[1], "-"), form)


def test_a_line_of_the_origins_own_nginx_is_read() -> None:
    assert parse(logged()) == answer(1, 262144, seconds=0.25)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        '192.0.2.7 - - [23/Nov/2026:20:30:01 +0000] "GET /content/ab/x HTTP/1.1" 206 5 "-" "curl"',
        logged(time_iso8601="2026-11-23T20:30:01"),
        logged(time_iso8601="2026-13-23T20:30:01+00:00"),
        logged(time_iso8601="0001-01-01T00:00:00+00:00"),
        logged(status="999"),
        logged(body_bytes_sent="-5"),
        logged(body_bytes_sent="9" * 30),
        logged(request_time="1e9"),
        logged(uri="content"),
        logged(uri="/" + "x" * 20_000),
        logged()[:-12],
    ],
)
def test_a_line_of_another_form_is_none(line: str) -> None:
    assert parse(line) is None


@given(st.text())
def test_any_text_is_a_line_or_none(text: str) -> None:
    found = parse(text)
    assert found is None or found.bytes_sent >= 0


def test_lines_about_the_lesson_that_cannot_be_read_are_counted_and_others_passed_by() -> None:
    written = [logged() + "\n", "garbage about /content/ab\n", "garbage\n", logged(uri="/content/cd/x") + "\n"]
    answers, unread = about(iter(written), "/ab/")
    assert (len(answers), unread) == (1, 0)
    assert about(iter(written), "/ab")[1] == 1


def test_a_log_is_read_from_the_drills_beginning_on(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("before\n")
    with Tail(log) as tail:
        with log.open("a") as more:
            more.write("one\ntwo\n")
        assert list(tail.lines()) == ["one\n", "two\n"]


def test_a_log_that_is_rotated_in_between_loses_no_line(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("before\n")
    with Tail(log) as tail:
        with log.open("a") as more:
            more.write("one\n")
        log.rename(tmp_path / "access.log.1")
        log.write_text("two\n")
        assert list(tail.lines()) == ["one\n", "two\n"]


def test_a_log_that_is_cut_in_between_is_read_anew(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("a long line before\n")
    with Tail(log) as tail:
        log.write_text("one\n")
        assert list(tail.lines()) == ["one\n"]


def test_a_log_that_cannot_be_read_is_said_before_anything_is_published(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    plan = planned(publisher, logs=(tmp_path / "none.log",))
    with pytest.raises(ConfigError, match=r"none\.log"):
        trio.run(rehearse, plan, lambda line: None, trio.Event())
    assert drills(publisher) == []


# The tracker

Reply = Callable[[bytes], list[bytes]]


@asynccontextmanager
async def udp(reply: Reply) -> AsyncIterator[tuple[UdpTracker, list[bytes]]]:
    """A tracker that answers each datagram by what `reply` says; and what it was asked."""
    asked: list[bytes] = []
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as line:
        await line.bind(("127.0.0.1", 0))

        async def serve() -> None:
            while True:
                question, address = await line.recvfrom(2048)
                asked.append(question)
                for each in reply(question):
                    await line.sendto(each, address)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            url = f"udp://127.0.0.1:{line.getsockname()[1]}/announce"
            yield UdpTracker(url, Random(1), patience_s=0.5), asked
            nursery.cancel_scope.cancel()


def right(question: bytes) -> list[bytes]:
    """What BEP 15 says: complete 3, ever 4, incomplete 2 of the first hash; 1, 9, 0 of the second."""
    action, mark = question[8:12], question[12:16]
    if action == b"\0\0\0\0":
        assert question[:8] == struct.pack(">Q", 0x41727101980)
        return [action + mark + b"CONNECTD"]
    assert question[:8] == b"CONNECTD"
    assert question[16:] == b"".join(HASHES)
    return [action + mark + struct.pack(">IIIIII", 3, 4, 2, 1, 9, 0)]


async def test_a_tracker_is_asked_over_udp_and_connected_to_once() -> None:
    async with udp(right) as (tracker, asked):
        assert await tracker.counts(HASHES) == Counts(3, 2, 9)
        assert await tracker.counts(HASHES) == Counts(3, 2, 9)
        assert len(asked) == 3


def bad(question: bytes) -> list[bytes]:
    (good,) = right(question)
    other_mark = good[:4] + bytes(byte ^ 1 for byte in good[4:8]) + good[8:]
    other_action = b"\0\0\0\1" + good[4:]
    return [b"", b"\0" * 7, good[:-1], good[:8], other_mark, other_action, b"\xff" * 600]


async def test_a_datagram_that_is_no_answer_is_passed_by() -> None:
    async with udp(lambda question: bad(question) + right(question)) as (tracker, _):
        assert await tracker.counts(HASHES) == Counts(3, 2, 9)


async def test_a_tracker_that_only_sends_garbage_does_not_answer() -> None:
    async with udp(bad) as (tracker, asked):
        with pytest.raises(ScrapeError, match="does not answer"):
            await tracker.counts(HASHES)
        assert len(asked) == 2, "a datagram may be lost, so it was asked twice"


async def test_a_lost_datagram_is_asked_for_again() -> None:
    lost: list[bytes] = []

    def reply(question: bytes) -> list[bytes]:
        lost.append(question)
        return [] if len(lost) == 2 else right(question)

    async with udp(reply) as (tracker, _):
        assert await tracker.counts(HASHES) == Counts(3, 2, 9)


async def test_a_tracker_that_refuses_is_quoted_without_its_control_characters() -> None:
    async with udp(lambda question: [b"\0\0\0\3" + question[12:16] + b"\x1b[2J not here"]) as (tracker, _):
        with pytest.raises(ScrapeError, match="refuses") as caught:
            await tracker.counts(HASHES)
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "nobody.invalid"])
async def test_a_tracker_that_is_not_there_is_one_clear_error(host: str) -> None:
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as line:
        await line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    with pytest.raises(ScrapeError, match="the tracker udp://"):
        await UdpTracker(f"udp://{host}:{port}", Random(1), patience_s=0.2).counts(HASHES)


def http(status: int, body: bytes, asked: list[str]) -> httpx.AsyncClient:
    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(status, stream=httpx.ByteStream(body))

    return httpx.AsyncClient(transport=httpx.MockTransport(reply))


def swarms(**counts: int) -> bytes:
    return bencoded({b"files": {HASHES[1]: {key.encode(): value for key, value in counts.items()}}})


def bencoded(value: Any) -> bytes:
    return bytes(lt.bencode(value))


async def test_a_tracker_is_asked_over_http() -> None:
    asked: list[str] = []
    async with http(200, swarms(complete=3, incomplete=2, downloaded=5), asked) as client:
        assert await HttpTracker("http://t.example/a/announce?k=1", client).counts(HASHES) == Counts(3, 2, 5)
    (url,) = asked
    assert url.startswith("http://t.example/a/scrape?k=1&info_hash=")


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, b"", "404"),
        (200, b"<html>", "not bencoded"),
        (200, b"", "not bencoded"),
        (200, b"i1e", "no swarms"),
        (200, bencoded({b"failure reason": b"not \x1bhere"}), "not"),
        (200, b"d" * 70_000, "more than"),
    ],
)
async def test_an_http_tracker_that_does_not_answer_as_it_should_is_one_clear_error(
    status: int, body: bytes, says: str
) -> None:
    async with http(status, body, []) as client:
        with pytest.raises(ScrapeError, match=says) as caught:
            await HttpTracker("http://t.example/announce", client).counts(HASHES)
    assert "\x1b" not in str(caught.value)


async def test_a_tracker_whose_address_has_no_scrape_is_said() -> None:
    async with http(200, b"", []) as client:
        with pytest.raises(ScrapeError, match="no scrape address"):
            await HttpTracker("http://t.example/x", client).counts(HASHES)


@given(
    st.binary()
    | st.recursive(st.integers(-(2**63), 2**63 - 1) | st.binary(), st.lists).map(lambda value: bencoded([value]))
)
def test_any_bytes_are_a_scrape_or_refused(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        scraped(raw)


def test_counts_below_zero_are_left_out_of_a_scrape() -> None:
    assert scraped(swarms(complete=-1, incomplete=2)) == {}
    assert scraped(swarms(complete=1, incomplete=2, downloaded=-9)) == {HASHES[1]: (1, 2, 0)}


# Named nodes

COMPLETE = b'{"state": "complete", "size": 10, "bytes_have": 10, "origin_bytes": 4, "peer_bytes": 6, "reason": null}'
STATUS = b'{"trouble": "no origin answers", "catalogues": [{"name": "cned/6e", "trouble": "edition 4 is on its way"}]}'


def test_a_node_that_is_complete_says_where_its_bytes_came_from() -> None:
    assert nodes.standing("u", COMPLETE) == NodePart(url="u", outcome=Outcome.COMPLETE, origin_bytes=4, peer_bytes=6)


def test_a_node_that_failed_says_why_in_one_line() -> None:
    body = b'{"state": "failed", "size": 10, "bytes_have": 0, "reason": "no room\\n\\u001b[2J"}'
    found = nodes.standing("u", body)
    assert (found.outcome, found.why) == (Outcome.FAILED, "no room??[2J")


def test_a_node_that_is_still_at_it_says_how_far_it_came_and_what_it_waits_for() -> None:
    body = b'{"state": "fetching", "size": 10, "bytes_have": 4, "reason": "no peer has it"}'
    found = nodes.standing("u", body)
    assert (found.outcome, found.why) == (Outcome.UNFINISHED, "40 % here, no peer has it")


def test_a_node_that_only_shows_the_catalogue_failed() -> None:
    found = nodes.standing("u", b'{"state": "listed", "size": 10, "bytes_have": 0}')
    assert (found.outcome, found.why) == (Outcome.FAILED, "it does not follow the catalogue")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"state": 3}', b"[" * 100_000, b"\xff"])
def test_an_answer_that_is_not_a_nodes_is_said(body: bytes) -> None:
    assert nodes.standing("u", body).outcome is Outcome.UNREACHABLE
    assert nodes.unheard("u", body).outcome is Outcome.UNHEARD


async def test_a_node_that_has_not_heard_of_the_lesson_says_what_holds_it_up() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        known = request.url.path.endswith("status")
        return httpx.Response(200 if known else 404, stream=httpx.ByteStream(STATUS if known else b""))

    async with httpx.AsyncClient(transport=httpx.MockTransport(reply)) as client:
        found = await nodes.look(client, "http://school.example:8470/", LessonId("drill-1"))
    assert found.outcome is Outcome.UNHEARD
    assert found.why
    assert "no origin answers; edition 4 is on its way" in found.why


async def test_a_node_that_cannot_be_reached_is_named() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody listens")

    async with httpx.AsyncClient(transport=httpx.MockTransport(reply)) as client:
        found = await nodes.look(client, "http://school.example:8470", LessonId("drill-1"))
    assert (found.outcome, found.why) == (Outcome.UNREACHABLE, "nobody listens")


# The lesson in the repository


def published(folder: Path) -> Publisher:
    publisher = Publisher(folder / "cned")
    publisher.begin()
    publisher.add("fractions", {"index.html": noise(100)})
    publisher.release()
    return publisher


def planned(publisher: Publisher, **changes: Any) -> Plan:
    usual: dict[str, Any] = {
        "repository": publisher.repository,
        "keys": publisher.folder / "keys",
        "size": 40_000,
        "start": now() + timedelta(minutes=5),
        "lasts_s": 60.0,
    }
    return Plan(**(usual | changes))


def drills(publisher: Publisher) -> list[LessonManifest]:
    """The drills' lessons that are listed."""
    with open_repository(publisher.repository, publisher.keys) as repository:
        return [each for each in repository.lessons if each.is_rehearsal]


def test_a_drills_lesson_has_its_appointment_and_its_size_and_is_for_no_reader(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    plan = planned(publisher, audience=800_000)
    lesson = stage.publish(plan).lesson
    assert drills(publisher) == [lesson]
    assert (lesson.fetch_from, lesson.size, lesson.audience) == (plan.start, plan.size, 800_000)
    assert lesson.catalogues == (CATALOGUE,)
    assert lesson.is_rehearsal


def test_a_drill_publishes_nothing_else_that_is_staged(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    publisher.add("half-done", {"index.html": noise(100)})
    publisher.withdraw("fractions", "a second thought")
    plan = planned(publisher)
    lesson = stage.publish(plan).lesson
    stage.withdraw(plan, lesson.id)
    with open_repository(publisher.repository, publisher.keys) as repository:
        assert [each.id for each in repository.lessons] == ["fractions"]
    released = publisher.release()
    assert [each.id for each in released.lessons] == ["half-done"]
    assert list(released.withdrawn) == ["fractions"]


def test_a_withdrawn_drill_leaves_no_content_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    plan = planned(publisher)
    first = stage.publish(plan).lesson
    stage.withdraw(plan, first.id)
    second = stage.publish(plan).lesson
    assert (first.id[-2:], second.id[-2:]) == ("-1", "-2")
    assert not (publisher.repository / "content" / first.info_hash.hex()).exists()
    assert drills(publisher) == [second]


def test_withdrawing_a_drill_twice_is_withdrawing_it_once(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    plan = planned(publisher)
    lesson = stage.publish(plan).lesson
    stage.withdraw(plan, lesson.id)
    before = (publisher.repository / "metadata" / "timestamp.json").read_bytes()
    stage.withdraw(plan, lesson.id)
    assert (publisher.repository / "metadata" / "timestamp.json").read_bytes() == before


def test_a_drill_that_was_killed_is_cleared_away_by_the_next_one(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    killed = stage.publish(planned(publisher, start=now() - timedelta(hours=3))).lesson
    under_way = stage.publish(planned(publisher)).lesson
    after = stage.publish(planned(publisher))
    assert after.cleared == ()
    assert {each.id for each in drills(publisher)} == {under_way.id, after.lesson.id}
    assert killed.id not in {under_way.id, after.lesson.id}


def test_a_drill_that_cannot_be_released_stays_neither_published_nor_staged(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    (publisher.folder / "keys" / "snapshot.pem").unlink()
    with pytest.raises(TrustError):
        stage.publish(planned(publisher))
    assert drills(publisher) == []
    assert list((publisher.repository / ".edgeshare" / "staged").iterdir()) == []


@pytest.mark.parametrize(
    ("catalogue", "says"), [("cned/6r", "did you mean cned/6e"), ("x/y", "published are"), (None, "name it")]
)
def test_a_drill_is_for_the_followers_of_a_catalogue_that_is_published(
    tmp_path: Path, catalogue: str | None, says: str
) -> None:
    publisher = published(tmp_path)
    publisher.add("nombres", {"index.html": noise(100)}, levels="5e")
    publisher.release()
    with pytest.raises(RepositoryError, match=says):
        stage.publish(planned(publisher, catalogue=catalogue))
    assert drills(publisher) == []


async def test_what_is_left_to_do_is_said_when_the_lesson_cannot_be_withdrawn(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    plan = planned(publisher)
    interrupted = trio.Event()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "to the start" in line:
            (plan.keys / "snapshot.pem").unlink(missing_ok=True)
            interrupted.set()

    with trio.fail_after(60):
        ended = await rehearse(plan, say, interrupted)
    (lesson,) = drills(publisher)
    assert ended.report is None
    assert ended.left_to_do
    assert f"edgeshare publish withdraw {plan.repository} {lesson.id}" in ended.left_to_do


async def test_a_drill_that_is_interrupted_after_its_start_still_reports(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    log = tmp_path / "access.log"
    log.touch()
    interrupted = trio.Event()

    def say(line: str) -> None:
        if line.startswith("+"):
            interrupted.set()

    with trio.fail_after(60):
        ended = await rehearse(planned(publisher, start=now(), logs=(log,)), say, interrupted)
    assert ended.left_to_do is None
    assert ended.report
    assert ended.report.is_whole is False
    assert ended.report.origin == OriginPart(copies=0, bytes_sent=0, peak_bytes_per_s=0, requests=0, refused=None)
    assert any("names no tracker" in trouble for trouble in ended.report.troubles)
    assert drills(publisher) == []


@pytest.mark.whole
async def test_the_counters_of_an_embedded_origin_tell_how_many_copies_left_it(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    interrupted, is_on = trio.Event(), trio.Event()

    def say(line: str) -> None:
        if line.startswith("+"):
            is_on.set()

    async def fetch(origin: str) -> None:
        await is_on.wait()
        await trio.sleep(1.0)  # the counters are read twice a second
        (lesson,) = await trio.to_thread.run_sync(drills, publisher)
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"{origin}content/{lesson.info_hash.hex()}/noise.bin")
            assert response.is_success
        await trio.sleep(1.5)
        interrupted.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_repository, publisher.repository, "127.0.0.1", 0, shows_counters=True)
            _, port = await nursery.start(serve)
            origin = f"http://127.0.0.1:{port}/"
            nursery.start_soon(fetch, origin)
            plan = planned(publisher, start=now(), counters=f"{origin}-/counters")
            ended = await rehearse(plan, say, interrupted)
            nursery.cancel_scope.cancel()
    assert ended.report
    assert ended.report.origin
    assert ended.report.origin.requests == 1
    assert 0.99 < ended.report.origin.copies <= 1
    assert 0 < ended.report.origin.peak_bytes_per_s <= plan.size


async def test_counters_that_nobody_shows_are_a_part_that_is_missing_with_its_reason(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    interrupted, is_on = trio.Event(), trio.Event()

    async def end() -> None:
        await is_on.wait()
        await trio.sleep(1.0)
        interrupted.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            _, port = await nursery.start(partial(serve_repository, publisher.repository, "127.0.0.1", 0))
            nursery.start_soon(end)
            url = f"http://127.0.0.1:{port}/-/counters"
            plan = planned(publisher, start=now(), counters=url)
            ended = await rehearse(plan, lambda line: is_on.set() if line.startswith("+") else None, interrupted)
            nursery.cancel_scope.cancel()
    assert ended.report
    assert ended.report.origin is None
    assert any(trouble.startswith(f"no counters at {url}") for trouble in ended.report.troubles)


@pytest.mark.parametrize(("command", "says"), [("false", "ended with 1"), ("/nowhere/at-all", "cannot be run")])
async def test_a_command_after_the_release_that_fails_is_a_warning(tmp_path: Path, command: str, says: str) -> None:
    publisher = published(tmp_path)
    interrupted = trio.Event()
    interrupted.set()
    said: list[str] = []
    with trio.fail_after(60):
        ended = await rehearse(planned(publisher, after_release=command), said.append, interrupted)
    assert ended.left_to_do is None
    assert sum(says in line for line in said) == 2, "after the release, and after the withdrawal"


# The appointment on a node


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


@asynccontextmanager
async def keeping(library: Path, publisher: Publisher, clock: Clock) -> AsyncIterator[Keeper]:
    origin = Origin()
    origin.repository = publisher.repository
    config = Config(
        origins=("http://origin.example/",),
        root=publisher.root,
        library=library,
        follow=(CatalogueName(CATALOGUE),),
    )
    async with parts(library, origin) as mine, trio.open_nursery() as nursery:
        keeper = Keeper(mine, config, clock)
        await nursery.start(keeper.run)
        refreshed = await Trust(library / "trust", publisher.root.read_bytes(), mine.origins).refresh((CATALOGUE,))
        for vouched in refreshed.catalogues.values():
            await keeper.admit(vouched)
        yield keeper
        nursery.cancel_scope.cancel()


async def until(keeper: Keeper, lesson: LessonId, state: State) -> None:
    while not (view := keeper.display.lesson(lesson)) or view.state is not state:
        with trio.move_on_after(0.2):
            await keeper.change()


async def test_a_node_begins_at_the_appointment_and_not_before(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    plan = planned(publisher)
    lesson = stage.publish(plan).lesson.id
    clock = Clock()
    clock.offset = plan.start - now() - timedelta(seconds=3)
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", publisher, clock) as keeper:
            view = keeper.display.lesson(lesson)
            assert clock() < plan.start, "this machine is too slow for this test"
            assert view
            assert (view.state, view.bytes_have) == (State.WAITING, 0)
            assert view.reason == f"it is fetched from {plan.start.isoformat()} on"
            while keeper.display.lesson(lesson) == view:
                await trio.sleep(0.02)
            assert timedelta() <= clock() - plan.start < timedelta(seconds=2)
            await until(keeper, lesson, State.COMPLETE)


async def test_a_node_that_was_restarted_in_between_keeps_the_appointment(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    lesson = stage.publish(planned(publisher)).lesson.id
    clock = Clock()
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", publisher, clock) as keeper:
            view = keeper.display.lesson(lesson)
            assert view
            assert view.state is State.WAITING
        clock.offset = timedelta(minutes=5) - timedelta(seconds=2)
        async with keeping(tmp_path / "node", publisher, clock) as keeper:
            await until(keeper, lesson, State.COMPLETE)


async def test_an_appointment_that_is_over_is_now(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    lesson = stage.publish(planned(publisher, start=now() - timedelta(seconds=30))).lesson.id
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", publisher, Clock()) as keeper:
            await until(keeper, lesson, State.COMPLETE)


async def test_who_asks_for_a_lesson_by_name_does_not_wait_for_its_appointment(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    lesson = stage.publish(planned(publisher)).lesson.id
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", publisher, Clock()) as keeper:
            await keeper.want(lesson)
            await until(keeper, lesson, State.COMPLETE)


async def test_a_rehearsal_is_in_no_list_and_a_lesson_before_its_day_is_not_told_of(tmp_path: Path) -> None:
    publisher = published(tmp_path)
    rehearsal = stage.publish(planned(publisher)).lesson.id
    folder = publisher.write("exam", {"index.html": noise(100)})
    day = (now() + timedelta(days=1)).isoformat()
    with (folder / "lesson.toml").open("a", encoding="utf-8") as described:
        described.write(f"available_from = {day}\nexpires = {day}\n")
    with open_repository(publisher.repository, publisher.keys) as repository:
        repository.add(folder, vocabulary.built_in())
    publisher.release()
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", publisher, Clock()) as keeper:
            assert [view.manifest.id for view in keeper.display.lessons()] == ["fractions"]
            assert keeper.display.lesson(rehearsal)
            assert keeper.display.lesson(LessonId("exam")) is None


# The command line

EVENING = datetime.fromisoformat("2026-11-23T20:10:40.5+01:00")


@pytest.fixture
def paris(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine in France."""
    import time

    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Paris")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (None, "2026-11-23T20:36:00+01:00"),
        ("now", "2026-11-23T20:10:40+01:00"),
        ("20:30", "2026-11-23T20:30:00+01:00"),
        ("7:50", "2026-11-24T07:50:00+01:00"),
        ("2026-11-24T06:50:00+00:00", "2026-11-24T06:50:00+00:00"),
    ],
)
def test_a_start_is_a_moment_of_the_publishers_clock(paris: None, text: str | None, start: str) -> None:
    found = start_of(text, EVENING)
    assert found.isoformat() == start
    assert text is not None or found - EVENING >= LEAD


@pytest.mark.parametrize(
    "text",
    ["", "soon", "25:00", "20:30:00", "2026-11-23T20:30:00", "2026-11-23T20:10:40+01:00", "2027-11-23T20:30:00Z"],
)
def test_a_start_that_is_no_moment_to_come_is_refused(paris: None, text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|is over"):
        start_of(text, EVENING)


def test_sizes_and_times_have_units_and_limits() -> None:
    assert (size_of("16 MiB"), size_of("1 KiB"), size_of("16 GiB")) == (2**24, 2**10, 2**34)
    assert (seconds_of("90s"), seconds_of("10 min"), seconds_of("24h")) == (90.0, 600.0, 86400.0)
    for read, text in [
        (size_of, "1023 B"),
        (size_of, "16.001 GiB"),
        (size_of, "5"),
        (seconds_of, "0s"),
        (seconds_of, "25h"),
        (seconds_of, "10"),
    ]:
        with pytest.raises(ValueError, match="is not"):
            partial(read, text)()


def test_the_report_names_what_a_publisher_has_to_know() -> None:
    report = Report(
        lesson=LessonId("drill-20261123-1"),
        size=2**24,
        start=START,
        watched_s=75.2,
        is_whole=True,
        origin=OriginPart(bytes_sent=17_500_000, copies=1.04, peak_bytes_per_s=2.5e6, requests=71, refused=3, unread=1),
        swarm=SwarmPart(nodes=48, complete=46, early=1, p50_s=8.0, p95_s=9.0, last_s=9.5),
        nodes=(
            NodePart(url="http://a:8470", outcome=Outcome.COMPLETE, after_s=8.1, origin_bytes=1, peer_bytes=3),
            NodePart(url="http://b:8470", outcome=Outcome.FAILED, why="no room"),
            NodePart(url="http://c:8470", outcome=Outcome.UNREACHABLE, why="nobody listens"),
        ),
        troubles=("the tracker was away",),
    )
    assert lines(report) == [
        "drill-20261123-1: 16.0 MiB, from 2026-11-23 20:30:00 on, watched for 75 s",
        "origin: 1.04 copies, 16.7 MiB in 71 requests, 3 of them refused; at most 20.0 Mbit/s",
        "  1 line of the log could not be read: is it written as seeders/origin/nginx.conf has it?",
        "crowd: 48 nodes took part, 46 got all of it: half of them after 8.0 s, 95 % after 9.0 s, the last after 9.5 s",
        "  2 nodes began and did not get all of it",
        "  1 node began before the start: an older version, or a fast clock",
        "node http://a:8470: complete after 8.1 s, 75 % of it from peers",
        "node http://b:8470: failed, no room",
        "node http://c:8470: unreachable, nobody listens",
        "note: the tracker was away",
    ]
    told = report.as_json()
    assert told["swarm"]["unfinished"] == 2
    assert [node["outcome"] for node in told["nodes"]] == ["complete", "failed", "unreachable"]
