"""The whole way with real input: Debian's packages, odd names and the example lessons, on real servers and Chromium."""

from __future__ import annotations

import html
import os
import textwrap
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from . import packages
from .pages import visit
from .support import PROJECT, Measured, Node, Site, edgeshare, until

pytestmark = pytest.mark.whole

MIB = 2**20
SHOWING = {"follow": 'show = ["cned/6e"]'}  # a home that hears of the lessons, and fetches what somebody asks for
EXAMPLES = PROJECT / "manifests" / "lessons"


def test_a_home_gets_two_books_from_peers_alone_and_chromium_reads_them(
    site: Site, browser: Browser, measured: Measured
) -> None:
    books = {"gimp-help-fr": packages.gimp_help(site.folder), "debian-edu-doc-fr": packages.edu_manual(site.folder)}
    sources = {name: _files(folder) for name, folder in books.items()}
    sizes = {name: sum(path.stat().st_size for path in files.values()) for name, files in sources.items()}
    whole, count = sum(sizes.values()), sum(map(len, sources.values()))
    start = time.monotonic()
    origin = site.origin(*books.values())
    measured(f"{count} files, {whole / MIB:.1f} MiB: published after {time.monotonic() - start:.1f} s")

    # With the origin up: a school and a home follow the catalogue; a second home only shows it.
    school = site.node("school", "school", origin.url)
    home = site.node("home", "home-1", origin.url)
    second = site.node("home", "home-2", origin.url, SHOWING)
    took = until("school and home 1 have the books", lambda: school.has(*sources) and home.has(*sources), 150.0)
    until("home 2 has the catalogue", second.has_catalogue, 20.0)
    measured(f"school and home 1 had them after {took:.1f} s: {_share(school, whole)}; {_share(home, whole)}")
    assert all(second.api(f"lessons/{name}")["state"] == "listed" for name in sources)

    # The origin is gone: the second home gets everything from the two others.
    origin.nginx.stop()
    start = time.monotonic()
    for name in sources:
        edgeshare("get", name, "--config", second.config)
    measured(f"home 2 had them from peers alone after {time.monotonic() - start:.1f} s: {_share(second, whole)}")
    for name, size in sizes.items():
        lesson = second.api(f"lessons/{name}")
        assert lesson["state"] == "complete"
        assert lesson["origin_bytes"] == 0
        assert lesson["peer_bytes"] >= size

    # Every file is what was published: on the disk all of them, over HTTP a sample.
    for node in (school, home, second):
        for name, files in sources.items():
            folder = node.library / "content" / node.api(f"lessons/{name}")["info_hash"]
            assert _differing(files, folder) == []
    for name, files in sources.items():
        for path in sorted(files)[::50]:
            assert second.file(name, quote(path)).content == files[path].read_bytes(), path

    # And a reader sees whole pages.
    with visit(browser) as reader:
        reader.open(second.url("gimp-help-fr"))
        assert reader.page.title() == "GNU Image Manipulation Program"
        assert reader.pictures > 0
        assert reader.is_whole()
        reader.page.click("a[accesskey=n]")
        reader.page.wait_for_url("**/preface.html")
        assert reader.pictures > 0
        assert reader.is_whole()
    with visit(browser) as reader:
        reader.open(second.url("debian-edu-doc-fr"))
        measured(f"Debian Edu's manual shows {reader.pictures} pictures on one page")
        assert reader.pictures > 50
        assert reader.is_whole()


def test_files_of_any_name_and_size_are_read_through_the_shim(site: Site, browser: Browser) -> None:
    contents = _oddly_named()
    lesson = site.folder / "noms"
    for path, content in contents.items():
        (lesson / path).parent.mkdir(parents=True, exist_ok=True)
        (lesson / path).write_bytes(content)
    links = "".join(f'<li><a href="{quote(path)}">{html.escape(path)}</a>' for path in contents)
    page = f'<!doctype html><html lang="fr"><meta charset="utf-8"><title>Noms</title><ul>{links}</ul></html>'
    (lesson / "page d’entrée n° 1.html").write_text(page, encoding="utf-8")
    description = """\
        id = "noms"
        title = "Des noms"
        language = "fr"
        levels = ["6e"]
        subjects = ["mathematiques"]
        description = "Des noms de fichiers."
        licence = "CC0-1.0"
        start = "page d’entrée n° 1.html"
        """
    (lesson / "lesson.toml").write_text(textwrap.dedent(description), encoding="utf-8")

    # The school gets them from nginx, and the home from the school.
    origin = site.origin(lesson)
    school = site.node("school", "school", origin.url)
    home = site.node("home", "home", origin.url, SHOWING)
    until("the school has the lesson", lambda: school.has("noms"), 30.0)
    until("the home has the catalogue", home.has_catalogue, 20.0)
    origin.nginx.stop()
    edgeshare("get", "noms", "--config", home.config)

    for node in (school, home):
        for path, content in contents.items():
            answer = node.file("noms", quote(path))
            assert (answer.status_code, answer.content) == (200, content), path
    with visit(browser) as reader:
        reader.open(home.url("noms"))
        fetched = reader.page.evaluate(
            """async () => Promise.all([...document.links].map(async link => {
                const answer = await fetch(link.href);
                return [link.textContent, answer.status, (await answer.arrayBuffer()).byteLength];
            }))"""
        )
        assert fetched == [[path, 200, len(content)] for path, content in contents.items()]
        for name in ("100 %.html", "dièse #1.html", "quoi & non.html"):
            reader.open(home.url("noms"))
            reader.page.get_by_role("link", name=name, exact=True).click()
            reader.page.wait_for_load_state()
            assert reader.page.title() == name
        assert reader.is_whole()


