"""The files in seeders/: each config starts what it is for, and Debian's servers keep the rules of an origin."""

from __future__ import annotations

import re
import signal
from urllib.parse import quote

import httpx
import pytest

from .support import PROJECT, SEEDERS, Site, edgeshare, free_port, until

pytestmark = pytest.mark.whole

LESSON = PROJECT / "manifests" / "lessons" / "maths-6e-fractions"
FOR_EVER = "public, max-age=31536000, immutable"


def test_a_node_starts_from_the_config_of_each_kind(site: Site) -> None:
    origin = site.origin(LESSON)
    nodes = {kind: site.node(kind, kind, origin.url) for kind in ("origin", "school", "home")}
    until("all have the lesson", lambda: all(node.has(LESSON.name) for node in nodes.values()), 30.0)
    for kind, node in nodes.items():
        assert node.api("status")["profile"] == kind
        assert f"{kind} node" in edgeshare("status", "--config", node.config)


@pytest.mark.parametrize("kind", ["home", "school", "origin"])
def test_a_node_is_set_up_with_at_most_five_commands(kind: str) -> None:
    text = (SEEDERS / kind / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = [line for line in blocks[0].splitlines() if line and not line.startswith("#")]
    assert 1 <= len(commands) <= 5
    for path in re.findall(r"(?<![\w/])(?:seeders|systemd)/[\w./-]+", text):
        assert (PROJECT / path).exists(), path


def test_nginx_shows_the_folders_of_a_repository_and_nothing_else(site: Site) -> None:
    shown = ["metadata/timestamp.json", "targets/catalogue/cned/6e", "torrents/a.torrent", "tracker/whitelist.txt"]
    shown += ["content/a/page.html", "content/a/.caché", "content/a/part de gâteau #1 100 %.png"]
    hidden = ["metadata/.root.json.1.part", "targets/.x/y", "torrents/.a.torrent", ".edgeshare/lock", "other/x", "x"]
    web = _nginx(site, *shown, *hidden)
    (site.repository / "content" / "a" / "link").symlink_to("/etc/passwd")
    (site.repository / "content" / "b").symlink_to("/etc")
    for path in shown:
        assert httpx.get(web + quote(path)).content == path.encode(), path
    for path in [*hidden, "", "metadata", "metadata/", "content/a/", "content/a/none", "content/../other/x"]:
        assert httpx.get(web + path).status_code == 404, path
    for path in ("content/a/link", "content/b/passwd"):
        assert not httpx.get(web + path).is_success, path
    assert httpx.post(web + shown[0]).status_code == 405


def test_nginx_says_what_may_be_kept_and_for_how_long(site: Site) -> None:
    lasting = ["content/a/page.html", "torrents/a.torrent", "targets/catalogue/cned/6e", "metadata/2.root.json"]
    web = _nginx(site, *lasting, "metadata/timestamp.json", "tracker/whitelist.txt")
    for path in lasting:
        assert httpx.get(web + path).headers["cache-control"] == FOR_EVER, path
    for path in ("metadata/timestamp.json", "tracker/whitelist.txt"):
        assert "no-cache" in httpx.get(web + path).headers["cache-control"], path
    for path in ("metadata/3.root.json", "content/a/none", "none"):
        assert httpx.get(web + path).headers["cache-control"] == "no-store", path


def test_nginx_gives_byte_ranges_of_content_as_it_is(site: Site) -> None:
    web = _nginx(site, "content/a/page.html")
    url = f"{web}content/a/page.html"
    part = httpx.get(url, headers={"Range": "bytes=3-6", "Accept-Encoding": "gzip"})
    assert (part.status_code, part.content) == (206, b"tent")
    assert part.headers["content-range"] == "bytes 3-6/19"
    assert "content-encoding" not in part.headers
    assert part.headers["x-content-type-options"] == "nosniff"
    assert part.headers["server"] == "nginx"
    assert httpx.get(url, headers={"If-None-Match": part.headers["etag"]}).status_code == 304
    assert httpx.get(url, headers={"Range": "bytes=19-"}).status_code == 416


def test_nginx_logs_the_readers_network_and_no_address(site: Site) -> None:
    web = _nginx(site, "content/a/page.html")
    httpx.get(f"{web}content/a/page.html")
    httpx.get(f"{web}content/none")
    until("nginx logs", lambda: len(site.nginx_log()) == 2, 5.0)
    assert all(line.startswith("127.0.0.0 ") for line in site.nginx_log())
    logs = [path.read_text(encoding="utf-8") for path in (site.folder / "nginx").glob("*.log")]
    assert "127.0.0.1" not in "".join(logs)


def test_the_tracker_serves_what_was_released_and_nothing_else(site: Site) -> None:
    origin = site.origin(LESSON)
    first = _whitelist(site)
    assert all(_announced(origin.tracker_port, info_hash) for info_hash in first)
    assert not _announced(origin.tracker_port, bytes(20))

    # A release changes the list, and the tracker reads it again when it is told to.
    site.publish(PROJECT / "manifests/lessons/histoire-6e-premieres-ecritures", origin=origin.url, tracker="udp://x:1")
    new = _whitelist(site) - first
    assert new
    assert not any(_announced(origin.tracker_port, info_hash) for info_hash in new)
    origin.opentracker.process.send_signal(signal.SIGHUP)
    until("new lessons are served", lambda: all(_announced(origin.tracker_port, each) for each in new), 5.0)


def _nginx(site: Site, *paths: str) -> str:
    """nginx on a repository of files that hold their own path; its URL."""
    for path in paths:
        file = site.repository / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path, encoding="utf-8")
    port = free_port()
    site.nginx(port)
    return f"http://127.0.0.1:{port}/"


def _whitelist(site: Site) -> set[bytes]:
    text = (site.repository / "tracker" / "whitelist.txt").read_text(encoding="ascii")
    return {bytes.fromhex(line) for line in text.splitlines()}


def _announced(port: int, info_hash: bytes) -> bool:
    """Whether the tracker takes an announce of it (BEP 3)."""
    query = f"info_hash={quote(info_hash)}&peer_id={'x' * 20}&port=1&uploaded=0&downloaded=0&left=1&compact=1"
    answer = httpx.get(f"http://127.0.0.1:{port}/announce?{query}").content
    assert b"failure reason" in answer or b"8:interval" in answer
    return b"8:interval" in answer
