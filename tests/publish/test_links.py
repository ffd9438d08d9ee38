from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest
import trio

from edgeshare.errors import RepositoryError
from edgeshare.manifest import InfoHash, LessonId, LessonManifest
from edgeshare.origin.serve import KEPT, LESSON_POLICY, PAGE_POLICY, serve_repository
from edgeshare.publish.linkpage import MOST_IN_ONE_FILE, NODE, index_files, page_files, spread
from edgeshare.publish.links import Link, link
from tests.publish.support import Publisher, make_lesson, now

ORIGIN = "https://lecons.example.fr/"


def manifest(lesson: str = "maths-6e-fractions", **fields: Any) -> LessonManifest:
    usual: dict[str, Any] = {
        "version": 1,
        "title": "Les fractions",
        "language": "fr",
        "levels": ("6e",),
        "subjects": ("mathematiques",),
        "description": "",
        "licence": "CC-BY-SA-4.0",
        "start": "index.html",
        "publisher": "cned",
        "info_hash": InfoHash(hashlib.sha256(lesson.encode()).digest()),
        "size": 10_000,
        "files": 1,
    }
    return LessonManifest(id=LessonId(lesson), **(usual | fields))


def made(**fields: Any) -> Link:
    return Link(manifest=manifest(**fields), origin=ORIGIN)


@pytest.fixture
def released(publisher: Publisher, tmp_path: Path) -> Publisher:
    """A repository with two lessons, one of them released."""
    files = {"index.html": b"<h1>Fractions</h1>", "exercices/un deux.html": b"<p>"}
    publisher.add(make_lesson(tmp_path / "maths-6e-fractions", files))
    with publisher.opened() as opened:
        opened.release(now(), origins=["http://plain.example.fr/", ORIGIN])
    publisher.add(make_lesson(tmp_path / "maths-6e-angles"))
    return publisher


# The link


def test_a_link_has_the_lesson_in_its_fragment_and_prefers_https(released: Publisher) -> None:
    found = link(released.root, LessonId("maths-6e-fractions"))
    assert found.durable == "https://lecons.example.fr/o#maths-6e-fractions"
    assert found.direct == "http://localhost:8470/open/maths-6e-fractions"


