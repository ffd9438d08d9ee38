"""A hostile lesson in Chromium: what it tries (`hostile/attack.js`) fails, one by one, wherever it is opened.

The ways to open it are a lesson's own origin at home, the sandbox below our own address, the sandbox at the second port
on a LAN, and its own origin below a school's domain. The same script from a server that guards nothing is the proof
that what is refused here would have succeeded, and that the listener hears it.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cached_property, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page

from edgeshare.view import State

from . import staged
from .support import Origin, Site, free_port, needed, open_site, until

pytestmark = pytest.mark.whole

HOSTILE = Path(__file__).with_name("hostile")
LAN, DOMAIN, REBOUND = "lan.example", "lecons.example", "evil.example"  # all of them are this machine, to Chromium
FORMS = ("at its own origin", "in the sandbox", "at the second port", "below the domain")
UNGUARDED = "at the stranger's"
KEEPING = ("at its own origin", "below the domain")  # where a lesson has storage

READS = (
    *("fetch another's file", "fetch it without CORS", "ask by XMLHttpRequest", "run its script", "import its module"),
    *("run its script in a worker", "show its picture", "use its style sheet", "look into a frame of it"),
    *("look into a window of it", "read its localStorage", "read its sessionStorage", "read its databases"),
    *("read its caches", "read its cookies", "speak to it on a channel"),
)
NODE = (
    *("fetch the API", "fetch the API from where the page came", "listen to events", "post to the API"),
    *("post to the API unread", "post where the page came from", "fetch the metrics", "fetch the catalogue"),
    *("frame the catalogue", "open the catalogue and look into it", "run the catalogue's script"),
    *("fetch the control socket", "frame the control socket", "a WebSocket to the control socket"),
    "a WebSocket to the node",
)
WORKERS = (
    *("a service worker for itself", "a service worker for its whole origin", "a service worker for another lesson"),
    *("a service worker from another lesson", "a service worker without a file"),
)
CALLS = (
    *(
        "fetch",
        "xhr",
        "beacon",
        "events",
        "websocket",
        "picture",
        "script",
        "module",
        "style",
        "import",
        "font",
        "film",
    ),
    *("sound", "subtitles", "frame", "object", "embed", "worker", "fetch-in-worker", "fetch-in-srcdoc"),
    *("picture-in-srcdoc", "fetch-in-data", "leave-in-srcdoc", "prefetch", "preload", "modulepreload"),
    *("speculation-prefetch", "speculation-prerender", "ping", "form", "window", "window-on-an-error"),
    "window-on-an-icon",
)
LEAVES = ("location", "replace", "link", "refresh", "form", "new window")


class Listener:
    """What a lesson could speak to: TCP and UDP on ports of their own, and all that they hear."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.datagrams = 0
        self.turns = 0  # connections to the port of the TURN server
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.send_response(200)
                self.send_header("access-control-allow-origin", "*")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            do_POST = do_HEAD = do_OPTIONS = do_GET  # noqa: N815 - so http.server finds them

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._turn = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(type=socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        for work in (self._server.serve_forever, self._count_turns, self._count_datagrams):
            threading.Thread(target=work, daemon=True).start()

    @property
    def aims(self) -> dict[str, Any]:
        return {
            "listener": f"http://127.0.0.1:{self._server.server_port}/",
            "tcp": self._turn.getsockname()[1],
            "udp": self._udp.getsockname()[1],
        }

    def heard(self) -> dict[str, Any]:
        """All of it until now; what comes later is another's."""
        paths, self.paths = self.paths, []
        counts = {"datagrams": self.datagrams, "turns": self.turns}
        self.datagrams = self.turns = 0
        return {"calls": {path.partition("?")[0].removeprefix("/callout/") for path in paths}, **counts}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._turn.close()
        self._udp.close()

    def _count_turns(self) -> None:
        try:
            while True:
                self._turn.accept()[0].close()
                self.turns += 1
        except OSError:
            pass

    def _count_datagrams(self) -> None:
        try:
            while self._udp.recv(2048):
                self.datagrams += 1
        except OSError:
            pass


@attrs.frozen
class Opened:
    """What became of the attempts in one form."""

    outcome: dict[str, str]
    heard: dict[str, Any]


class Stage:
    """A node that holds a hostile lesson and its victim, a listener, a stranger's server, and a browser."""

    def __init__(
        self, site: Site, origin: Origin, browser: Browser, listener: Listener, stranger: int, *, second_port: int
    ) -> None:
        self.browser, self.listener, self.second_port = browser, listener, second_port
        lan = f'allowed_hosts = ["{LAN}"]\nlessons_listen = "127.0.0.1:{second_port}"\nlesson_domain = "{DOMAIN}"'
        self.node = site.node("school", "school", origin.url, {"shim.allowed_hosts": lan})
        until("the lessons are here", lambda: self.node.has("hostile", "victim"), 30.0)
        self.stranger = f"http://evil.localhost:{stranger}/"  # a secure context, so that it is refused nothing
        self._opened: dict[str, Opened] = {}
        self._left: dict[str, set[str]] = {}

    def url(self, lesson: str, form: str) -> str:
        match form:
            case "at its own origin":
                return f"http://{lesson}.localhost:{self.node.port}/"
            case "in the sandbox":
                return f"http://localhost:{self.node.port}/lessons/{lesson}/"
            case "at the second port":
                return f"http://{LAN}:{self.second_port}/lessons/{lesson}/"
            case "below the domain":
                return f"http://{lesson}.{DOMAIN}:{self.second_port}/"
        return f"{self.stranger}{lesson}/"

    def attack(self, form: str, **more: str) -> str:
        aims = {
            "victim": self.url("victim", form),
            "own": self.url("hostile", form),
            "home": f"http://{LAN if form == 'at the second port' else 'localhost'}:{self.node.port}/",
            "socket": str(self.node.library / "control.sock"),
            **self.listener.aims,
            **more,
        }
        return f"{self.url('hostile', form)}attack.html#{quote(json.dumps(aims))}"

    def opened(self, form: str) -> Opened:
        """All attempts in one form, made once, in a browser where the victim is open and has kept its secret."""
        if form not in self._opened:
            with self.reader() as context:
                victim = context.new_page()
                victim.goto(self.url("victim", form))
                victim.wait_for_function("window.kept")
                page = context.new_page()
                self.listener.heard()
                page.goto(self.attack(form))
                page.wait_for_function("window.outcome", timeout=60_000)
                time.sleep(0.5)  # for what is still on its way to the listener
                self._opened[form] = Opened(page.evaluate("window.outcome"), self.listener.heard())
        return self._opened[form]

    @cached_property
    def unguarded(self) -> Opened:
        """The same from a server that guards nothing, where the victim is of the same origin."""
        return self.opened(UNGUARDED)

    def left(self, form: str) -> set[str]:
        """What the listener hears of pages that leave, each in one of the ways, all at once."""
        if form not in self._left:
            with self.reader() as context:
                self.listener.heard()
                for way in LEAVES:
                    context.new_page().goto(self.attack(form, leave=way), wait_until="commit")
                time.sleep(1.0)
                self._left[form] = self.listener.heard()["calls"]
        return self._left[form]

    def reader(self) -> BrowserContext:
        return self.browser.new_context()


@pytest.fixture(scope="module")
def stage(browser: Browser) -> Iterator[Stage]:
    rules = f"MAP {LAN} 127.0.0.1, MAP *.{DOMAIN} 127.0.0.1, MAP {REBOUND} 127.0.0.1, MAP * ~NOTFOUND"
    here = "EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1"
    # Windows that open unasked are the worse case, and so are addresses of this machine in WebRTC.
    free = ["--disable-popup-blocking", "--disable-features=WebRtcHideLocalIpsWithMdns"]
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", *free]
    flags.append(f"--host-resolver-rules={rules}, {here}")
    listener = Listener()
    with tempfile.TemporaryDirectory(prefix="edgeshare-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        lessons = [_lesson(folder / each) for each in ("hostile", "victim")]
        handler = partial(_Quiet, directory=str(folder))
        stranger = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        stranger.daemon_threads = True
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        with open_site(folder / "site") as site:
            chromium = browser.browser_type.launch(executable_path=needed("chromium"), headless=True, args=flags)
            try:
                origin = site.origin(*lessons)
                yield Stage(site, origin, chromium, listener, stranger.server_port, second_port=free_port())
            finally:
                chromium.close()
        stranger.shutdown()
        stranger.server_close()
    listener.close()


def failed(outcome: str) -> bool:
    return outcome == "nothing" or outcome.startswith("refused: ")


@pytest.mark.parametrize("form", FORMS)
def test_every_attempt_is_known_and_was_made(stage: Stage, form: str) -> None:
    calls = {f"call: {each}" for each in (*CALLS, "webrtc")}
    assert stage.opened(form).outcome.keys() == {*READS, *NODE, *WORKERS, *calls}


@pytest.mark.parametrize("attempt", READS)
@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_lesson_learns_nothing_of_another(stage: Stage, form: str, attempt: str) -> None:
    assert failed(stage.opened(form).outcome[attempt]), stage.opened(form).outcome[attempt]


@pytest.mark.parametrize("attempt", NODE)
@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_lesson_reaches_neither_our_pages_nor_the_machine(stage: Stage, form: str, attempt: str) -> None:
    assert failed(stage.opened(form).outcome[attempt]), stage.opened(form).outcome[attempt]


@pytest.mark.parametrize("attempt", WORKERS)
@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_lesson_sets_up_no_worker_that_stays(stage: Stage, form: str, attempt: str) -> None:
    assert failed(stage.opened(form).outcome[attempt]), stage.opened(form).outcome[attempt]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_lesson_cannot_call_out(stage: Stage, form: str, call: str) -> None:
    assert call not in stage.opened(form).heard["calls"]


@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_lesson_opens_not_even_a_connection(stage: Stage, form: str) -> None:
    assert stage.opened(form).heard == {"calls": set(), "datagrams": 0, "turns": 0}


@pytest.mark.parametrize("way", LEAVES)
@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_lesson_cannot_leave_with_what_it_knows(stage: Stage, form: str, way: str) -> None:
    assert f"leave-{way.replace(' ', '-')}" not in stage.left(form)


@pytest.mark.parametrize("call", CALLS)
def test_without_our_guards_the_same_calls_are_heard(stage: Stage, call: str) -> None:
    assert call in stage.unguarded.heard["calls"]


def test_without_our_guards_the_same_attempts_succeed(stage: Stage) -> None:
    heard, outcome = stage.unguarded.heard, stage.unguarded.outcome
    assert heard["datagrams"] >= 1
    assert heard["turns"] >= 1
    same_origin = [attempt for attempt in READS if attempt != "read its sessionStorage"]  # which is each tab's own
    assert [attempt for attempt in same_origin if failed(outcome[attempt])] == []
    assert stage.left(UNGUARDED) >= {f"leave-{way.replace(' ', '-')}" for way in LEAVES}


def test_the_node_is_as_it_was(stage: Stage) -> None:
    for form in FORMS:
        stage.opened(form)
    states = {each["id"]: each["state"] for each in stage.node.api("lessons")}
    assert states == {"hostile": "complete", "victim": "complete"}
    assert "error" not in stage.node.running.tail().lower()


@pytest.mark.parametrize("form", KEEPING)
def test_where_a_lesson_has_its_own_origin_it_keeps_answers(stage: Stage, form: str) -> None:
    with stage.reader() as context:
        page = _victim(stage, context, form)
        kept = page.evaluate("kept")
        assert {kept[each] for each in ("localStorage", "sessionStorage", "cookie", "database")} == {"kept"}
        page.evaluate("localStorage.score = '7'")
        page.close()
        again = _victim(stage, context, form)
        assert again.evaluate("localStorage.score") == "7"
        other = context.new_page()
        other.goto(stage.url("hostile", form))
        assert other.evaluate("localStorage.length") == 0


@pytest.mark.parametrize("form", ["in the sandbox", "at the second port"])
def test_in_a_sandbox_a_lesson_shows_what_is_its_own_and_keeps_nothing(stage: Stage, form: str) -> None:
    with stage.reader() as context:
        page = _victim(stage, context, form)
        assert page.evaluate("window.SECRET") == "4711"
        assert page.evaluate("document.images[0].naturalWidth") > 0
        assert page.evaluate("origin") == "null"
        kept = page.evaluate("kept")
        assert {kept[each] for each in ("localStorage", "sessionStorage", "cookie", "database")} == {"SecurityError"}


def test_a_name_that_was_made_to_lead_here_gets_nothing(stage: Stage) -> None:
    seen: list[tuple[int, str]] = []
    with stage.reader() as context:
        page = context.new_page()
        page.on("response", lambda it: seen.append((it.status, it.headers["content-length"])))
        for port in (stage.node.port, stage.second_port):
            for path in ("", "api/v1/lessons", "lessons/victim/secret.json"):
                with pytest.raises(
                    Error, match="ERR_HTTP_RESPONSE_CODE_FAILURE"
                ):  # what Chromium calls an empty answer
                    page.goto(f"http://{REBOUND}:{port}/{path}")
    assert seen == [(421, "0")] * 6


@pytest.mark.parametrize("form", [*FORMS, "the catalogue"])
def test_a_strangers_page_frames_nothing_of_ours(stage: Stage, form: str) -> None:
    target = stage.node.home if form == "the catalogue" else stage.url("victim", form)
    with stage.reader() as context:
        page = context.new_page()
        page.goto(f"{stage.stranger}stranger.html")
        page.evaluate(
            "url => document.body.append(Object.assign(document.createElement('iframe'), {src: url}))", target
        )
        until("the frame is refused", lambda: _has_error_frame(page), 5.0)
        assert "4711" not in page.frames[1].content()


@pytest.mark.parametrize("form", FORMS)
def test_a_strangers_page_reads_nothing_of_ours(stage: Stage, form: str) -> None:
    with stage.reader() as context:
        page = context.new_page()
        page.goto(f"{stage.stranger}stranger.html")
        for url in (f"{stage.url('victim', form)}secret.json", f"{stage.node.home}api/v1/lessons"):
            assert (
                page.evaluate("url => fetch(url).then(answer => answer.text(), error => error.name)", url)
                == "TypeError"
            )


def test_a_lesson_has_no_opener_whoever_opened_it(stage: Stage) -> None:
    with stage.reader() as context:
        page = context.new_page()
        page.goto(f"{stage.node.home}l/victim")
        page.click("p.open a")
        page.wait_for_function("window.kept")
        assert page.evaluate("window.opener") is None
        for opener in (f"{stage.stranger}stranger.html", stage.node.home):
            page.goto(opener)
            with context.expect_page() as opened:
                page.evaluate("url => { window.handle = open(url) }", stage.url("victim", "at its own origin"))
            opened.value.wait_for_function("window.kept")
            assert opened.value.evaluate("window.opener") is None
            assert page.evaluate("window.handle.closed") is True  # and who opened it has no hold on it


def test_a_withdrawn_lesson_leaves_nothing_in_the_browser(stage: Stage) -> None:
    with staged.on_stage(staged.node_in_every_state()) as at, stage.reader() as context:
        lesson, other = (f"http://{each}.localhost:{at.port}/" for each in ("maths-6e-fractions", "maths-6e-corrige"))
        page = context.new_page()
        for url in (other, lesson):
            page.goto(url)
            page.evaluate(
                "localStorage.score = '7'; new Promise(done => indexedDB.open('x').onsuccess = done).then(() => 1)"
            )
        at.do(at.node.alter, "maths-6e-fractions", state=State.WITHDRAWN)
        answer = page.goto(lesson)
        assert answer is not None
        assert answer.status == 410
        assert page.evaluate("localStorage.length") == 0
        assert page.evaluate("indexedDB.databases().then(all => all.length)") == 0
        page.goto(other)
        assert page.evaluate("localStorage.score") == "7"


def _victim(stage: Stage, context: BrowserContext, form: str) -> Page:
    page = context.new_page()
    page.goto(stage.url("victim", form))
    page.wait_for_function("window.kept")
    return page


def _has_error_frame(page: Page) -> bool:
    page.wait_for_timeout(20)  # the events of a page come only while playwright waits
    return len(page.frames) == 2 and page.frames[1].url.startswith("chrome-error://")


class _Quiet(SimpleHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def _lesson(folder: Path) -> Path:
    """A lesson folder; the hostile one has its script, the victim what is to be had."""
    folder.mkdir()
    pages = {
        "lesson.toml": f'id = "{folder.name}"\ntitle = "{folder.name}"\nlanguage = "fr"\nlevels = ["6e"]\n'
        'subjects = ["mathematiques"]\ndescription = ""\nlicence = "CC0-1.0"\nstart = "index.html"\n',
        "picture.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" /></svg>',
        "data.js": 'globalThis.SECRET = "4711";',
        "module.js": 'export const secret = "4711";',
        "style.css": "body { color: black }",
        "secret.json": '{"secret": 4711}',
        "worker.js": "onfetch = (event) => event.respondWith(new Response('taken over'))",
        "attack.html": '<!doctype html><title>x</title><body><script src="attack.js"></script>',
        "index.html": "<!doctype html><title>Une leçon</title><p>Bonjour</p>",
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(HOSTILE / "attack.js", folder)
    if folder.name == "victim":
        shutil.copy(HOSTILE / "victim.html", folder / "index.html")
    (folder.parent / "stranger.html").write_text("<!doctype html><title>stranger</title><p>x</p>", encoding="utf-8")
    return folder