def test_each_example_lesson_works_in_chromium(site: Site, browser: Browser, measured: Measured) -> None:
    # What reaches into the film's last megabyte comes slowly, so that it is certainly seen while it downloads.
    slow = {"max_ranges 1;": 'max_ranges 1; if ($http_range ~ "-[4-9][0-9]{6}$") { set $limit_rate 60k; }'}
    origin = site.origin(*sorted(path.parent for path in EXAMPLES.glob("*/lesson.toml")), more=slow)
    home = site.node("home", "home", origin.url, SHOWING)
    until("the home has the catalogue", home.has_catalogue, 20.0)

    # Opening a lesson fetches it; nobody else has it.
    with visit(browser) as reader:
        reader.open(home.url("maths-6e-fractions"))
        assert reader.is_whole()
        reader.page.get_by_role("link", name="S’exercer").click()
        _do_exercise(reader.page)
        assert reader.page.locator("#r-series").text_content() == "1"
        reader.page.reload()
        assert reader.page.locator("#r-series").text_content() == "1"  # at its own web origin a lesson may remember
        assert reader.is_whole()

    pdf = home.file("histoire-6e-premieres-ecritures", "lecon.pdf")
    assert pdf.headers["content-type"] == "application/pdf"
    assert pdf.content == (EXAMPLES / "histoire-6e-premieres-ecritures" / "lecon.pdf").read_bytes()
    with visit(browser) as reader:
        reader.open(home.url("histoire-6e-premieres-ecritures", "texte.html"))
        assert reader.pictures > 0
        assert reader.is_whole()

    with visit(browser) as reader:
        start = time.monotonic()
        reader.open(home.url("sciences-6e-cycle-de-l-eau"))
        reader.page.evaluate("() => { video.muted = true; return video.play(); }")
        reader.page.wait_for_function("video.currentTime > 1", timeout=60_000)
        film = home.api("lessons/sciences-6e-cycle-de-l-eau")
        took, share = time.monotonic() - start, film["bytes_have"] / film["size"]
        measured(f"the film's first second was over after {took:.1f} s, with {share:.0%} of the lesson here")
        assert film["state"] == "fetching"
        assert reader.is_whole()
        reader.page.evaluate("video.currentTime = 20")
        reader.page.wait_for_function("video.currentTime > 21", timeout=60_000)


def _oddly_named() -> dict[str, bytes]:
    """Files that somebody's names or sizes have broken elsewhere, by their path."""
    pages = ["un espace.html", "accentué à l’été.html", "100 %.html", "dièse #1.html", "un+deux.html"]
    pages += ["quoi & non.html", "50%25 %2F.html", "a=b;c,d@e!$'().html", "« cité » ‘b’.html", ".caché.html"]
    pages += ["é" * 125 + ".html", "x" * 250 + ".html"]  # 255 bytes, the most that a file system takes
    pages += ["dossier à part/sous #2/page.html", "nai\u0308f.html", "日本語.html"]
    contents = {name: f"<!doctype html><title>{html.escape(name)}</title>".encode() for name in pages}
    return contents | {"vide.txt": b"", "aussi vide.html": b"", "un.txt": b"1", "un octet.bin": b"\xff"}


def _do_exercise(page: Page) -> None:
    """Answer ten questions, right or wrong."""
    page.locator("#valider").wait_for()  # the script has made the first
    for _ in range(10):
        for field in page.locator("#question input[type=text]").all():
            field.fill("1")
        for choice in page.locator("#question input[type=radio], #question .cases button").all()[:1]:
            choice.click()
        page.click("#valider")
        assert page.locator("#retour").text_content()
        page.click("#suivante")


def _files(lesson: Path) -> dict[str, Path]:
    """The files that a lesson folder publishes, by their path in the lesson."""
    paths = [Path(folder) / name for folder, _, names in os.walk(lesson, followlinks=True) for name in names]
    found = {path.relative_to(lesson).as_posix(): path for path in paths}
    del found["lesson.toml"]
    return found


def _differing(files: dict[str, Path], folder: Path) -> list[str]:
    """What is not in `folder` as it is in `files`, and what is there besides."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    differing = [path for path in files if path in there and files[path].read_bytes() != (folder / path).read_bytes()]
    return sorted(differing + list(there ^ set(files)))


def _share(node: Node, whole: int) -> str:
    status = node.api("status")
    taken, given = status["origin_bytes"] / whole, status["peer_bytes"] / whole
    return f"{node.running.name} took {taken:.0%} of it from the origin and {given:.0%} from peers"
