from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from edgeshare.config import DomainName, Endpoint, LessonsUrl, ShimConfig
from edgeshare.httpd.messages import Request
from edgeshare.httpd.server import listen, serve
from edgeshare.shim.routes import Handler, may_wait, shim
from edgeshare.view import State
from edgeshare.vocabulary import built_in
from tests.shim.conftest import Browser

if TYPE_CHECKING:
    from tests.shim.conftest import NodeInMemory

FILM = bytes(range(256)) * 40
PATHS = [
    "/",
    "/index.html",
    "/l/maths-6e-fractions",
    "/lessons/maths-6e-fractions/index.html",
    "/api/v1/lessons",
    "/api/v1/events",
    "/healthz",
    "/static/edgeshare.css",
    "/metrics",
]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    listeners = await listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, handler, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def exchange(port: int, sent: bytes) -> tuple[bytes, bytes]:
    """The head and the body that come back until the server closes."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(sent)
        received = b"".join([part async for part in stream])
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("path", PATHS)
async def test_a_strangers_name_gets_not_one_byte(handler: Handler, path: str) -> None:
    async with serving(handler) as port:
        for host in (
            "attacker.com",
            f"attacker.com:{port}",
            "localhost",
            f"localhost.:{port}",
            f"localhost@evil:{port}",
        ):
            head, body = await exchange(port, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert head.startswith(b"HTTP/1.1 421 ")
            assert b"connection: close" in head.lower()
            assert body == b""


async def test_the_server_gives_a_lesson_at_its_own_origin(handler: Handler) -> None:
    async with serving(handler) as port:
        host = f"Host: maths-6e-fractions.localhost:{port}\r\nConnection: close\r\n"
        head, body = await exchange(port, f"GET /film.mp4 HTTP/1.1\r\n{host}Range: bytes=5-9\r\n\r\n".encode())
        assert head.startswith(b"HTTP/1.1 206 ")
        assert body == FILM[5:10]
        assert f"frame-ancestors 'self' http://localhost:{port}\r\n".encode() in head
        head, body = await exchange(port, f"HEAD /film.mp4 HTTP/1.1\r\n{host}\r\n".encode())
        assert (body, f"content-length: {len(FILM)}".encode() in head) == (b"", True)


async def test_the_server_sends_a_file_while_it_arrives(handler: Handler, node: NodeInMemory) -> None:
    node.arrive("sciences-6e-eau", "film.mp4", 1000)
    async with serving(handler) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET /film.mp4 HTTP/1.1\r\nHost: sciences-6e-eau.localhost:{port}\r\n\r\n".encode())
        received = b""
        with trio.fail_after(10):
            while not received.endswith(FILM[:1000]):
                received += await stream.receive_some(65536)
            node.arrive("sciences-6e-eau", "film.mp4", len(FILM))
            while not received.endswith(FILM):
                received += await stream.receive_some(65536)


async def test_a_client_that_leaves_ends_the_stream(handler: Handler, node: NodeInMemory) -> None:
    node.arrive("sciences-6e-eau", "film.mp4", 1000)
    async with serving(handler) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(f"GET /film.mp4 HTTP/1.1\r\nHost: sciences-6e-eau.localhost:{port}\r\n\r\n".encode())
            received = b""
            while not received.endswith(FILM[:1000]):
                received += await stream.receive_some(65536)
            assert (node.streams, node.reads.total()) == (1, 1)
        with trio.fail_after(10):
            while node.streams or node.reads.total():
                await trio.sleep(0.01)  # no event outside the server tells it


@pytest.mark.parametrize("by_path", [False, True])
async def test_a_client_that_leaves_before_the_first_bytes_ends_the_wait(
    handler: Handler, node: NodeInMemory, by_path: bool
) -> None:
    node.arrive("sciences-6e-eau", "film.mp4", 0)
    listeners = await listen("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    host = f"127.0.0.1:{port}" if by_path else f"sciences-6e-eau.localhost:{port}"
    path = "/lessons/sciences-6e-eau/film.mp4" if by_path else "/film.mp4"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, handler, listeners, may_wait=may_wait(node)))
        with trio.fail_after(10):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                while not node.streams:
                    await trio.sleep(0.01)
            while node.streams or node.reads.total():
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_page_hears_of_a_change_through_the_server(handler: Handler, node: NodeInMemory) -> None:
    async with serving(handler) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET /api/v1/events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        received = b""
        with trio.fail_after(10):
            while b'"bytes_have":4000' not in received:
                received += await stream.receive_some(65536)
            node.alter("sciences-6e-eau", bytes_have=5000)
            while b'"bytes_have":5000' not in received:
                received += await stream.receive_some(65536)


@pytest.mark.parametrize("path", [path for path in PATHS if path not in ("/", "/index.html")])
async def test_a_lessons_origin_has_its_files_and_nothing_else(browser: Browser, path: str) -> None:
    assert (await browser.get(path, host="maths-6e-fractions.localhost:8470")).status == 404


@pytest.mark.parametrize("site", ["localhost:8470", "maths-6e-fractions.localhost:8470"])
@pytest.mark.parametrize("mode", ["cors", "no-cors", "websocket", "same-origin", ""])
@pytest.mark.parametrize("asker", ["cross-site", "same-site"])  # another port of this machine is of the same site
async def test_other_sites_may_only_lead_here(browser: Browser, site: str, mode: str, asker: str) -> None:
    for path in PATHS:
        response = await browser.get(path, host=site, sec_fetch_site=asker, sec_fetch_mode=mode)
        if not path.startswith("/lessons/") or mode != "no-cors" or site != "localhost:8470":
            assert (response.status, response.body) == (403, b""), path
        elif hasattr(response.body, "file"):
            response.body.file.close()


@pytest.mark.parametrize("kind", ["iframe", "frame", "embed", "object"])
@pytest.mark.parametrize("by_path", [False, True])
async def test_a_strangers_page_sets_off_no_download_by_framing_a_lesson(
    browser: Browser, node: NodeInMemory, kind: str, by_path: bool
) -> None:
    node.alter("maths-6e-fractions", state=State.LISTED)
    path, host = (
        ("/lessons/maths-6e-fractions/", "localhost:8470") if by_path else ("/", "maths-6e-fractions.localhost:8470")
    )
    framed: dict[str, Any] = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert (await browser.get(path, host=host, **framed, sec_fetch_dest=kind)).status == 403
    assert (await browser.get(path, host=host, **framed, sec_fetch_dest="document")).status == 302
    assert not node.was_read


async def test_a_name_that_is_not_ours_is_logged_once(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    for host in ("serveur.ecole.example", "serveur.ecole.example", "other.example"):
        assert (await browser.get("/", host=host)).status == 421
    told = [record.getMessage() for record in caplog.records]
    assert [line.count("allowed_hosts") for line in told] == [1, 1]
    assert "'serveur.ecole.example'" in told[0]


async def test_a_link_on_another_site_opens_our_pages(browser: Browser) -> None:
    for path in ("/", "/l/maths-6e-fractions"):
        response = await browser.get(path, sec_fetch_site="cross-site", sec_fetch_mode="navigate")
        assert response.status == 200


async def test_the_node_says_that_it_is_alive(browser: Browser) -> None:
    assert (await browser.get("/healthz")).body == b"ok\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("edgeshare.css", "text/css; charset=utf-8"),
        ("edgeshare.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
async def test_our_own_files_are_kept_until_they_change(browser: Browser, name: str, kind: str) -> None:
    page = await browser.page("/")
    versioned = page[page.index(f"/static/{name}?v=") :].partition('"')[0]
    for target, lasting in ((versioned, "public, max-age=31536000, immutable"), (f"/static/{name}", "no-cache")):
        response = await browser.get(target)
        headers = dict(response.headers)
        assert (response.status, headers["content-type"], headers["cache-control"]) == (200, kind, lasting)
        assert (await browser.get(target, if_none_match=headers["etag"])).status == 304


@pytest.mark.parametrize("path", ["/static/../routes.py", "/static/", "/static/nothing.css", "/static/x/edgeshare.css"])
async def test_no_other_file_is_ours(browser: Browser, path: str) -> None:
    assert (await browser.get(path)).status == 404


async def test_there_is_a_picture_for_the_tab(browser: Browser) -> None:
    response = await browser.get("/favicon.ico")
    assert dict(response.headers)["content-type"] == "image/svg+xml"


async def test_a_node_on_the_lan_answers_to_the_machines_name(node: NodeInMemory) -> None:
    config = ShimConfig(listen=Endpoint("0.0.0.0", 8470))
    handler = shim(node, config, built_in(), hostname="salle12")
    asked = Request("GET", "/healthz", "/healthz", "", "salle12.local:8470", (), ("192.168.1.2", 8470))
    assert (await handler(asked)).status == 200


LAN = ShimConfig(listen=Endpoint("0.0.0.0", 8470), lessons_listen=Endpoint("0.0.0.0", 8471))
FIRST: dict[str, Any] = {"host": "salle12.local:8470", "local": ("192.168.1.2", 8470)}
SECOND: dict[str, Any] = {"host": "salle12.local:8471", "local": ("192.168.1.2", 8471)}


def on_lan(node: NodeInMemory, **more: Any) -> Browser:
    return Browser(shim(node, attrs.evolve(LAN, **more), built_in(), hostname="salle12"))


async def test_at_the_second_port_there_are_lessons_and_nothing_else(node: NodeInMemory) -> None:
    browser = on_lan(node)
    for path in (path for path in PATHS if not path.startswith("/lessons/")):
        response = await browser.get(path, **SECOND)
        assert (response.status, response.body) == (404, b"no such page\n"), path
    film = await browser.get("/lessons/maths-6e-fractions/film.mp4", **SECOND)
    policy = dict(film.headers)["content-security-policy"]
    assert (film.status, "; sandbox allow-scripts " in policy) == (200, True)
    assert "default-src salle12.local:8471/lessons/maths-6e-fractions/ " in policy
    film.body.file.close()  # type: ignore[union-attr]
    assert (await browser.get("/favicon.ico", **SECOND)).status == 200  # browsers ask unbidden


async def test_the_second_port_has_the_same_list_of_hosts(node: NodeInMemory) -> None:
    browser = on_lan(node)
    for host in ("salle12.local:8470", "salle12.local", "evil.example:8471", "192.168.1.3:8471"):
        response = await browser.get("/lessons/maths-6e-fractions/", host=host, local=SECOND["local"])
        assert (response.status, response.body) == (421, b"")
    assert (
        await browser.get("/lessons/maths-6e-fractions/", host="192.168.1.2:8471", local=SECOND["local"])
    ).status == 302


async def test_a_reader_elsewhere_is_led_to_the_second_port(node: NodeInMemory) -> None:
    browser = on_lan(node)
    assert 'href="http://salle12.local:8471/lessons/maths-6e-fractions/"' in await browser.page(
        "/l/maths-6e-fractions", **FIRST
    )
    for old, new in (
        ("", ""),
        ("/", ""),
        ("/a%20b%23.html?q=%C3%A9", "a%20b%23.html?q=%C3%A9"),
        ("/\u0025c3%A9", "%C3%A9"),
    ):
        response = await browser.get(f"/lessons/maths-6e-fractions{old}", **FIRST)
        location = f"http://salle12.local:8471/lessons/maths-6e-fractions/{new}"
        assert (response.status, dict(response.headers)["location"]) == (302, location)
    assert (await browser.get("/lessons/unknown/", **FIRST)).status == 404
    assert not node.was_read


async def test_on_the_machine_itself_lessons_stay_where_they_are(node: NodeInMemory) -> None:
    browser = on_lan(node)
    assert 'href="http://maths-6e-fractions.localhost:8470/"' in await browser.page("/l/maths-6e-fractions")
    assert dict((await browser.get("/lessons/maths-6e-fractions/")).headers)["location"].startswith("/lessons/")


async def test_a_page_about_an_error_at_the_second_port_leads_to_our_own_pages(node: NodeInMemory) -> None:
    page = await on_lan(node).page("/lessons/unknown/", **SECOND, sec_fetch_mode="navigate")
    assert 'href="http://salle12.local:8470/"' in page


async def test_below_the_lesson_domain_a_lesson_has_its_own_origin_on_the_lan(node: NodeInMemory) -> None:
    domain = DomainName("lecons.college.fr")
    browser = on_lan(node, lesson_domain=domain)
    assert 'href="http://maths-6e-fractions.lecons.college.fr:8471/"' in await browser.page(
        "/l/maths-6e-fractions", **FIRST
    )
    old = await browser.get("/lessons/maths-6e-fractions/film.mp4", **FIRST)
    assert dict(old.headers)["location"] == "http://maths-6e-fractions.lecons.college.fr:8471/film.mp4"
    at_origin = SECOND | {"host": "maths-6e-fractions.lecons.college.fr:8471"}
    film = await browser.get("/film.mp4", **at_origin)
    headers = dict(film.headers)
    assert (film.status, headers["cross-origin-resource-policy"]) == (200, "same-origin")
    assert headers["content-security-policy"].endswith("; frame-ancestors 'self'")  # and it keeps its storage
    assert headers["connection-allowlist"] == '(response-origin "http://lecons.college.fr:8470/*")'
    film.body.file.close()  # type: ignore[union-attr]
    for path in ("/l/maths-6e-fractions", "/lessons/maths-6e-fractions/film.mp4", "/api/v1/lessons"):
        assert (await browser.get(path, **at_origin)).status == 404


async def test_a_proxy_with_tls_is_where_readers_elsewhere_are_led(node: NodeInMemory) -> None:
    browser = on_lan(node, lessons_url=LessonsUrl("https://edgeshare.local:8443"), allowed_hosts=("edgeshare.local",))
    first = FIRST | {"host": "edgeshare.local", "local": ("127.0.0.1", 8470)}
    assert 'href="https://edgeshare.local:8443/lessons/maths-6e-fractions/"' in await browser.page(
        "/l/maths-6e-fractions", **first
    )
    second = SECOND | {"host": "edgeshare.local:8443", "local": ("127.0.0.1", 8471)}
    assert (await browser.get("/lessons/maths-6e-fractions/", **second)).status == 302


async def test_what_browsers_obey_on_their_own_machine_only_is_not_said_elsewhere(node: NodeInMemory) -> None:
    browser = on_lan(node)
    own, elsewhere = await browser.get("/"), await browser.get("/", **FIRST)
    assert dict(own.headers).keys() - dict(elsewhere.headers).keys() == {"cross-origin-opener-policy"}


def test_below_the_lesson_domain_a_response_may_wait_too(node: NodeInMemory) -> None:
    waits = may_wait(node)

    def asked(host: str, path: str) -> Request:
        return Request("GET", path, path, "", host, (), ("192.168.1.2", 8471))

    for domain in ("localhost:8470", "lecons.college.fr", "lecons.college.fr:8471"):
        assert waits(asked(f"sciences-6e-eau.{domain}", "/film.mp4"))
        assert not waits(asked(f"maths-6e-fractions.{domain}", "/film.mp4"))
        assert waits(asked(f"sciences-6e-eau.{domain}", "/lessons/maths-6e-fractions/film.mp4"))  # a folder of its own
    assert not waits(asked("salle12.local:8470", "/"))


async def test_without_a_socket_the_configured_port_counts(browser: Browser) -> None:
    assert (await browser.get("/healthz", local=("", 0))).status == 200
    assert (await browser.get("/healthz", local=("", 0), host="localhost:8471")).status == 421


async def test_a_mistake_costs_one_request_and_is_logged_once(
    browser: Browser, node: NodeInMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(type(node), "lessons", lambda _: broken())
    response = await browser.get("/", accept="text/html")
    assert response.status == 500
    assert isinstance(response.body, bytes)
    assert "Quelque chose n’a pas marché ici" in response.body.decode()
    assert (await browser.get("/api/v1/lessons")).body == b'{"error":"the node made a mistake"}'
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.ERROR]


async def test_nothing_about_a_reader_is_logged(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for path in PATHS[:3]:
        await browser.get(path, user_agent="Firefox", accept_language="fr")
    assert [record for record in caplog.records if record.name.startswith("edgeshare")] == []
