"""A teacher's link in real Chromium: the page of links over HTTPS in *public* address space, nodes on loopback.

What Chromium does about the border between them (Local Network Access) depends on the address space alone, which
`--ip-address-space-overrides` sets for the two servers that stand for the Internet.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trustme
from playwright.sync_api import BrowserContext, Page, Playwright, expect

from edgeshare.publish.linkpage import page_files, spread

from .support import (
    PROJECT,
    QUIET_CHROMIUM,
    Measured,
    Node,
    Origin,
    Site,
    edgeshare,
    free_port,
    needed,
    needed_library,
    open_site,
    until,
)

pytestmark = pytest.mark.whole

LESSON = "maths-6e-fractions"
OTHER = "histoire-6e-premieres-ecritures"
EXAMPLES = PROJECT / "manifests" / "lessons"
ORIGIN = "lecons.example.test"
STRANGER = "ailleurs.example.test"
# What playwright switches off and readers have: windows open on a click alone, and a page behind another tab is slow.
UNLIKE_A_READERS = (
    "--disable-popup-blocking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)


@attrs.frozen
class World:
    """A publisher's server, and a stranger's, each under its name on the Internet."""

    site: Site
    servers: Origin
    port: int  # of both, by HTTPS
    playwright: Playwright

    @property
    def origin(self) -> str:
        return f"https://{ORIGIN}:{self.port}/"

    def node(self) -> Node:
        """A home's node that has both lessons, where the page of links looks for it."""
        lines = {
            "origins": f'origins = ["{self.servers.url}", "{self.origin}"]',
        }
        node = self.site.node("home", "home", self.servers.url, lines)
        until("the home has the lessons", lambda: node.has(LESSON, OTHER), 60.0)
        return node

    def look_for_node_at(self, port: int) -> None:
        """Have the page of links ask this machine's node at `port`, as nobody but a node may have the usual one."""
        for name, content in page_files(f"http://localhost:{port}").items():
            (self.site.repository / "o" / name).write_bytes(content)

    def asked_by_browsers(self) -> list[str]:
        """The paths that the origin's log has, but for those that only nodes ask for."""
        paths = [line.split('"')[1].split()[1] for line in self.site.nginx_log()]
        return [path for path in paths if path.startswith(("/o", "/content/")) or not path.count("/")]


def _world(site: Site, playwright: Playwright) -> World:
    port = free_port()
    authority = trustme.CA()
    authority.issue_cert(ORIGIN, STRANGER).private_key_and_cert_chain_pem.write_to_path(site.folder / "both.pem")
    tls = f"ssl_certificate {site.folder}/both.pem; ssl_certificate_key {site.folder}/both.pem;"
    stranger = site.folder / "stranger"
    stranger.mkdir()
    (stranger / "index.html").write_text("<!doctype html><title>Ailleurs</title><button>Jouer</button>")
    another = f"server {{ listen 127.0.0.1:{port} ssl; server_name {STRANGER}; {tls} root {stranger}; }}"
    more = {
        "client_max_body_size 1k;": f"client_max_body_size 1k; listen 127.0.0.1:{port} ssl default_server; {tls}",
        "limit_conn_status 503;": f"limit_conn_status 503; {another}",
    }
    return World(site, site.origin(*(EXAMPLES / lesson for lesson in (LESSON, OTHER)), more=more), port, playwright)


