from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from edgeshare.errors import ConfigError, RepositoryError
from edgeshare.origin.serve import serve_repository

LESSON = "ab" * 32
PAGE = f"/content/{LESSON}/index.html"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for path, text in {
        "metadata/timestamp.json": "{}",
        "metadata/1.root.json": "{1}",
        "metadata/root.json": "{1}",
        "metadata/.timestamp.json.new": "half",
        "targets/catalogue/cned/ab12.6e.manifest": "manifest",
        f"torrents/{LESSON}.torrent": "torrent",
        "tracker/whitelist.txt": LESSON,
        f"content/{LESSON}/index.html": "0123456789",
        f"content/{LESSON}/empty.txt": "",
        f"content/{LESSON}/les été/ça va%20.svg": "<svg/>",
        f"content/{LESSON}/.nojekyll": "dots",
        "staging/next.html": "not released",
        ".lock": "",
        "secret.txt": "secret",
    }.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "outside.txt").write_text("secret")
    return root


@asynccontextmanager
async def serving(repository: Path, *, shows_counters: bool = False) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_repository, repository, "127.0.0.1", 0, shows_counters=shows_counters)
        address, port = await nursery.start(serve)
        assert address == "127.0.0.1"
        with trio.fail_after(20):
            yield port
        nursery.cancel_scope.cancel()