def test_a_link_to_a_file_is_percent_encoded(released: Publisher) -> None:
    found = link(released.root, LessonId("maths-6e-fractions"), path="exercices/un deux.html", origin="http://a.fr/x")
    assert found.durable == "http://a.fr/x/o#maths-6e-fractions/exercices/un%20deux.html"
    assert found.direct == "http://localhost:8470/open/maths-6e-fractions/exercices/un%20deux.html"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["maths-6e-fraction"], "no lesson maths-6e-fraction is published here: did you mean maths-6e-fractions?"),
        (["zzz"], "no lesson zzz is published here: `edgeshare publish add` prints a lesson's id"),
        (["maths-6e-angles"], "no lesson maths-6e-angles is published here: it is staged"),
        (["Maths"], "'Maths' is not a lesson id"),
        (
            ["maths-6e-fractions", "--path", "exercices/un deux.htm"],
            "maths-6e-fractions has no file 'exercices/un deux.htm': did you mean 'exercices/un deux.html'?",
        ),
        (["maths-6e-fractions", "--origin", "lecons"], "'lecons' is no origin"),
        (["maths-6e-fractions", "--node", "javascript:1"], "'javascript:1' is no node's address"),
        (["maths-6e-fractions", "--qr", "/nowhere/a.svg"], "cannot write /nowhere/a.svg (No such file or directory)"),
    ],
)
def test_what_cannot_be_linked_gets_one_line(
    released: Publisher, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    code, _, err = run(capsys, "link", str(released.root), *arguments)
    assert code == 1
    assert err.startswith(f"edgeshare: {line}")
    assert err.count("\n") == 1


def test_a_repository_without_an_origin_needs_one_by_hand(publisher: Publisher, tmp_path: Path) -> None:
    publisher.add(make_lesson(tmp_path / "maths"))
    publisher.release()
    with pytest.raises(RepositoryError, match="no origin is known"):
        link(publisher.root, LessonId("maths"))


def test_link_needs_no_key_and_prints_one_line(released: Publisher, capsys: pytest.CaptureFixture[str]) -> None:
    for key in released.keys.iterdir():
        key.unlink()
    assert run(capsys, "link", str(released.root), "maths-6e-fractions") == (
        0,
        "https://lecons.example.fr/o#maths-6e-fractions\n",
        "",
    )


# What is pasted, and what is printed


class Links(HTMLParser):
    """The links of a snippet, and which elements it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "a":
            self.links.append(dict(attributes))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_snippet_has_the_direct_link_first_and_nothing_that_a_platform_strips() -> None:
    parsed = Links(made().snippet())
    assert [each["href"] for each in parsed.links] == [
        "http://localhost:8470/open/maths-6e-fractions",
        "https://lecons.example.fr/o#maths-6e-fractions",
    ]
    assert all((each["target"], each["rel"]) == ("_blank", "noopener noreferrer") for each in parsed.links)
    assert set(parsed.tags) == {"p", "a", "span", "br"}
    assert "Les fractions (sur cet ordinateur ou à la maison)" in parsed.words
    assert "Les fractions (autrement)" in parsed.words


def test_a_snippet_speaks_the_lessons_language_and_escapes_its_title() -> None:
    snippet = made(title='</a><script>"x"</script> & Co', language="en-GB").snippet()
    parsed = Links(snippet)
    assert "script" not in parsed.tags
    assert '</a><script>"x"</script> & Co (on this computer or at home)' in parsed.words
    assert snippet.startswith('<p lang="en">')
    assert '<span lang="en-GB">' in snippet
    assert made(language="de").snippet().startswith('<p lang="fr">')


def test_html_has_the_nodes_address_that_was_given(released: Publisher, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--html", "--node", "http://edgeshare.local:8470/"]
    _, out, _ = run(capsys, "link", str(released.root), "maths-6e-fractions", *options)
    assert Links(out).links[0]["href"] == "http://edgeshare.local:8470/open/maths-6e-fractions"


def test_a_qr_code_is_a_named_picture_of_the_durable_link(
    released: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svg, png = tmp_path / "code.svg", tmp_path / "code.PNG"
    for file in (svg, png):
        code, out, _ = run(capsys, "link", str(released.root), "maths-6e-fractions", "--qr", str(file))
        assert (code, out) == (0, "https://lecons.example.fr/o#maths-6e-fractions\n")
    drawn = ET.parse(svg).getroot()
    texts = {child.tag.rpartition("}")[2]: child.text for child in drawn}
    assert (texts["title"], texts["desc"]) == ("Les fractions", "https://lecons.example.fr/o#maths-6e-fractions")
    raw = png.read_bytes()
    assert raw.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", raw[16:24])
    assert width == height
    assert width % 8 == 0  # dots of eight pixels, which printers keep sharp
    _, out, _ = run(capsys, "link", str(released.root), "maths-6e-fractions", "--qr", "-")
    assert out.count("\n") > 15
    assert run(capsys, "link", str(released.root), "maths-6e-fractions", "--qr", "code.gif")[0] == 2


def test_a_link_that_no_code_holds_is_refused_in_one_line() -> None:
    with pytest.raises(RepositoryError, match="too long for a QR code"):
        Link(manifest=manifest(), origin=ORIGIN, path="é" * 500).svg()


# The page behind it


def test_the_page_is_small_names_its_one_style_and_script_and_asks_nobody_else() -> None:
    page = page_files()["index.html"]
    text = page.decode()
    assert len(page) <= 10_000
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    for kind in ("style", "script"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    assert set(re.findall(r"https?://[^\"'<\s/]+", text)) == {NODE, "http://edgeshare.local"}
    assert not re.search(r"\bsrc=", text)


def test_a_link_leads_to_the_same_file_in_the_page_and_here() -> None:
    """The page has the same hash; tests/whole/test_links.py compares them in a browser."""
    assert (spread("maths-6e-fractions"), spread("a")) == ("22e6beb8", "0b2da1f5")


def test_the_page_says_the_three_ways_in_both_languages_without_a_script() -> None:
    text = page_files()["index.html"].decode()
    for language in ("fr", "en"):
        (section,) = re.findall(rf'<section lang="{language}">(.*?)</section>', text, re.DOTALL)
        assert section.count("<li>") == 3
        assert section.count('href="http://localhost:8470/"') == 1
        assert "<noscript>" in section


def test_french_marks_keep_to_their_words_and_nobody_is_tutoyed() -> None:
    text = page_files()["index.html"].decode()
    section = text[text.index('<section lang="fr">') : text.index('<section lang="en">')].replace("&nbsp;", "\u00a0")
    said = " ".join(re.findall(r'"(.*?)"', _words(text)["fr"]))
    shown = re.sub(r"https?://\S*", "", f"{re.sub(r'<[^>]+>', ' ', section)} {said}")
    assert "leçon" in shown
    assert not re.search(r"[^\u00a0][:;?!]|\b(tu|te|ton|ta|tes|toi)\b", shown, re.IGNORECASE)


def test_every_word_that_the_script_says_is_there_in_both_languages() -> None:
    script = page_files()["index.html"].decode().partition("<script>")[2]
    of = {language: set(re.findall(r"^(\w+): \"", part, re.MULTILINE)) for language, part in _words(script).items()}
    assert of["fr"] == of["en"]
    used = set(re.findall(r"say\(\"(\w+)\"\)|word: \"(\w+)\"|\|\| \"(copy)\"|\? \"(\w+)\" : \"(\w+)\"\}", script))
    assert {word for found in used for word in found if word} == of["fr"]


def _words(script: str) -> dict[str, str]:
    found = re.search(r"WORDS = \{\nfr: \{(.*?)\},\nen: \{(.*?)\},\n\};", script, re.DOTALL)
    assert found
    return {"fr": found[1], "en": found[2]}


def test_the_worker_takes_only_this_very_page() -> None:
    files = page_files()
    worker = files["worker.js"].decode()
    digest = hashlib.sha256(files["index.html"])
    assert f'integrity: "sha256-{base64.b64encode(digest.digest()).decode()}"' in worker
    assert digest.hexdigest()[:16] in worker
    assert page_files("http://localhost:1")["worker.js"] != files["worker.js"]


# Where the origin has the lessons


def test_the_index_says_where_each_lesson_is_and_when_it_may_be_read() -> None:
    moment = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
    rehearsal = manifest("drill-1", fetch_from=moment, available_from=moment, expires=moment)
    files = index_files([manifest(), manifest("maths-6e-angles", start="a/b.html", available_from=moment), rehearsal])
    assert json.loads(files["lessons.json"]) == {
        "digits": 0,
        "lessons": {
            "maths-6e-angles": [manifest("maths-6e-angles").info_hash.hex(), "a/b.html", int(moment.timestamp()), 0],
            "maths-6e-fractions": [manifest().info_hash.hex(), "index.html", 0, 0],
        },
    }


@pytest.mark.parametrize(("count", "digits"), [(MOST_IN_ONE_FILE, 0), (MOST_IN_ONE_FILE + 1, 1), (4097, 2)])
def test_many_lessons_share_files_that_none_of_them_has_alone(count: int, digits: int) -> None:
    lessons = [manifest(f"lesson-{number}") for number in range(count)]
    files = {name: json.loads(content) for name, content in index_files(lessons).items()}
    assert list(files)[-1] == "lessons.json"  # it is written when those that it leads to are there
    assert files["lessons.json"]["digits"] == digits
    assert len(files) == (1 + 16**digits if digits else 1)
    for lesson in lessons:
        name = f"lessons-{spread(lesson.id)[:digits]}.json" if digits else "lessons.json"
        assert files[name]["lessons"][lesson.id][0] == lesson.info_hash.hex()
    if digits:
        shares = [len(part["lessons"]) for name, part in files.items() if name != "lessons.json"]
        mean = count / len(shares)
        assert mean / 3 < min(shares)
        assert max(shares) < mean * 3


def test_a_release_keeps_the_page_and_its_index_in_step_with_the_catalogues(
    released: Publisher, tmp_path: Path
) -> None:
    def listed() -> set[str]:
        return set(json.loads((released.root / "o" / "lessons.json").read_bytes())["lessons"])

    assert {path.name: path.read_bytes() for path in (released.root / "o").iterdir()}.items() >= page_files().items()
    assert listed() == {"maths-6e-fractions"}  # the other one is only staged
    released.release()
    assert listed() == {"maths-6e-fractions", "maths-6e-angles"}
    (released.root / "o" / "lessons-0.json").write_bytes(b"of another time")
    released.withdraw("maths-6e-angles")
    assert listed() == {"maths-6e-fractions", "maths-6e-angles"}
    released.release()
    assert listed() == {"maths-6e-fractions"}
    assert not (released.root / "o" / "lessons-0.json").exists()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """What `edgeshare publish` exits with and prints."""
    from edgeshare.cli.main import main

    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["publish", *arguments])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


# How it is served

SERVED = {
    "/o": "/o/index.html",
    "/o/": "/o/index.html",
    "/o/index.html": "/o/index.html",
    "/o/worker.js": "/o/worker.js",
    "/o/lessons.json": "/o/lessons.json",
}


@asynccontextmanager
async def serving(repository: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with trio.open_nursery() as nursery, httpx.AsyncClient() as client:
        _, port = await nursery.start(partial(serve_repository, repository, "127.0.0.1", 0))
        client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        with trio.fail_after(20):
            yield client
        nursery.cancel_scope.cancel()


async def test_the_page_is_one_for_all_lessons_is_kept_for_ever_and_cannot_be_framed(released: Publisher) -> None:
    kept = {
        "/o/index.html": "public, max-age=31536000, s-maxage=86400, immutable",
        "/o/worker.js": "public, max-age=86400",
        "/o/lessons.json": "public, max-age=300",
    }
    async with serving(released.root) as client:
        for path, file in SERVED.items():
            answer = await client.get(path)
            assert answer.content == (released.root / file[1:]).read_bytes()
            assert answer.headers["cache-control"] == kept[file]
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers.get("service-worker-allowed") == ("../o" if file == "/o/worker.js" else None)
        kinds = [(await client.get(path)).headers["content-type"] for path in ("/o", "/o/worker.js")]
        assert kinds == ["text/html; charset=utf-8", "text/javascript; charset=utf-8"]
        for path in ("/o/.hidden", "/o/nothing.json", "/O", "/ox"):
            (released.root / "o" / ".hidden").write_bytes(b"half")
            assert (await client.get(path)).status_code == 404


async def test_a_lesson_at_the_origin_is_in_a_sandbox_unless_it_is_a_pdf(publisher: Publisher, tmp_path: Path) -> None:
    files = {"index.html": b"<p>", "a.svg": b"<svg/>", "lecon.PDF": b"%PDF"}
    content = publisher.add(make_lesson(tmp_path / "maths", files)).manifest.info_hash.hex()
    async with serving(publisher.root) as client:
        for path in files:
            headers = (await client.get(f"/content/{content}/{path}")).headers
            assert headers["access-control-allow-origin"] == "*"  # its own fonts and modules, from a sandbox
            assert ("sandbox allow-scripts" in headers.get("content-security-policy", "")) == (path != "lecon.PDF")
            assert "allow-same-origin" not in headers.get("content-security-policy", "")
        assert "access-control-allow-origin" not in (await client.get("/metadata/timestamp.json")).headers


def test_nginx_says_the_same_as_origin_serve() -> None:
    config = (Path(__file__).parents[2] / "seeders" / "origin" / "nginx.conf").read_text(encoding="utf-8")
    for value in (PAGE_POLICY, LESSON_POLICY, *KEPT.values()):
        assert config.count(f'"{value}"') == 1
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page_files()["index.html"].decode())
    assert policy
    own, sent = (dict(part.strip().split(" ", 1) for part in each.split(";")) for each in (policy[1], PAGE_POLICY))
    for name in ("connect-src", "worker-src", "img-src", "base-uri", "form-action", "default-src"):
        assert own[name] == sent[name]
