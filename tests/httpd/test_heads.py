from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.httpd.heads import HEAD_BYTES, Asked, Heads
from edgeshare.httpd.messages import Refused

HERE = ("127.0.0.1", 8470)
FIREFOX = (
    b"GET /film.mp4 HTTP/1.1\r\nHost: a.localhost:8470\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: video/webm,video/ogg,video/*;q=0.9\r\nAccept-Language: fr,en;q=0.5\r\nRange: bytes=0-\r\n"
    b"DNT: 1\r\nSec-GPC: 1\r\nConnection: keep-alive\r\nReferer: http://a.localhost:8470/\r\n"
    b"Sec-Fetch-Dest: video\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Site: same-origin\r\n"
    b"Accept-Encoding: identity\r\nPriority: u=4\r\n\r\n"
)
CHROMIUM = (
    b"GET /a%20b.html?x HTTP/1.1\r\nHost: localhost:8470\r\nConnection: keep-alive\r\nCache-Control: max-age=0\r\n"
    b'sec-ch-ua: "Chromium";v="142", "Not_A Brand";v="99"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: "Linux"\r\n'
    b"Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html,*/*;q=0.8\r\n"
    b"Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n"
    b'Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: fr-FR,fr;q=0.9\r\nIf-None-Match: "a"\r\n\r\n'
)
PLAIN = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def read(raw: bytes, *cuts: int) -> list[Asked | int]:
    """What comes of bytes that arrive in these parts: requests, and the status of a refusal."""
    reader, found = Heads(HERE), list[Asked | int]()
    for start, stop in zip((0, *cuts), (*cuts, len(raw)), strict=True):
        reader.receive(raw[start:stop])
        try:
            while (asked := reader.next()) is not None:
                found.append(asked)
        except Refused as refusal:
            return [*found, refusal.response.status]
    return found


@pytest.mark.parametrize("raw", [FIREFOX, CHROMIUM, PLAIN])
def test_what_a_browser_sends_is_read(raw: bytes) -> None:
    [asked] = read(raw)
    assert isinstance(asked, Asked)
    assert (asked.request.method, asked.stays) == ("GET", True)
    assert asked.request.header("host") == asked.request.host


_NASTY = st.sampled_from(
    [
        *(
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b"\0",
            b":",
            b",",
            b"\x0b",
            b"\x85",
            b"\xa0",
            b"\x7f",
            b"%",
            b"%zz",
            b"%00",
        ),
        *(
            b"\r\nHost: b",
            b"\r\nContent-Length: 1",
            b"\r\nTransfer-Encoding: chunked",
            b"\r\n x",
            b"HTTP/1.0",
            b"close",
        ),
        *(b"\r\nConnection: close", b"\r\nConnection: keep-alive, close", b"\r\nhost:", b"http://b/", b"HEAD", b"POST"),
    ]
)


@st.composite
def _altered(draw: st.DrawFn) -> bytes:
    """A browser's head with up to four changes."""
    raw = bytearray(draw(st.sampled_from([FIREFOX, CHROMIUM, PLAIN])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        stop = min(len(raw), start + draw(st.sampled_from([0, 0, 1, 2, 6])))
        raw[start:stop] = draw(_NASTY | st.binary(min_size=1, max_size=3))
    return bytes(raw)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nAccept\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
    ],
)
def test_a_head_that_two_programs_may_read_in_two_ways_is_refused_however_often_it_comes(head: bytes) -> None:
    assert read(head) == read(head) == [400]


@given(_altered(), st.data())
def test_how_the_bytes_are_cut_changes_nothing(raw: bytes, data: st.DataObject) -> None:
    sent = raw + PLAIN
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    whole, parts = read(sent), read(sent, *cuts)
    assert parts == whole or parts == [*whole[: len(parts) - 1], 400]  # a first byte that begins nothing ends it sooner


@given(st.binary(max_size=200))
def test_any_bytes_are_requests_or_refused(raw: bytes) -> None:
    for found in read(raw):
        assert isinstance(found, Asked) or found in (400, 405, 431)


def test_each_byte_may_come_alone() -> None:
    assert read(FIREFOX + CHROMIUM, *range(1, len(FIREFOX + CHROMIUM))) == read(FIREFOX + CHROMIUM)


def test_a_head_is_bounded_wherever_it_ends() -> None:
    padding = HEAD_BYTES - len(PLAIN) - len(b"Accept: \r\n")
    full = PLAIN[:-2] + b"Accept: " + b"x" * padding + b"\r\n\r\n"
    assert len(full) == HEAD_BYTES
    assert len(read(full + full)) == 2
    assert read(full.replace(b"Accept: ", b"Accept: x")) == [431]
    assert read(full[:-4] + b"x") == []
    assert read(full[:-4] + b"x" * 5) == [431]


@pytest.mark.parametrize("more", [b"X-Unusual: 1\r\n", b""])
@pytest.mark.parametrize(
    ("line", "stays"),
    [
        (b"Connection: close\r\n", False),
        (b"connection: Close\r\n", False),
        (b"Connection: keep-alive\r\n", True),
        (b"Connection: keep-alive, close\r\n", False),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", True),
        (b"", True),
    ],
)
def test_the_client_says_whether_its_connection_stays(line: bytes, stays: bool, more: bytes) -> None:
    [asked] = read(PLAIN[:-2] + line + more + b"\r\n")
    assert isinstance(asked, Asked)
    assert (asked.stays, asked.knows_chunks) == (stays, True)


def test_http_1_0_ends_its_connection_and_knows_no_chunks() -> None:
    [asked] = read(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    assert isinstance(asked, Asked)
    assert (asked.stays, asked.knows_chunks) == (False, False)


def test_headers_that_were_kept_belong_to_the_same_lines_only() -> None:
    first, other = (PLAIN.replace(b"Host: a", b"Host: a\r\nRange: bytes=%d-" % n) for n in (1, 2))
    ranges = []
    for raw in (first, other, first):
        [asked] = read(raw)
        assert isinstance(asked, Asked)
        ranges.append(asked.request.header("range"))
    assert ranges == ["bytes=1-", "bytes=2-", "bytes=1-"]


def test_after_a_refusal_nothing_is_parsed() -> None:
    reader = Heads(HERE)
    reader.receive(b"\x16\x03\x01")
    with pytest.raises(Refused):
        reader.next()
    with contextlib.suppress(Refused):
        assert reader.next() is None
