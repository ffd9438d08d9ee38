"""What it costs a node to verify a catalogue of 4,000 lessons, and an origin to be asked whether there is news."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.measure import EDGESHARE, RUNS, against, report, seconds
from bench.publish import DESCRIPTION
from edgeshare.catalogue import Edition, SignedLesson, encode_edition, read_edition
from edgeshare.demo import free_ports
from edgeshare.manifest import LessonManifest, SignedFile, encode, format_of, read_lesson, structure
from edgeshare.origin.client import open_origins
from edgeshare.signing import PublicKey, Signature, payload
from edgeshare.trust import Trust

LESSONS = 4000
CATALOGUE = "cned/6e"
_FIELDS = {
    "version": 3,
    "title": "Comparer et ranger des fractions",
    "language": "fr",
    "levels": ["6e"],
    "subjects": ["mathematiques"],
    "description": "Partager, comparer à 1, placer sur une droite graduée. " * 3,
    "licence": "CC-BY-SA-4.0",
    "start": "index.html",
    "role": "learner",
    "publisher": "cned",
    "size": 20_000_000,
    "files": 120,
    "audience": 800_000,
    "available_from": "2026-11-24T07:00:00+01:00",
    "needed_at": "2026-11-24T08:00:00+01:00",
}
_NGINX = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/errors;
events {{}}
http {{
    log_format body '$status $body_bytes_sent';
    access_log {folder}/log body;
    {temporary}
    server {{ listen 127.0.0.1:{port}; root {repository}; }}
}}
"""


def main() -> None:
    """Verify a catalogue beside its bare signatures; then ask nginx for news that there is none of."""
    _verify()
    if shutil.which("nginx") is None:
        print("  a poll of metadata: nginx is not here (`make system` installs it)", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="edgeshare-bench-") as name:
        trio.run(_poll, Path(name))


def _verify() -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    key = PublicKey("ed25519", public.public_bytes_raw())
    keys = {key.id: key}
    lessons = tuple(_signed(f"lesson-{number}", private, key) for number in range(LESSONS))
    raw = encode_edition(Edition(name=CATALOGUE, number=1, lessons=lessons, withdrawn=()))
    files = [SignedFile.parse(lesson.raw) for lesson in lessons]
    signatures = [(file.signatures[0].value, payload(file.format, file.signed)) for file in files]

    def ours() -> None:
        edition = read_edition(raw, CATALOGUE, 1, keys)
        assert len(edition.lessons) == LESSONS

    def bare() -> None:
        for signature, message in signatures:
            public.verify(signature, message)

    times = [_took(ours) for _ in range(RUNS)]
    name = f"seconds to verify {LESSONS:,} lessons"
    report(name, value=statistics.median(times), worst=max(times), want=0.5, megabytes=len(raw) / 1e6)
    name = f"verify {LESSONS:,} lessons / their bare signatures, one after the other"
    against(name, lambda: _took(ours), lambda: _took(bare), want=1.5)


def _signed(name: str, private: Ed25519PrivateKey, key: PublicKey) -> SignedLesson:
    manifest = structure(_FIELDS | {"id": name, "info_hash": Random(name).randbytes(32)}, LessonManifest)
    form, signed = format_of(manifest), encode(manifest)
    signature = Signature(key.id, key.scheme, private.sign(payload(form, signed)))
    raw = SignedFile(form, signed, (signature,)).encode()
    assert read_lesson(raw, {key.id: key}) == manifest
    return SignedLesson(manifest, raw)


async def _poll(folder: Path) -> None:
    repository = _published(folder)
    (port,) = free_ports(1)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(folder=folder, port=port, repository=repository, temporary=temporary), encoding="utf-8"
    )
    trusted = folder / "trust"
    trusted.mkdir()
    root = (repository / "metadata" / "1.root.json").read_bytes()
    with subprocess.Popen(["nginx", "-e", f"{folder}/start", "-c", config]) as nginx:
        try:
            while not (folder / "pid").exists():
                await trio.sleep(0.01)
            async with open_origins((f"http://127.0.0.1:{port}/",), Random(1)) as origins:
                trust = Trust(trusted, root, origins)
                await trust.refresh((CATALOGUE,))
                polls = []
                for _ in range(RUNS):
                    before = _answers(folder)
                    await trust.refresh((CATALOGUE,))
                    polls.append(_answers(folder)[len(before) :])
        finally:
            nginx.terminate()
    requests = [len(poll) for poll in polls]
    bodies = [sum(poll) for poll in polls]
    report("requests of a poll without news", value=statistics.median(requests), worst=max(requests), want=2)
    report("bytes of bodies of a poll without news", value=statistics.median(bodies), worst=max(bodies), want=1000)


def _published(folder: Path) -> Path:
    lesson = folder / "lesson"
    lesson.mkdir()
    (lesson / "lesson.toml").write_text(DESCRIPTION, encoding="utf-8")
    (lesson / "index.html").write_text("<h1>Bench</h1>", encoding="utf-8")
    repository, keys = folder / "repository", ("--keys", folder / "keys")
    seconds([*EDGESHARE, "publish", "init", repository, *keys])
    seconds([*EDGESHARE, "publish", "add", repository, lesson, *keys])
    seconds([*EDGESHARE, "publish", "release", repository, *keys])
    return repository


def _answers(folder: Path) -> list[int]:
    """The bytes of the body of each answer so far."""
    return [int(line.split()[1]) for line in (folder / "log").read_text(encoding="ascii").splitlines()]


def _took(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start
