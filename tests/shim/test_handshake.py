from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from edgeshare.config import Endpoint, ShimConfig
from edgeshare.httpd.csp import source_of
from edgeshare.httpd.messages import Response
from edgeshare.shim.handshake import SCRIPT, web_origins
from edgeshare.shim.routes import shim
from edgeshare.vocabulary import built_in
from tests.shim.conftest import NOW, Browser

if TYPE_CHECKING:
    from tests.shim.conftest import NodeInMemory

ORIGINS = ("https://lecons.example.fr/", "http://plain.example.fr:8080/lecons/")


@pytest.fixture
def linked(node: NodeInMemory) -> Browser:
    """A browser at a node whose config names two origins."""
    return Browser(shim(node, ShimConfig(), built_in(), origins=ORIGINS, hostname="salle12", now=lambda: NOW))


def said(response: Response) -> dict[str, str]:
    """What the page's script is given."""
    assert isinstance(response.body, bytes)
    (script,) = re.findall(r"<script([^>]*)>", response.body.decode())
    return {name: html.unescape(value) for name, value in re.findall(r'data-(\w+)="([^"]*)"', script)}


async def test_a_link_is_answered_with_the_lessons_state_and_the_way_to_it(linked: Browser) -> None:
    response = await linked.get("/open/maths-6e-fractions")
    assert response.status == 200
    assert said(response) == {
        "origins": "https://lecons.example.fr http://plain.example.fr:8080",
        "lesson": "maths-6e-fractions",
        "state": "complete",
        "next": "http://maths-6e-fractions.localhost:8470/",
    }


@pytest.mark.parametrize(
    ("lesson", "state", "onward"),
    [
        ("sciences-6e-eau", "fetching", "http://sciences-6e-eau.localhost:8470/"),
        ("anglais-5e-school", "listed", "http://anglais-5e-school.localhost:8470/"),
        ("emc-6e-droits", "failed", "/l/emc-6e-droits"),  # these say why, and hear what may be done
        ("histoire-6e-erreur", "withdrawn", "/l/histoire-6e-erreur"),
    ],
)
async def test_what_can_be_opened_is_and_the_others_have_their_page(
    linked: Browser, lesson: str, state: str, onward: str
) -> None:
    given = said(await linked.get(f"/open/{lesson}"))
    assert (given["state"], given["next"]) == (state, onward)


async def test_an_unknown_lesson_is_said_to_be_unknown_and_the_window_stays(linked: Browser) -> None:
    response = await linked.get("/open/maths-6e-aires", accept_language="en")
    assert response.status == 404
    assert (said(response)["state"], said(response)["next"]) == ("", "")
    assert b"This lesson is not known here" in bytes(response.body)  # type: ignore[arg-type]  # a page is bytes


async def test_asking_sets_nothing_off(linked: Browser, node: NodeInMemory) -> None:
    await linked.get("/open/anglais-5e-school")
    assert not node.was_read


async def test_a_file_of_the_lesson_is_opened_by_its_path(linked: Browser) -> None:
    given = said(await linked.get("/open/maths-6e-fractions/exercices/un%20deux%23%22.html"))
    assert given["next"] == "http://maths-6e-fractions.localhost:8470/exercices/un%20deux%23%22.html"


@pytest.mark.parametrize(
    "path",
    [
        "maths-6e-fractions/../api",
        "maths-6e-fractions/%2e%2e/api",
        "maths-6e-fractions//evil.example",
        "maths-6e-fractions/a/./b",
        "maths-6e-fractions/",
        "",
        "Maths",
        "evil.example%2f",
        "-x",
    ],
)
async def test_what_is_no_link_of_ours_leads_nowhere(linked: Browser, path: str) -> None:
    response = await linked.get(f"/open/{path}", accept="text/html")
    assert response.status == 404
    assert b"data-next" not in bytes(response.body)  # type: ignore[arg-type]  # a page is bytes


async def test_a_title_is_text_and_not_markup(linked: Browser, node: NodeInMemory) -> None:
    from edgeshare.view import State
    from tests.shim.conftest import manifest

    node.add(manifest("emc-6e-loi", title='</script><script>alert("1")</script>'), State.COMPLETE)
    page = await linked.page("/open/emc-6e-loi")
    assert page.count("<script") == 1


async def test_the_page_may_have_an_opener_and_nothing_else_that_pages_may_not(linked: Browser) -> None:
    headers = dict((await linked.get("/open/maths-6e-fractions")).headers)
    assert headers["cross-origin-opener-policy"] == "unsafe-none"
    assert headers["cache-control"] == "no-store"
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == source_of(SCRIPT)
    assert "connect-src" not in policy
    for path in ("/", "/l/maths-6e-fractions", "/accessibilite"):
        assert dict((await linked.get(path)).headers)["cross-origin-opener-policy"] == "same-origin"


async def test_the_script_that_the_policy_permits_is_the_pages_only_one(linked: Browser) -> None:
    page = (await linked.get("/open/maths-6e-fractions")).body
    assert isinstance(page, bytes)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page.decode(), re.DOTALL) == [SCRIPT]


async def test_a_strangers_page_cannot_load_it_as_a_part_of_itself(linked: Browser) -> None:
    response = await linked.get("/open/maths-6e-fractions", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
    assert response.status == 403


async def test_from_another_machine_the_window_goes_on_below_the_nodes_own_name(node: NodeInMemory) -> None:
    config = ShimConfig(listen=Endpoint("0.0.0.0", 8470))
    browser = Browser(shim(node, config, built_in(), origins=ORIGINS, hostname="salle12", now=lambda: NOW))
    more: dict[str, Any] = {"host": "salle12.local:8470", "local": ("10.0.0.5", 8470)}
    given = said(await browser.get("/open/maths-6e-fractions/b.html", **more))
    assert given["next"] == "/lessons/maths-6e-fractions/b.html"


async def test_a_lessons_own_origin_has_no_such_page(linked: Browser) -> None:
    host = "maths-6e-fractions.localhost:8470"
    assert (await linked.get("/open/maths-6e-fractions", host=host)).status == 404


async def test_a_node_without_origins_speaks_to_nobody(browser: Browser) -> None:
    assert said(await browser.get("/open/maths-6e-fractions"))["origins"] == ""


@pytest.mark.parametrize(
    ("urls", "origins"),
    [
        (["https://Lecons.Example.fr/"], ["https://lecons.example.fr"]),
        (["https://a.fr:443/x/", "https://a.fr:8443/"], ["https://a.fr", "https://a.fr:8443"]),
        (["http://a.fr/"], ["http://a.fr", "https://a.fr"]),  # nodes may fetch by HTTP what readers get by HTTPS
        (["http://a.fr:80/", "https://a.fr/"], ["http://a.fr", "https://a.fr"]),
        (["http://a.fr:8080/"], ["http://a.fr:8080"]),
        (["http://[2001:db8::1]:8080/"], ["http://[2001:db8::1]:8080"]),
        (["https://user:secret@a.fr/"], ["https://a.fr"]),
        (["ftp://a.fr/", "https:///x", "https://a.fr:99999/", "*", "null"], []),
    ],
)
def test_web_origins_are_those_of_the_config_and_none_besides(urls: list[str], origins: list[str]) -> None:
    assert list(web_origins(urls)) == origins


def test_the_script_names_whom_it_speaks_to_and_lets_go_of_its_opener_first() -> None:
    assert '"*"' not in SCRIPT
    assert SCRIPT.index("postMessage") < SCRIPT.index("window.opener = null") < SCRIPT.index("location.replace")
    assert json.dumps(SCRIPT)