async def ask(port: int, target: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request, whose target goes out as it stands here."""
    lines = (f"{method} {target} HTTP/1.1", "Host: origin.example", "Connection: close", *headers, "", "")
    received = bytearray()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all("\r\n".join(lines).encode())
        async for part in stream:
            received += part
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    return int(status.split()[1]), {name.lower(): value for name, _, value in (f.partition(": ") for f in fields)}, body


@pytest.mark.parametrize(
    ("target", "body", "kind"),
    [
        ("/metadata/timestamp.json", b"{}", "application/json"),
        ("/targets/catalogue/cned/ab12.6e.manifest", b"manifest", "application/octet-stream"),
        (f"/torrents/{LESSON}.torrent", b"torrent", "application/x-bittorrent"),
        ("/tracker/whitelist.txt", LESSON.encode(), "text/plain; charset=utf-8"),
        (PAGE, b"0123456789", "text/html; charset=utf-8"),
        (f"{PAGE}?v=2", b"0123456789", "text/html; charset=utf-8"),
        (f"/content/{LESSON}/les%20%C3%A9t%C3%A9/%C3%A7a%20va%2520.svg", b"<svg/>", "image/svg+xml"),
        (f"/content/{LESSON}/empty.txt", b"", "text/plain; charset=utf-8"),
        (f"/content/{LESSON}/.nojekyll", b"dots", "application/octet-stream"),
    ],
)
async def test_what_a_repository_publishes_is_served_as_it_is(
    repository: Path, target: str, body: bytes, kind: str
) -> None:
    async with serving(repository) as port:
        status, headers, served = await ask(port, target)
        assert (status, served, headers["content-type"]) == (200, body, kind)
        assert headers["x-content-type-options"] == "nosniff"
        status, headers, served = await ask(port, target, method="HEAD")
        assert (status, served, headers["content-length"]) == (200, b"", str(len(body)))


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/secret.txt",
        "/staging/next.html",
        "/.lock",
        "/metadata",
        "/metadata/",
        "/metadata/.timestamp.json.new",
        "/metadata/2.root.json",
        "/metadata//timestamp.json",
        "//metadata/timestamp.json",
        "/metadata/./timestamp.json",
        "/metadata/../secret.txt",
        "/metadata/%2e%2e/secret.txt",
        "/metadata/..%2fsecret.txt",
        "/content/../../outside.txt",
        "/content/..",
        f"/content/./{LESSON}/index.html",
        f"/content/{LESSON}/../{LESSON}/index.html",
        f"/content/{LESSON}//index.html",
        "/METADATA/timestamp.json",
        "/metadata/timestamp.json/",
        "/metadata/timestamp.json/x",
        f"/content/{LESSON}",
        f"/content/{LESSON}/",
        "/content/" + "x" * 300,
        "/content/" + "x/" * 3000 + "x",
        "/-/counters",
    ],
)
async def test_everything_else_is_not_found_and_that_is_not_remembered(repository: Path, target: str) -> None:
    async with serving(repository) as port:
        status, headers, body = await ask(port, target)
    assert (status, body, headers["cache-control"]) == (404, b"", "no-store")


async def test_no_symbolic_link_is_followed_wherever_it_leads(repository: Path) -> None:
    inside = repository / "content" / LESSON
    (inside / "out.txt").symlink_to("../../../outside.txt")
    (inside / "in.html").symlink_to("index.html")
    (inside / "up").symlink_to("../../..")
    async with serving(repository) as port:
        for name in ("out.txt", "in.html", "up/outside.txt"):
            assert (await ask(port, f"/content/{LESSON}/{name}"))[::2] == (404, b"")


async def test_the_repository_itself_may_be_a_symbolic_link(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(repository)
    async with serving(tmp_path / "link") as port:
        assert (await ask(port, PAGE))[0] == 200


async def test_a_fifo_is_not_found_and_nobody_waits_for_its_writer(repository: Path) -> None:
    os.mkfifo(repository / "content" / "fifo")
    async with serving(repository) as port:
        assert (await ask(port, "/content/fifo"))[0] == 404


@pytest.mark.parametrize(
    ("asked", "part", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=8-", b"89", "bytes 8-9/10"),
        ("bytes=-1", b"9", "bytes 9-9/10"),
        ("bytes=5-99", b"56789", "bytes 5-9/10"),
    ],
)
async def test_a_range_is_served_as_asked(repository: Path, asked: str, part: bytes, content_range: str) -> None:
    async with serving(repository) as port:
        status, headers, body = await ask(port, PAGE, f"Range: {asked}")
    assert (status, body, headers["content-range"]) == (206, part, content_range)


async def test_a_range_outside_the_file_is_416_with_its_size(repository: Path) -> None:
    async with serving(repository) as port:
        status, headers, body = await ask(port, PAGE, "Range: bytes=10-")
    assert (status, body, headers["content-range"]) == (416, b"", "bytes */10")


async def test_several_ranges_get_the_whole_file(repository: Path) -> None:
    async with serving(repository) as port:
        assert (await ask(port, PAGE, "Range: bytes=0-1,3-4"))[::2] == (200, b"0123456789")


async def test_who_has_the_file_gets_304_whatever_the_range(repository: Path) -> None:
    async with serving(repository) as port:
        etag = (await ask(port, PAGE))[1]["etag"]
        assert not etag.startswith("W/")
        for condition in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            status, headers, body = await ask(port, PAGE, f"If-None-Match: {condition}", "Range: bytes=0-1")
            assert (status, headers["etag"], body) == (304, etag, b"")
            assert "content-length" not in headers
        assert (await ask(port, PAGE, 'If-None-Match: "x"'))[0] == 200


async def test_a_range_of_another_version_gets_the_whole_file(repository: Path) -> None:
    async with serving(repository) as port:
        etag = (await ask(port, PAGE))[1]["etag"]
        assert (await ask(port, PAGE, "Range: bytes=0-1", f"If-Range: {etag}"))[0] == 206
        for other in ('"x"', f"W/{etag}", "Thu, 08 Apr 2021 08:00:00 GMT"):
            assert (await ask(port, PAGE, "Range: bytes=10-", f"If-Range: {other}"))[::2] == (200, b"0123456789")


async def test_a_replaced_file_has_another_etag(repository: Path, tmp_path: Path) -> None:
    timestamp = repository / "metadata" / "timestamp.json"
    before = timestamp.stat()
    async with serving(repository) as port:
        first = (await ask(port, "/metadata/timestamp.json"))[1]["etag"]
        (tmp_path / "new").write_text("[]")
        os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
        (tmp_path / "new").rename(timestamp)
        assert (await ask(port, "/metadata/timestamp.json"))[1]["etag"] != first


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        (PAGE, "public, max-age=31536000, immutable"),
        (f"/torrents/{LESSON}.torrent", "public, max-age=31536000, immutable"),
        ("/targets/catalogue/cned/ab12.6e.manifest", "public, max-age=31536000, immutable"),
        ("/metadata/1.root.json", "public, max-age=31536000, immutable"),
        ("/metadata/root.json", "no-cache"),
        ("/metadata/timestamp.json", "max-age=60, no-cache"),
        ("/tracker/whitelist.txt", "no-cache"),
    ],
)
async def test_what_never_changes_is_kept_and_the_rest_asked_for_again(
    repository: Path, target: str, rule: str
) -> None:
    async with serving(repository) as port:
        assert (await ask(port, target))[1]["cache-control"] == rule


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_the_server_may_not_read_is_403(repository: Path) -> None:
    (repository / "metadata" / "root.json").chmod(0)
    async with serving(repository) as port:
        assert (await ask(port, "/metadata/root.json"))[0] == 403


async def test_the_counters_say_what_left_the_origin_when_they_are_asked_for(repository: Path) -> None:
    async with serving(repository, shows_counters=True) as port:
        await ask(port, PAGE)
        await ask(port, PAGE, "Range: bytes=0-3")
        await ask(port, PAGE, method="HEAD")
        await ask(port, "/metadata/2.root.json")
        for asked in range(1, 3):
            status, headers, body = await ask(port, "/-/counters")
            assert (status, headers["content-type"]) == (200, "application/json")
            assert json.loads(body) == {"connections": 4 + asked, "requests": 4, "bytes_sent": 14}


async def test_a_folder_that_is_no_repository_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=rf"{re.escape(str(tmp_path))} is no repository.*publish init"):
        await serve_repository(tmp_path, "127.0.0.1", 0)


async def test_an_address_that_is_taken_is_named(repository: Path) -> None:
    async with serving(repository) as port:
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            await serve_repository(repository, "127.0.0.1", port)


async def test_a_town_behind_one_address_is_let_in(repository: Path) -> None:
    async with serving(repository) as port:
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(65)]  # one past a shim's limit
        assert (await ask(port, PAGE))[0] == 200
        for stream in streams:
            await stream.aclose()
