"""A publisher for the lab: one lesson in a repository, served by nginx and opentracker as seeders/origin has them.

What is "yours to set" in them is set; the rest is as published, so that what is measured is what an operator runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import attrs

from bench.lab import HTTP_PORT, TRACKER_PORT, Host, Lab, LabError, Running
from edgeshare import vocabulary
from edgeshare.publish.keys import Keys
from edgeshare.publish.repository import create_repository, open_repository

CATALOGUE = "cned/6e"
LESSON = "spike"
SEEDERS = Path(__file__).parents[1] / "seeders" / "origin"
LIMITED_CONNECTIONS = 10  # that share what an origin's own limit allows
_ANSWER = re.compile(rb'"[A-Z]+ (\S+)" (\d{3}) (\d+) "')  # of the log's lines
_LESSON_TOML = f"""\
id = "{LESSON}"
title = "Spike"
language = "fr"
levels = ["6e"]
subjects = ["mathematiques"]
description = ""
licence = "CC0-1.0"
start = "0.bin"
"""


@attrs.frozen
class Published:
    """The repository, and where it is served in the lab."""

    folder: Path
    info_hash: str  # v2, hex
    size: int  # bytes of the lesson's content
    files: tuple[str, ...]
    url: str
    tracker: str

    @property
    def root(self) -> Path:
        return self.folder / "metadata" / "1.root.json"

    @property
    def content(self) -> Path:
        return self.folder / "content" / self.info_hash

    @property
    def torrent(self) -> Path:
        return self.folder / "torrents" / f"{self.info_hash}.torrent"


def publish(folder: Path, *, files: int, file_size: int, origin: str) -> Published:
    """One lesson of `files` random files of `file_size` bytes, released in `folder`/repository."""
    url, tracker = f"http://{origin}/", f"udp://{origin}:{TRACKER_PORT}"
    lesson = folder / LESSON
    lesson.mkdir()
    (lesson / "lesson.toml").write_text(_LESSON_TOML, encoding="utf-8")
    names = tuple(f"{number}.bin" for number in range(files))
    for name in names:
        (lesson / name).write_bytes(os.urandom(file_size))
    repository, keys, now = folder / "repository", Keys(folder / "keys"), datetime.now(UTC).replace(microsecond=0)
    create_repository(repository, keys, CATALOGUE.partition("/")[0], now)
    with open_repository(repository, keys) as opened:
        manifest = opened.add(lesson, vocabulary.built_in()).manifest
        opened.release(now, origins=(url,), trackers=(tracker,))
    return Published(repository, manifest.info_hash.hex(), manifest.size, names, url, tracker)


@attrs.frozen(kw_only=True)
class Web:
    """What nginx serves, and how: the published config, changed as little as the question asks."""

    name: str = "nginx"
    port: int = HTTP_PORT
    has_guard: bool = True  # limits of connections, requests and rates
    has_content: bool = True
    limit_bytes_per_s: int | None = None  # for all connections together


def start_nginx(lab: Lab, repository: Path, folder: Path, web: Web) -> Running:
    """nginx on the origin's host."""
    state = folder / web.name
    state.mkdir()
    text = (SEEDERS / "nginx.conf").read_text(encoding="utf-8")
    for old, new in {
        "listen 80;": f"listen {web.port};",
        "root /srv/edgeshare;": f"root {repository};",
        "/run/nginx.pid": f"{state}/pid",
        "/var/log/nginx/": f"{state}/",
    }.items():
        if old not in text:
            raise LabError(f"seeders/origin/nginx.conf does not have {old!r}, and the lab replaces it")
        text = text.replace(old, new)
    text = text.replace("access_log off;", "")  # refusals are counted here
    if not web.has_guard:
        text = _without(text, r"limit_(?!except)\w+")
    if web.limit_bytes_per_s is not None:
        each = web.limit_bytes_per_s // LIMITED_CONNECTIONS
        text = _without(text, r"limit_(conn|rate)\w*")
        text = _with(text, "http {", "limit_conn_zone $server_name zone=lab:1m;")
        text = _with(text, "    server {", f"limit_conn lab {LIMITED_CONNECTIONS}; limit_rate {each};")
    if not web.has_content:
        text = text.replace(
            "location ^~ /content/ {", "location ^~ /content/ { return 404; }\n location /nothing/ {", 1
        )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    text = _with(text, "http {", " ".join(f"{kind}_temp_path {state}/{kind};" for kind in kinds))
    (state / "nginx.conf").write_text(text, encoding="utf-8")
    command: list[str | Path] = ["nginx", "-e", f"{state}/start.log", "-c", state / "nginx.conf", "-g", "daemon off;"]
    return _started(lab, web.name, command, folder, web.port)


