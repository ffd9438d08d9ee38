"""What pupils and a school's technician see of a real daemon in a real browser: stories 1, 2 and 9, as told."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from edgeshare.manifest import LessonId
from edgeshare.view import Obstacle, State

from .pages import visit
from .staged import Stage, node_in_every_state, on_stage
from .support import EDGESHARE, PROJECT, Measured, Node, Site, edgeshare, needed, until

pytestmark = pytest.mark.whole

EXAMPLES = PROJECT / "manifests" / "lessons"
SHOWING = {"follow": 'show = ["cned/6e"]'}
KIB, MIB = 2**10, 2**20


def lesson(folder: Path, name: str, title: str, **files: bytes) -> Path:
    """A lesson folder with a page and these files."""
    path = folder / name
    path.mkdir()
    page = f'<!doctype html><html lang="fr"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
    (path / "index.html").write_text(page, encoding="utf-8")
    for file, content in files.items():
        (path / file).write_bytes(content)
    (path / "lesson.toml").write_text(
        f'id = "{name}"\ntitle = "{title}"\nlanguage = "fr"\nlevels = ["6e"]\nsubjects = ["mathematiques"]\n'
        f'description = "{title}, pour voir."\nlicence = "CC0-1.0"\nstart = "index.html"\n',
        encoding="utf-8",
    )
    return path


def started_again(site: Site, node: Node, under: Sequence[str] = ()) -> Node:
    """The same node, run anew; `under` is a command that runs it."""
    return Node(
        site.start(node.running.name, [*under, str(EDGESHARE), "run", "--config", str(node.config)]),
        node.config,
        node.library,
        node.port,
    )


# Story 1


@attrs.frozen
class Island:
    """A network namespace with a local network, and an uplink that is down."""

    name: str

    def inside(self, *command: str) -> list[str]:
        """A command that runs in it."""
        return [needed("ip"), "netns", "exec", self.name, *command]

    def left(self) -> int:
        """Packets that went, or would have gone, anywhere but to the local network."""
        rules = subprocess.run(
            self.inside(needed("nft"), "list", "ruleset"), capture_output=True, text=True, check=True
        )
        return sum(map(int, re.findall(r"counter packets (\d+)", rules.stdout)))


@contextmanager
def island() -> Iterator[Island]:
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    made = Island(f"edgeshare-{os.getpid()}")
    ip = [needed("ip"), "-n", made.name]
    subprocess.run([needed("ip"), "netns", "add", made.name], check=True)
    try:
        for line in (
            "link set lo up",
            "link add lan type veth peer name others",
            "address add 192.168.77.2/24 dev lan",
            "link set lan up",
            "link set others up",
            "link add uplink type veth peer name line",
            "address add 203.0.113.2/24 dev uplink",
            "link set line up",
        ):
            subprocess.run([*ip, *line.split()], check=True)
        rules = """
            table inet watch {
                chain out {
                    type filter hook output priority 0;
                    ip daddr != { 127.0.0.0/8, 192.168.77.0/24, 224.0.0.0/4 } counter
                    ip6 daddr != { ::1, fe80::/10, ff00::/8 } counter
                }
            }
            """
        subprocess.run(made.inside(needed("nft"), "-f", "-"), input=rules, text=True, check=True)
        yield made
    finally:
        subprocess.run([needed("ip"), "netns", "delete", made.name], check=True)


def status_by_socket(node: Node) -> Any:
    """What the node says of itself over its control socket, which is in no network; None while it starts."""
    command = [str(EDGESHARE), "status", "--json", "--config", str(node.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def test_story_1_a_pupil_without_the_internet_opens_a_lesson_in_three_actions(
    site: Site, browser_by: Callable[[Path], Browser], measured: Measured
) -> None:
    origin = site.origin(EXAMPLES / "maths-6e-fractions")
    home = site.node("home", "home", origin.url)
    until("the lesson is here", lambda: home.has("maths-6e-fractions"), 60.0)
    home.running.stop()

    with island() as alone:  # no origin, no tracker, no other node, nothing but this machine and a dead line
        elsewhere = home.config.read_text(encoding="utf-8").replace(origin.url, "http://203.0.113.80/")
        home.config.write_text(elsewhere, encoding="utf-8")
        home = started_again(site, home, alone.inside())
        until("the node has noticed", lambda: bool((status_by_socket(home) or {}).get("trouble")), 30.0)
        program = site.folder / "chromium"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(alone.inside(needed("chromium")))} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        with visit(browser_by(program), locale="fr-FR") as reader:
            asked: list[str] = []
            reader.page.on("request", lambda request: asked.append(request.url))
            reader.open(home.home)
            notice = reader.page.locator(".notice").first.text_content() or ""
            assert "ne répond pas en ce moment" in notice
            assert re.search(r"La liste date du \w+ \d+ \w+ \d{4}", notice)
            reader.page.get_by_label("Niveau").select_option("6e")  # 1
            reader.page.get_by_role("button", name="Afficher").click()  # 2
            reader.page.get_by_role("link", name="Les fractions").first.click()  # 3
            reader.page.wait_for_url(home.url("maths-6e-fractions", "index.html"))
            assert reader.page.locator("h1").is_visible()
            took_ms = reader.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
            measured(f"the lesson was loaded {took_ms:.0f} ms after the click")
            assert took_ms <= 1000
            assert reader.is_whole()
            assert {httpx.URL(url).host.rpartition(".")[2] for url in asked} == {"localhost"}
        assert alone.left() == 0
        home.running.stop()


# Story 2, the pages' part (what plays meanwhile is in test_video.py)


def state_of(page: Page) -> str:
    return page.locator(".state").first.text_content() or ""


def test_story_2_a_lessons_page_follows_it_from_on_its_way_to_ready_and_outlives_the_daemon(
    site: Site, browser: Browser, measured: Measured
) -> None:
    film = random.Random(2).randbytes(2 * MIB)
    slow = {"max_ranges 1;": "max_ranges 1; if ($http_range) { set $limit_rate 300k; }"}
    origin = site.origin(lesson(site.folder, "film", "Un film", film=film), more=slow)
    home = site.node("home", "home", origin.url, SHOWING)
    until("the home has the catalogue", home.has_catalogue, 20.0)

    with visit(browser, locale="fr-FR") as reader:
        page = reader.page
        reader.open(f"{home.home}l/film")
        page.evaluate("window.sameDocument = true")
        assert "Pas encore ici" in state_of(page)
        assert "rien n’est encore arrivé" in (page.locator("#source").text_content() or "")
        opened = threading.Thread(target=home.file, args=("film", "index.html"))  # a reader somewhere
        opened.start()
        expect(page.locator("[data-words]")).to_contain_text("En route", timeout=20_000)
        bar = page.get_by_role("progressbar", name="Part déjà arrivée de « Un film »")
        first = float(bar.get_attribute("value") or 0)
        page.wait_for_function("first => document.querySelector('progress').value > first", arg=first, timeout=20_000)
        expect(page.locator("#source")).to_contain_text("du serveur de l’éditeur : 100", timeout=20_000)
        opened.join()

        home.running.process.send_signal(signal.SIGKILL)
        home.running.process.wait()
        expect(page.locator("#lost")).to_be_visible(timeout=10_000)
        start = time.monotonic()
        home = started_again(site, home)
        expect(page.locator("#lost")).to_be_hidden(timeout=10_000)
        measured(f"the page heard from the node again {time.monotonic() - start:.1f} s after its restart")
        assert time.monotonic() - start <= 10
        edgeshare("get", "film", "--config", home.config)
        expect(page.locator("[data-words]")).to_have_text("Prête", timeout=10_000)
        expect(page.locator("#live")).to_have_text("Un film : prête")
        assert page.get_by_role("progressbar").count() == 0
        assert page.evaluate("window.sameDocument")


# Story 9


def received(port: int, source: str, agent: str, name: str, paths: list[str]) -> int:
    """Read files of a lesson as one reader; the bytes that came out of its sockets, heads included."""
    total = 0
    for path in paths:
        with socket.create_connection(("127.0.0.1", port), 30, source_address=(source, 0)) as reader:
            lines = (
                f"GET /{path} HTTP/1.1",
                f"Host: {name}.localhost:{port}",
                f"User-Agent: {agent}",
                "Connection: close",
            )
            reader.sendall("\r\n".join((*lines, "", "")).encode())
            while portion := reader.recv(1 << 16):
                total += len(portion)
    return total


def figures(node: Node) -> tuple[dict[str, int], str]:
    """What the metrics say was served, by source, and all that they say."""
    text = httpx.get(f"http://localhost:{node.port}/metrics", timeout=10.0).text
    served = re.findall(r'^edgeshare_served_bytes_total{source="(\w+)"} (\S+)$', text, re.MULTILINE)
    return {source: int(float(count)) for source, count in served}, text


def value(page: Page, place: str) -> int:
    """A figure of the dashboard, as it stands there for machines."""
    return int(page.locator(f"{place} data").first.get_attribute("value") or -1)


def test_story_9_the_figures_are_those_of_the_sockets_and_name_no_reader(
    site: Site, browser: Browser, measured: Measured
) -> None:
    rng = random.Random(9)
    names = [f"lecon-{n}" for n in range(3)]
    files = {"photo.jpg": rng.randbytes(300 * KIB), "film.mp4": rng.randbytes(2 * MIB)}
    origin = site.origin(*(lesson(site.folder, name, f"Leçon {name[-1]}", **files) for name in names))
    school = site.node("school", "school", origin.url)
    until("the school has the lessons", lambda: school.has(*names), 60.0)
    fetched = sum(school.api(f"lessons/{name}")["origin_bytes"] for name in names)
    until("the line is counted", lambda: school.api("status")["outside_bytes"] >= fetched, 15.0)
    before, _ = figures(school)

    sums = [0] * 20
    readers = [f"127.0.9.{n + 1}" for n in range(20)]
    agent = "Lecteur-de-la-salle-12"

    def read(n: int) -> None:
        for name in names:
            sums[n] += received(school.port, readers[n], f"{agent}/{n}", name, ["index.html", *files])

    threads = [threading.Thread(target=read, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    after, told = figures(school)
    served = sum(after[source] - before[source] for source in after)
    measured(
        f"20 readers got {sum(sums) / MIB:.1f} MiB out of their sockets, {served / sum(sums):.2%} of it is counted"
    )
    assert served == pytest.approx(sum(sums), rel=0.02)
    assert after["library"] - before["library"] == 20 * 3 * sum(
        path.stat().st_size for path in (site.folder / names[0]).iterdir() if path.name != "lesson.toml"
    )

    with visit(browser, locale="fr-FR") as reader:
        reader.open(f"{school.home}ecole")
        page = reader.page
        assert value(page, "#served-library") == after["library"]
        assert value(page, "#served-month") == after["library"] + after["swarm"]
        assert value(page, "#connections") >= 1
        assert re.search(r"Économisé\s: au moins 9\d\s%", page.locator(".figure").text_content() or "")
        assert reader.is_whole()
        for path in ("ecole", "", "l/lecon-0", "accessibilite", "api/v1/status", "api/v1/lessons"):
            reader.open(school.home + path)
            told += page.content()
    school.running.stop()  # and has written down all that it ever will
    kept = [path for path in school.library.rglob("*") if path.is_file() and "content" not in path.parts]
    assert any(path.name == "index.sqlite" for path in kept)
    texts = {str(path): path.read_bytes() for path in (*kept, school.running.log)} | {"its pages": told.encode()}
    for where, text in texts.items():
        for trace in (*readers, agent):
            assert trace.encode() not in text, f"{where} knows {trace}"


# What changes on a page while it is open


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with on_stage(node_in_every_state()) as staged:
        yield staged


@pytest.fixture
def page(stage: Stage, browser: Browser) -> Iterator[Page]:
    """A page about a lesson on its way, whose document must stay the same."""
    fresh = {"state": State.FETCHING, "bytes_have": 4_000, "obstacle": None, "reason": None, "peer_bytes": 4_000}
    stage.do(stage.node.alter, "sciences-6e-eau", **fresh)
    context = browser.new_context(locale="fr-FR")
    opened = context.new_page()
    opened.goto(f"{stage.home}l/sciences-6e-eau")
    opened.evaluate("window.sameDocument = true")
    expect(opened.locator("#freeze")).to_be_visible()  # it hears from the node
    yield opened
    assert opened.evaluate("window.sameDocument")
    context.close()


def test_a_lessons_progress_moves_and_ends_with_ready(stage: Stage, page: Page) -> None:
    bar = page.get_by_role("progressbar", name="Part déjà arrivée de « Le cycle de l’eau »")
    expect(bar).to_have_js_property("value", 4_000)
    stage.do(stage.node.alter, "sciences-6e-eau", bytes_have=9_990)
    expect(bar).to_have_js_property("value", 9_990)
    expect(page.locator("[data-words]")).to_have_text("En route : 99\u00a0%")
    stage.do(stage.node.alter, "sciences-6e-eau", state=State.COMPLETE, bytes_have=10_000)
    expect(page.locator("[data-words]")).to_have_text("Prête")
    expect(page.locator("#live")).to_have_text("Le cycle de l’eau : prête")
    expect(page.locator("#freeze")).to_be_hidden()


def test_what_a_lesson_waits_for_appears_and_goes_and_is_said_aloud(stage: Stage, page: Page) -> None:
    expect(page.locator("#standing")).to_contain_text("La leçon peut déjà être ouverte")
    stage.do(stage.node.alter, "sciences-6e-eau", obstacle=Obstacle.NOBODY, reason="nobody has it")
    expect(page.locator("#standing .notice")).to_contain_text("Personne de joignable")
    expect(page.locator("#live")).to_contain_text("Personne de joignable")
    stage.do(stage.node.alter, "sciences-6e-eau", state=State.FAILED, obstacle=None, reason="the disk is broken")
    expect(page.locator("#standing .reason")).to_have_text("the disk is broken")
    stage.do(stage.node.alter, "sciences-6e-eau", state=State.FETCHING, reason=None)
    expect(page.locator("#standing .notice")).to_have_count(0)
    expect(page.locator("#standing")).to_contain_text("La leçon peut déjà être ouverte")


def test_where_a_lesson_comes_from_is_kept_fresh(stage: Stage, page: Page) -> None:
    expect(page.locator("#source")).to_contain_text("foyers : 100")
    stage.do(stage.node.alter, "sciences-6e-eau", peer_bytes=6_000, origin_bytes={"alone": 2_000}, bytes_have=8_000)
    expect(page.locator("#source")).to_contain_text("foyers : 75\u00a0%, du serveur de l’éditeur : 25\u00a0%")


def test_how_long_it_may_take_still_is_said_when_it_can_be_known(stage: Stage, page: Page) -> None:
    assert page.locator("[data-left]").text_content() == ""
    for step in range(6):
        stage.do(stage.node.alter, "sciences-6e-eau", bytes_have=4_000 + 15 * (step + 1))
        page.wait_for_timeout(1_000)  # what it goes by is how much comes in some seconds
    # 15 bytes a second, and 5,910 to come: six or seven minutes
    expect(page.locator("[data-left]")).to_have_text(re.compile(r", encore [5-9]\u00a0min"))


def test_who_is_disturbed_by_it_stops_the_page(stage: Stage, page: Page) -> None:
    page.get_by_role("button", name="Suspendre le direct").click()
    stage.do(stage.node.alter, "sciences-6e-eau", bytes_have=5_000)
    page.wait_for_timeout(500)
    assert page.locator("progress").evaluate("bar => bar.value") == 4_000
    page.get_by_role("button", name="Reprendre le direct").click()
    expect(page.locator("progress")).to_have_js_property("value", 5_000)


def test_a_lesson_that_is_withdrawn_while_somebody_looks_says_so(stage: Stage, browser: Browser) -> None:
    with on_stage(node_in_every_state()) as other, visit(browser, locale="fr-FR") as reader:
        reader.open(f"{other.home}l/maths-6e-fractions")
        other.do(other.node.alter, "maths-6e-fractions", state=State.WITHDRAWN, reason="Une date est fausse.")
        expect(reader.page.locator("h1")).to_have_text("Cette leçon a été retirée")
        expect(reader.page.locator("main")).to_contain_text("Une date est fausse.")


def forget(stage: Stage, *lessons: str) -> None:
    """Have lessons vanish: no list has them any more, and nothing of them is here."""

    def gone() -> None:
        for lesson in lessons:
            del stage.node.views[LessonId(lesson)]
        stage.node.tell()

    stage.do(gone)


def test_a_lesson_that_vanishes_leaves_the_list_with_the_headings_above_it(browser: Browser) -> None:
    with on_stage(node_in_every_state()) as stage, visit(browser, locale="fr-FR") as reader:
        page = reader.page
        reader.open(stage.home)
        expect(page.locator("#freeze")).to_be_visible()
        page.locator('[data-lesson="anglais-5e-school"] a').first.focus()
        forget(stage, "anglais-5e-school", "maths-6e-fractions")
        expect(page.get_by_role("heading", name="My school")).to_have_count(0)
        expect(page.get_by_role("heading", name="Langues vivantes")).to_have_count(0)
        expect(page.get_by_role("heading", name="Les fractions")).to_have_count(0)
        expect(page.get_by_role("heading", name="Les angles").first).to_be_visible()
        assert page.evaluate("document.activeElement.id") == "main"
        assert reader.is_whole()


def test_the_page_of_a_lesson_that_vanishes_says_so_even_if_it_did_so_while_nobody_looked(browser: Browser) -> None:
    for is_paused in (False, True):
        with on_stage(node_in_every_state()) as stage, visit(browser, locale="fr-FR") as reader:
            reader.open(f"{stage.home}l/sciences-6e-eau")
            expect(reader.page.locator("#freeze")).to_be_visible()
            if is_paused:
                reader.page.locator("#freeze").click()
            forget(stage, "sciences-6e-eau")
            if is_paused:
                reader.page.locator("#freeze").click()
            expect(reader.page.locator("h1")).to_have_text("Cette leçon n’est pas connue ici")


def test_all_that_arrive_together_are_said_aloud_each_in_its_own_language(browser: Browser) -> None:
    with on_stage(node_in_every_state()) as stage, visit(browser, locale="fr-FR") as reader:
        reader.open(stage.home)
        expect(reader.page.locator("#freeze")).to_be_visible()

        def arrive() -> None:
            for lesson in ("sciences-6e-eau", "anglais-5e-school"):
                stage.node.alter(lesson, state=State.COMPLETE)

        stage.do(arrive)
        live = reader.page.locator("#live")
        expect(live).to_contain_text("Le cycle de l’eau : prête")
        expect(live).to_contain_text("My school : prête")
        expect(live.locator('[lang="en"]')).to_have_text("My school")


def test_a_list_that_was_empty_shows_its_first_lessons_by_itself_and_is_not_loaded_for_others(browser: Browser) -> None:
    node = node_in_every_state()
    corrected = node.views.pop(LessonId("maths-6e-corrige"))
    with on_stage(node) as stage, visit(browser, locale="fr-FR") as reader:
        reader.open(f"{stage.home}?role=teacher")
        reader.page.evaluate("window.sameDocument = true")
        reader.page.wait_for_timeout(9_000)  # it looks every four seconds
        assert reader.page.evaluate("window.sameDocument")  # there are lessons for pupils, which it does not show
        stage.do(node.views.__setitem__, corrected.manifest.id, corrected)
        expect(reader.page.get_by_role("heading", name="Corrigé")).to_be_visible(timeout=10_000)


def test_a_page_that_waits_stays_when_too_many_ask_and_asks_again_when_it_may(browser: Browser) -> None:
    with on_stage(node_in_every_state()) as stage:
        context = browser.new_context(locale="fr-FR")
        page = context.new_page()
        page.clock.install()
        page.goto(f"{stage.home}lessons/emc-6e-droits/index.html")
        expect(page.locator("#again")).to_be_visible()
        asked: list[str] = []

        def too_many(route: Route) -> None:
            asked.append(route.request.url)
            route.fulfill(status=429, headers={"Retry-After": "7"}, body="Too many requests")

        page.route("**/index.html", too_many)
        for passed_s, times in ((61, 1), (5, 1), (3, 2)):
            page.clock.run_for(passed_s * 1000)
            page.wait_for_timeout(300)
            assert len(asked) == times
        expect(page.locator("#again")).to_be_visible()
        context.close()


def test_a_lesson_that_is_gone_while_somebody_looks_leaves_the_list(browser: Browser) -> None:
    with on_stage(node_in_every_state()) as stage, visit(browser, locale="fr-FR") as reader, visit(browser) as other:
        reader.open(f"{stage.home}?q=fractions")
        other.open(f"{stage.home}l/maths-6e-fractions")
        expect(reader.page.locator("[data-lesson=maths-6e-fractions]")).to_have_count(1)
        forget(stage, "maths-6e-fractions")
        expect(reader.page.locator("[data-lesson=maths-6e-fractions]")).to_have_count(0)
        expect(other.page.locator("[data-lesson]")).to_have_count(0)  # the page says now that there is none


def test_the_first_lesson_of_a_node_shows_by_itself(browser: Browser) -> None:
    node = node_in_every_state()
    views = dict(node.views)
    node.views.clear()
    with on_stage(node) as stage, visit(browser, locale="fr-FR") as reader:
        reader.open(stage.home)
        expect(reader.page.locator(".count")).to_contain_text("La liste est peut-être encore en route")
        stage.do(stage.node.views.update, views)
        expect(reader.page.locator(".card").first).to_be_visible(timeout=10_000)


def test_a_page_that_waits_shows_the_lesson_as_soon_as_it_can(browser: Browser) -> None:
    with on_stage(node_in_every_state()) as stage:
        context = browser.new_context(locale="fr-FR")
        page = context.new_page()
        lesson = f"http://sciences-6e-eau.localhost:{stage.port}/index.html"
        page.goto(lesson, timeout=40_000)  # says after 20 s that it has not come
        expect(page.locator("h1")).to_have_text("La leçon est en route")
        expect(page.locator("#again")).to_be_visible()
        stage.do(stage.node.arrive, "sciences-6e-eau", "index.html", 10_000)
        expect(page.locator("h1")).to_have_text("Les fractions", timeout=10_000)
        context.close()


def test_the_catalogue_finds_a_lesson_however_it_is_typed(stage: Stage, browser: Browser) -> None:
    with visit(browser, locale="fr-FR") as reader:
        for typed in ("L'EAU cycle", "l’eau", "sciences et TECHNOLOGIE eau"):
            reader.open(stage.home)
            reader.page.get_by_label("Mots à chercher").fill(typed)
            reader.page.get_by_role("button", name="Afficher").click()
            expect(reader.page.locator(".card h4")).to_have_text(["Le cycle de l’eau"])
        reader.page.get_by_label("Mots à chercher").fill("zèbre")
        reader.page.get_by_role("button", name="Afficher").click()
        expect(reader.page.locator(".count")).to_contain_text("Aucune leçon ne correspond")
        assert reader.is_whole()