@pytest.fixture(scope="module")
def inhabited(playwright: Playwright) -> Iterator[tuple[World, Node]]:
    """A world that several tests share, and the node in it; they leave its servers running."""
    with tempfile.TemporaryDirectory(prefix="edgeshare-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with open_site(folder) as opened:
            world = _world(opened, playwright)
            yield world, world.node()


@contextmanager
def chromium(world: World, profile: Path) -> Iterator[BrowserContext]:
    """A browser with a memory, `profile`."""
    names = ", ".join(f"MAP {name} 127.0.0.1" for name in (ORIGIN, STRANGER))
    arguments = [
        *QUIET_CHROMIUM,
        "--ignore-certificate-errors",  # of the throw-away certificate, also where a service worker is fetched
        f"--ip-address-space-overrides=127.0.0.1:{world.port}=public",
        f"--host-resolver-rules={names}, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1",
    ]
    program = needed("chromium")
    needed_library("libatomic.so.1")  # playwright's Node.js is linked with it
    context = world.playwright.chromium.launch_persistent_context(
        profile,
        executable_path=program,
        headless=True,
        args=arguments,
        ignore_default_args=UNLIKE_A_READERS,
        locale="fr-FR",
    )
    yield context
    context.close()


def click(page: Page, what: str = ".go button") -> tuple[Page, float]:
    """The window that a click opens, and when the page felt the click, in seconds since 1970."""
    page.evaluate("addEventListener('click', () => { window.clicked = Date.now(); }, {capture: true, once: true})")
    with page.expect_popup() as opened:
        page.click(what)
    return opened.value, page.evaluate("clicked") / 1000


def goes_to(page: Page, url: str) -> None:
    """Wait until the window is at an address that begins so; on its way it may have been where nobody answers.

    Playwright takes such a stop for a failure of what it waits for, so this looks, every 20 ms.
    """
    deadline = time.monotonic() + 10
    while not page.url.startswith(url):
        assert time.monotonic() < deadline, f"at {page.url}, not at {url}"
        page.wait_for_timeout(20)


def shown_after(page: Page, clicked: float) -> float:
    """Seconds from a click until the document that the window shows now was read, by the browser's own clock."""
    page.wait_for_load_state("domcontentloaded")
    moment: Any = page.evaluate("performance.timeOrigin + performance.getEntriesByType('navigation')[0].domInteractive")
    return float(moment) / 1000 - clicked


def permission(page: Page) -> Any:
    """What the page may do about this machine; `prompt` is: nothing, before it has asked."""
    return page.evaluate("navigator.permissions.query({name: 'local-network-access'}).then(found => found.state)")


def said(page: Page, words: str) -> None:
    """Wait until the page of links says so."""
    expect(page.get_by_role("status")).to_contain_text(words, timeout=10_000)


def link(world: World, lesson: str, *options: str) -> str:
    return edgeshare("publish", "link", world.site.repository, lesson, "--origin", world.origin, *options).strip()


def test_a_teachers_link_opens_the_lesson_at_home_with_one_click_and_no_question(
    inhabited: tuple[World, Node], tmp_path: Path, measured: Measured
) -> None:
    world, node = inhabited
    world.look_for_node_at(node.port)
    asked_before = len(world.asked_by_browsers())
    with chromium(world, tmp_path / "profile") as browser:
        page = browser.new_page()
        page.goto(link(world, LESSON))
        page.evaluate(
            """url => {
                const plain = document.createElement("a");
                Object.assign(plain, {id: "plain", href: url, target: "_blank", textContent: "sans détour"});
                document.body.append(plain);
            }""",
            node.url(LESSON),
        )
        took, plain = list[float](), list[float]()
        for _ in range(5):
            for where, times in (("#plain", plain), (".go button", took)):
                lesson, clicked = click(page, where)
                goes_to(lesson, node.url(LESSON, "index.html"))
                times.append(shown_after(lesson, clicked))
                assert lesson.evaluate("window.opener") is None
                expect(lesson.get_by_role("heading", level=1)).to_be_visible()
                lesson.close()
            said(page, "La leçon est ouverte dans un autre onglet.")
        assert permission(page) == "prompt"
        for name, times in (("the link", took), ("a plain link to the lesson", plain)):
            measured(f"from the click to the lesson, {name}: {', '.join(f'{each * 1000:.0f}' for each in times)} ms")
        # The quickest, as the others say what else this machine does. It shows one document more than a plain link;
        # where even that takes a sixth of a second, the rest is not the link's doing.
        assert min(took) <= max(0.5, 3 * min(plain))

        # A link to one of its files leads there, and one that somebody tampered with nowhere.
        page.goto(link(world, LESSON, "--path", "droite.html"))
        lesson, _ = click(page)
        goes_to(lesson, node.url(LESSON, "droite.html"))
        page.goto(f"{world.origin}o#{LESSON}/../{OTHER}")
        said(page, "Ce lien ne nomme aucune leçon.")
        assert not page.is_visible(".go button")
        page.evaluate(f"location.hash = '{LESSON}'")  # the same page, mended
        expect(page.locator(".go button")).to_be_visible()
        expect(page.get_by_role("status")).to_be_empty()
    asked = world.asked_by_browsers()[asked_before:]
    assert not any("/content/" in path or LESSON in path for path in asked)


def test_a_strangers_page_hears_nothing_from_the_node(inhabited: tuple[World, Node], tmp_path: Path) -> None:
    world, node = inhabited
    asks = f"""() => {{
        window.heard = [];
        addEventListener("message", event => heard.push(event.data));
        document.querySelector("button").onclick = () => window.open("http://localhost:{node.port}/open/{LESSON}");
    }}"""
    with chromium(world, tmp_path / "profile") as browser:
        heard = {}
        for name in (STRANGER, ORIGIN):
            page = browser.new_page()
            page.goto(f"https://{name}:{world.port}/{'' if name == STRANGER else 'o'}")
            if name == ORIGIN:  # the same page, at an address that the node's config has
                page.evaluate("document.body.innerHTML = '<button>Jouer</button>'")
            page.evaluate(asks)
            lesson, _ = click(page, "button")
            goes_to(lesson, node.url(LESSON, "index.html"))
            assert lesson.evaluate("window.opener") is None
            page.wait_for_timeout(300)
            heard[name] = page.evaluate("heard")
        assert heard == {STRANGER: [], ORIGIN: [{"edgeshare": "here", "lesson": LESSON, "state": "complete"}]}


def test_without_a_node_the_origins_copy_opens_and_without_the_origin_its_page_still_helps(
    site: Site, playwright: Playwright, tmp_path: Path, measured: Measured
) -> None:
    """Nothing listens where a node would; then something does that never answers."""
    world = _world(site, playwright)
    with chromium(world, tmp_path / "profile") as browser, socket.socket() as silent:
        world.look_for_node_at(free_port())
        page = browser.new_page()
        took = list[float]()
        for lesson in (LESSON, OTHER):
            page.goto(link(world, lesson))
            copy, clicked = click(page)
            goes_to(copy, f"{world.origin}content/")
            took.append(shown_after(copy, clicked))
            said(page, "depuis le serveur")
            if lesson == LESSON:  # the other one begins with a PDF, which has no scripts of its own
                assert copy.evaluate("self.origin") == "null"  # it shares nothing with the page of links
                expect(copy.get_by_role("heading", level=1)).to_be_visible()
        measured(f"no node: the origin's copy after {', '.join(f'{each:.2f}' for each in took)} s")
        assert min(took) <= 2.0
        asked = world.asked_by_browsers()
        others = {path for path in asked if not path.startswith("/content/")}
        assert others == {"/o/index.html", "/o/lessons.json", "/o/worker.js"}
        assert not any(lesson in path for path in asked for lesson in (LESSON, OTHER))
        assert permission(page) == "prompt"

        # Of many lessons each file of the index has some; page and publisher find the same one.
        folder = world.site.repository / "o"
        known = json.loads((folder / "lessons.json").read_bytes())["lessons"]
        (folder / "lessons.json").write_text('{"digits": 2, "lessons": {}}')
        (folder / f"lessons-{spread(OTHER)[:2]}.json").write_text(json.dumps({"lessons": {OTHER: known[OTHER]}}))
        page.evaluate("fetch('/o/lessons.json', {cache: 'reload'}).then(answer => answer.text())")
        copy, _ = click(page)
        goes_to(copy, f"{world.origin}content/{known[OTHER][0]}/")
        assert f"/o/lessons-{spread(OTHER)[:2]}.json" in world.asked_by_browsers()

        # A program that takes connections and says nothing costs no more.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        page.evaluate(
            "address => localStorage.setItem('edgeshare.last', address)", f"http://localhost:{silent.getsockname()[1]}"
        )
        copy, clicked = click(page)
        goes_to(copy, f"{world.origin}content/")
        measured(f"a node that hangs: the origin's copy after {(hung := shown_after(copy, clicked)):.2f} s")
        assert hung <= 3.0

        # The origin is gone: the page is still there, for a lesson that was never asked for too.
        world.servers.nginx.stop()
        later = browser.new_page()
        later.goto(link(world, OTHER))
        expect(later.get_by_role("listitem")).to_have_count(3)
        tab, _ = click(later)
        said(later, "Ni cet ordinateur ni le serveur ne répondent.")
        assert tab.is_closed()
        assert not [each.url for each in browser.pages if each.url.startswith("chrome-error:")]