def spoiled(published: Published, folder: Path) -> Path:
    """A copy of the repository in which every byte of the lesson's content is wrong."""
    copy = folder / "spoiled"
    shutil.copytree(published.folder, copy)
    for file in (copy / "content" / published.info_hash).rglob("*"):
        if file.is_file():
            file.write_bytes(bytes(byte ^ 0xFF for byte in file.read_bytes()))
    return copy


@attrs.frozen
class Answers:
    """What a web server has logged: of bodies alone, without headers."""

    content_bytes: int
    metadata_bytes: int
    requests: int
    refused: int  # 429 and 503


def answers(folder: Path, web: Web, *, after: int = 0) -> Answers:
    """What nginx has logged, beyond the first `after` bytes of its log."""
    state = folder / web.name
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(
            int((state / "pid").read_text(encoding="ascii")), signal.SIGUSR1
        )  # open anew: what is buffered is written
        time.sleep(0.2)
    with (state / "access.log").open("rb") as log:
        log.seek(after)
        lines = [(path, status, int(count)) for path, status, count in _ANSWER.findall(log.read())]
    content = sum(count for path, _, count in lines if path.startswith(b"/content/"))
    return Answers(
        content_bytes=content,
        metadata_bytes=sum(count for *_, count in lines) - content,
        requests=len(lines),
        refused=sum(status in (b"429", b"503") for _, status, _ in lines),
    )


def log_size(folder: Path, web: Web) -> int:
    return (folder / web.name / "access.log").stat().st_size


def start_opentracker(lab: Lab, published: Published, folder: Path) -> Running:
    """opentracker on the origin's host; its lessons are those of the repository."""
    tracker = published.folder / "tracker"
    text = (SEEDERS / "opentracker.conf").read_text(encoding="utf-8")
    if text.count("/srv/edgeshare/tracker") != 1:
        raise LabError(
            "seeders/origin/opentracker.conf does not have /srv/edgeshare/tracker once, and the lab replaces it"
        )
    (folder / "opentracker.conf").write_text(text.replace("/srv/edgeshare/tracker", str(tracker)), encoding="utf-8")
    return _started(lab, "opentracker", ["opentracker", "-f", folder / "opentracker.conf"], folder, TRACKER_PORT)


def accepts(host: Host, port: int) -> bool:
    """Whether something accepts TCP connections at `port` of a host."""
    probe = ["nsenter", f"--net=/run/netns/{host.space}", "bash", "-c", f": </dev/tcp/{host.address}/{port}"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def _started(lab: Lab, name: str, command: list[str | Path], folder: Path, port: int) -> Running:
    running = lab.start(lab.origin, name, command, folder / f"{name}.log")
    deadline = time.monotonic() + 10.0
    while not accepts(lab.origin, port):
        if not running.is_up() or time.monotonic() > deadline:
            raise LabError(f"{name} does not answer ({running.last_line()})")
        time.sleep(0.05)
    return running


def _without(text: str, directive: str) -> str:
    return re.sub(rf"(?m)^\s*{directive}\s[^;{{]*;", "", text)


def _with(text: str, after: str, line: str) -> str:
    return text.replace(after, f"{after}\n        {line}", 1)