def test_the_first_link_in_a_learning_platform_asks_no_server(inhabited: tuple[World, Node], tmp_path: Path) -> None:
    world, node = inhabited
    snippet = link(world, LESSON, "--html", "--node", node.home)
    (world.site.folder / "stranger" / "cours.html").write_text(
        f'<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">{snippet}'
    )
    with chromium(world, tmp_path / "profile") as browser:
        platform = browser.new_page()
        platform.goto(f"https://{STRANGER}:{world.port}/cours.html")
        platform.wait_for_timeout(300)  # the browser asks for a picture of the site, too
        before = len(world.site.nginx_log())
        lesson, _ = click(platform, "a >> nth=0")
        goes_to(lesson, node.url(LESSON, "index.html"))
        assert lesson.evaluate("window.opener") is None
        asked = [line for line in world.site.nginx_log()[before:] if "/metadata/" not in line]  # the node's own
        assert asked == []
        page, _ = click(platform, "a >> nth=1")
        goes_to(page, link(world, LESSON))


def test_a_schools_node_is_asked_when_the_reader_has_given_its_address(
    inhabited: tuple[World, Node], tmp_path: Path
) -> None:
    world, node = inhabited
    world.look_for_node_at(free_port())
    with chromium(world, tmp_path / "profile") as browser:
        page = browser.new_page()
        page.goto(link(world, LESSON))
        page.get_by_label("Si l’école en a une autre").fill(f"127.0.0.1:{node.port}")
        page.get_by_role("button", name="Retenir").click()
        said(page, "Adresse retenue")
        for _ in range(2):  # the second time it is asked first
            lesson, _ = click(page)
            goes_to(lesson, node.url(LESSON, "index.html"))
            said(page, "La leçon est ouverte dans un autre onglet.")
        assert page.evaluate("localStorage.getItem('edgeshare.last')") == f"http://127.0.0.1:{node.port}"


def test_a_class_reads_the_origins_copy_at_once_while_nodes_take_turns(inhabited: tuple[World, Node]) -> None:
    world, _ = inhabited
    index = httpx.get(f"{world.servers.url}o/lessons.json").json()
    content, start, *_ = index["lessons"][LESSON]
    copy = f"{world.servers.url}content/{content}/{start}"
    with httpx.Client() as http:
        pupils = [http.get(copy, headers={"Accept-Language": "fr-FR"}).status_code for _ in range(35)]
        nodes = [http.get(copy).status_code for _ in range(3)]
    assert pupils == [200] * 35
    assert nodes[1:] == [429, 429]
