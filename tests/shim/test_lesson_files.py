from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edgeshare.config import ShimConfig
from edgeshare.httpd.messages import FileBody, Response, StreamBody
from edgeshare.library.eviction import Space
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.shim.routes import shim
from edgeshare.view import Obstacle, State
from edgeshare.vocabulary import built_in
from tests.shim.conftest import Browser

if TYPE_CHECKING:
    from tests.shim.conftest import NodeInMemory

FRACTIONS = "maths-6e-fractions.localhost:8470"
EAU = "sciences-6e-eau.localhost:8470"
PAGE = b"<!doctype html><title>Fractions</title>"
FILM = bytes(range(256)) * 40
BytesOf = Callable[[Response], Any]


def header(response: Response, name: str) -> str | None:
    values = [value for known, value in response.headers if known == name]
    assert len(values) <= 1
    return values[0] if values else None


async def test_a_complete_file_goes_out_from_its_descriptor(browser: Browser, bytes_of: BytesOf) -> None:
    response = await browser.get("/index.html", host=FRACTIONS)
    assert response.status == 200
    assert isinstance(response.body, FileBody)
    assert await bytes_of(response) == PAGE
    assert header(response, "content-type") == "text/html; charset=utf-8"
    assert header(response, "accept-ranges") == "bytes"
    assert header(response, "cache-control") == "no-cache"


async def test_a_tag_names_the_contents_and_the_file(browser: Browser, node: NodeInMemory, bytes_of: BytesOf) -> None:
    info_hash = node.views[LessonId("maths-6e-fractions")].manifest.info_hash.hex()
    for number, path in enumerate(("/index.html", "/film.mp4")):
        response = await browser.get(path, host=FRACTIONS)
        assert header(response, "etag") == f'"{info_hash}-{number}"'
        await bytes_of(response)


async def test_a_range_is_a_part(browser: Browser, bytes_of: BytesOf) -> None:
    response = await browser.get("/film.mp4", host=FRACTIONS, range="bytes=100-299")
    assert response.status == 206
    assert header(response, "content-range") == f"bytes 100-299/{len(FILM)}"
    assert await bytes_of(response) == FILM[100:300]


async def test_a_range_beyond_the_end_is_416(browser: Browser) -> None:
    response = await browser.get("/film.mp4", host=FRACTIONS, range=f"bytes={len(FILM)}-")
    assert response.status == 416
    assert header(response, "content-range") == f"bytes */{len(FILM)}"
    assert response.body == b""


async def test_if_range_gives_a_part_of_the_same_contents_only(browser: Browser, bytes_of: BytesOf) -> None:
    tag = header(await browser.get("/film.mp4", host=FRACTIONS, method="HEAD"), "etag")
    assert tag is not None
    same = await browser.get("/film.mp4", host=FRACTIONS, range="bytes=0-9", if_range=tag)
    other = await browser.get("/film.mp4", host=FRACTIONS, range="bytes=0-9", if_range='"other-1"')
    assert (same.status, await bytes_of(same)) == (206, FILM[:10])
    assert (other.status, await bytes_of(other)) == (200, FILM)


async def test_what_the_browser_has_already_is_304(browser: Browser) -> None:
    tag = header(await browser.get("/film.mp4", host=FRACTIONS, method="HEAD"), "etag")
    assert tag is not None
    response = await browser.get("/film.mp4", host=FRACTIONS, if_none_match=tag, range="bytes=0-9")
    assert (response.status, response.body) == (304, b"")
    assert header(response, "etag") == tag
    assert header(response, "content-security-policy")


async def test_a_new_version_has_another_tag(browser: Browser, node: NodeInMemory, bytes_of: BytesOf) -> None:
    tag = header(await browser.get("/film.mp4", host=FRACTIONS, method="HEAD"), "etag") or ""
    old = node.views[LessonId("maths-6e-fractions")].manifest
    node.alter("maths-6e-fractions", manifest=attrs.evolve(old, info_hash=InfoHash(bytes(32))))
    response = await browser.get("/film.mp4", host=FRACTIONS, if_none_match=tag)
    assert (response.status, await bytes_of(response)) == (200, FILM)


async def test_a_head_waits_for_no_bytes(browser: Browser, node: NodeInMemory) -> None:
    response = await browser.get("/film.mp4", host=EAU, method="HEAD", range="bytes=0-9")
    assert response.status == 200  # a HEAD has no ranges
    assert isinstance(response.body, StreamBody)
    assert response.body.size == len(FILM)
    assert (node.streams, node.reads.total()) == (0, 0)


async def test_an_empty_file_is_empty(browser: Browser, node: NodeInMemory, bytes_of: BytesOf) -> None:
    node.contents[LessonId("maths-6e-fractions")].here["vide.txt"] = 0
    response = await browser.get("/vide.txt", host=FRACTIONS)
    assert (response.status, await bytes_of(response)) == (200, b"")


async def test_an_unknown_kind_of_file_is_kept_apart(browser: Browser, bytes_of: BytesOf) -> None:
    response = await browser.get("/plan.blend", host=FRACTIONS)
    assert header(response, "content-type") == "application/octet-stream"
    assert header(response, "content-disposition") == "attachment"
    assert header(response, "x-content-type-options") == "nosniff"
    await bytes_of(response)


async def test_a_file_goes_out_while_it_arrives(browser: Browser, node: NodeInMemory) -> None:
    node.arrive("sciences-6e-eau", "film.mp4", 1000)
    response = await browser.get("/film.mp4", host=EAU)
    assert response.status == 200
    assert isinstance(response.body, StreamBody)
    assert response.body.size == len(FILM)
    seen = []
    async with response.body.chunks as chunks:
        async for chunk in chunks:
            seen.append(chunk)
            if len(seen) == 1:
                node.arrive("sciences-6e-eau", "film.mp4", 4000)
            elif len(seen) == 2:
                node.arrive("sciences-6e-eau", "film.mp4", len(FILM))
    assert [len(chunk) for chunk in seen] == [1000, 3000, len(FILM) - 4000]
    assert b"".join(seen) == FILM
    assert (node.streams, node.reads.total()) == (0, 0)


async def test_a_part_that_is_here_does_not_wait_for_the_rest(
    browser: Browser, node: NodeInMemory, bytes_of: BytesOf
) -> None:
    node.arrive("sciences-6e-eau", "film.mp4", 1000)
    response = await browser.get("/film.mp4", host=EAU, range="bytes=200-299")
    assert (response.status, await bytes_of(response)) == (206, FILM[200:300])


async def test_the_head_goes_out_when_the_first_bytes_are_here(
    browser: Browser, node: NodeInMemory, autojump_clock: MockClock, bytes_of: BytesOf
) -> None:
    async def deliver() -> None:
        await trio.sleep(19)
        node.arrive("sciences-6e-eau", "film.mp4", len(FILM))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        response = await browser.get("/film.mp4", host=EAU)
        assert trio.current_time() == pytest.approx(19)
        assert (response.status, await bytes_of(response)) == (200, FILM)


async def test_a_lesson_that_does_not_come_is_503_and_tells_its_reader(
    browser: Browser, node: NodeInMemory, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    response = await browser.get("/index.html", host=EAU, accept="text/html", sec_fetch_mode="navigate")
    assert trio.current_time() - start == pytest.approx(20)
    assert response.status == 503
    assert header(response, "retry-after") == "5"
    assert isinstance(response.body, bytes)
    page = response.body.decode()
    assert 'data-after="5"' in page  # it tries again by itself
    assert "La leçon est en route" in page
    assert "40\u00a0%" in page
    assert (node.streams, node.reads.total()) == (0, 0)


@pytest.mark.parametrize("change", [{"state": State.FAILED}, {"obstacle": Obstacle.DISK}])
async def test_what_does_not_come_before_somebody_looks_after_the_machine_is_not_said_to_be_on_its_way(
    browser: Browser, node: NodeInMemory, autojump_clock: MockClock, change: dict[str, Any]
) -> None:
    node.alter("sciences-6e-eau", **change)
    response = await browser.get("/film.mp4", host=EAU, accept="*/*", sec_fetch_mode="no-cors")
    assert (response.status, response.body) == (503, b"the lesson cannot be fetched now\n")
    assert header(response, "retry-after") == "60"


async def test_a_picture_that_does_not_come_is_503_without_a_page(browser: Browser, autojump_clock: MockClock) -> None:
    response = await browser.get("/film.mp4", host=EAU, accept="*/*", sec_fetch_mode="no-cors")
    assert (response.status, response.body) == (503, b"the lesson is on its way\n")
    assert header(response, "retry-after") == "5"


async def test_a_listed_lesson_is_fetched_when_it_is_opened(
    browser: Browser, node: NodeInMemory, autojump_clock: MockClock
) -> None:
    response = await browser.get("/index.html", host="anglais-5e-school.localhost:8470")
    assert response.status == 503
    assert node.was_read[LessonId("anglais-5e-school")] == 1


async def test_the_page_about_a_listed_lesson_fetches_nothing(browser: Browser, node: NodeInMemory) -> None:
    assert (await browser.get("/l/anglais-5e-school")).status == 200
    assert (await browser.get("/", host="anglais-5e-school.localhost:8470")).status == 302
    assert not node.was_read


async def test_a_lesson_that_cannot_be_fetched_is_503_with_the_reason(browser: Browser) -> None:
    response = await browser.get("/index.html", host="emc-6e-droits.localhost:8470", accept="text/html")
    assert response.status == 503
    assert header(response, "retry-after") == "60"
    assert isinstance(response.body, bytes)
    assert b"no room on the disk" in response.body
    assert b"refresh" not in response.body


async def test_a_lesson_for_which_there_is_no_room_is_507_and_says_who_can_help(
    browser: Browser, node: NodeInMemory
) -> None:
    node.space = Space(quota=10, free=10, keep_free=0, to_come=0)
    response = await browser.get("/index.html", host="anglais-5e-school.localhost:8470", accept="text/html")
    assert response.status == 507
    assert isinstance(response.body, bytes)
    assert "Il n’y a pas de place ici pour cette leçon" in response.body.decode()
    assert "La personne qui s’occupe de la machine" in response.body.decode()
    plain = await browser.get("/index.html", host="anglais-5e-school.localhost:8470")
    assert plain.body == b"there is no room for the lesson on this node\n"


async def test_a_reader_who_leaves_ends_the_stream(browser: Browser, node: NodeInMemory) -> None:
    node.arrive("sciences-6e-eau", "film.mp4", 1000)
    response = await browser.get("/film.mp4", host=EAU)
    assert (node.streams, node.reads.total()) == (0, 0)  # nothing is open that only the body could close
    assert isinstance(response.body, StreamBody)

    async def read(chunks: Any) -> None:
        async with chunks as opened:
            async for _ in opened:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, response.body.chunks)
        await wait_all_tasks_blocked()
        assert (node.streams, node.reads.total()) == (1, 1)
        nursery.cancel_scope.cancel()
    assert (node.streams, node.reads.total()) == (0, 0)


async def test_a_lesson_that_goes_away_breaks_its_file_off(
    browser: Browser, node: NodeInMemory, bytes_of: BytesOf, caplog: pytest.LogCaptureFixture
) -> None:
    node.arrive("sciences-6e-eau", "film.mp4", 1000)
    response = await browser.get("/film.mp4", host=EAU)
    node.contents[LessonId("sciences-6e-eau")].lost = "the lesson was removed"
    assert isinstance(response.body, StreamBody)
    assert response.body.size == len(FILM)
    assert await bytes_of(response) == b""
    assert "the lesson was removed" in caplog.text


async def test_two_versions_never_mix_in_one_answer(browser: Browser, node: NodeInMemory, bytes_of: BytesOf) -> None:
    node.arrive("sciences-6e-eau", "film.mp4", len(FILM))
    response = await browser.get("/film.mp4", host=EAU)
    old = node.views[LessonId("sciences-6e-eau")].manifest
    node.alter("sciences-6e-eau", manifest=attrs.evolve(old, info_hash=InfoHash(bytes(32))))
    assert await bytes_of(response) == b""


@pytest.mark.parametrize(
    ("language", "words"), [("fr", "Cette leçon a été retirée"), ("en", "This lesson was withdrawn")]
)
@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("localhost:8470", "/lessons/histoire-6e-erreur/"),
        ("localhost:8470", "/lessons/histoire-6e-erreur/index.html"),
        ("localhost:8470", "/l/histoire-6e-erreur"),
        ("histoire-6e-erreur.localhost:8470", "/"),
        ("histoire-6e-erreur.localhost:8470", "/index.html"),
    ],
)
async def test_a_withdrawn_lesson_is_410_with_the_reason(
    browser: Browser, node: NodeInMemory, host: str, target: str, language: str, words: str
) -> None:
    response = await browser.get(target, host=host, accept="text/html", accept_language=language)
    assert response.status == 410
    assert isinstance(response.body, bytes)
    assert words in response.body.decode()
    assert "Une date est fausse." in response.body.decode()
    assert not node.was_read


@pytest.mark.parametrize(
    "target", ["/nothing.html", "/INDEX.html", "/../index.html", "//index.html", "/index.html/", "/%2e"]
)
async def test_a_path_that_the_lesson_does_not_have_is_404(browser: Browser, target: str) -> None:
    assert (await browser.get(target, host=FRACTIONS)).status == 404
    assert (await browser.get(f"/lessons/maths-6e-fractions{target}")).status == 404


@pytest.mark.parametrize("lesson", ["unknown", "UPPER", "a.b", "-x", "x" * 64])
async def test_a_lesson_that_the_node_does_not_know_is_404(browser: Browser, lesson: str) -> None:
    assert (await browser.get(f"/lessons/{lesson}/index.html")).status == 404
    assert (await browser.get(f"/l/{lesson}")).status == 404
    assert (await browser.get(f"/api/v1/lessons/{lesson}")).status == 404


async def test_an_unknown_lessons_origin_is_404(browser: Browser) -> None:
    assert (await browser.get("/", host="unknown.localhost:8470")).status == 404


NAMES = [
    "leçon 1.html",
    "100 %.html",
    "c#.html",
    "a+b.html",
    "a&b=c.html",
    "%41.html",
    "e\u0301te\u0301.html",
    "à/é/ï.html",
    "a;b,c'd(e)!~.html",
    "日本.html",
]


@pytest.mark.parametrize("name", NAMES)
async def test_a_start_file_of_any_name_is_reached_by_the_redirect(
    browser: Browser, node: NodeInMemory, bytes_of: BytesOf, name: str
) -> None:
    lesson = LessonId("maths-6e-fractions")
    node.contents[lesson].files[name] = b"reached"
    node.alter(lesson, manifest=attrs.evolve(node.views[lesson].manifest, start=name))
    for host, folder in ((FRACTIONS, "/"), ("localhost:8470", "/lessons/maths-6e-fractions/")):
        redirect = await browser.get(folder, host=host)
        location = header(redirect, "location")
        assert redirect.status == 302
        assert location is not None
        followed = urlsplit(urljoin(f"http://{host}{folder}", location))
        assert (followed.netloc, followed.query, followed.fragment) == (host, "", "")
        response = await browser.get(followed.path, host=host)
        assert (response.status, await bytes_of(response)) == (200, b"reached")


async def test_the_query_survives_the_redirect_to_the_start_file(browser: Browser) -> None:
    redirect = await browser.get("/?q=%C3%A9&x", host=FRACTIONS)
    assert header(redirect, "location") == "/index.html?q=%C3%A9&x"
    bare = await browser.get("/lessons/maths-6e-fractions")
    assert header(bare, "location") == "/lessons/maths-6e-fractions/index.html"


def policy(own: str) -> str:
    return f"default-src {own} 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri {own}; form-action {own}"


CONFINED = {
    "connection-allowlist": '(response-origin "http://localhost:8470/*")',
    "x-dns-prefetch-control": "off",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


async def test_at_its_own_origin_a_lesson_is_kept_from_the_world_only(browser: Browser, bytes_of: BytesOf) -> None:
    response = await browser.get("/index.html", host=FRACTIONS)
    headers = dict(response.headers)
    own = policy("'self'")
    assert headers["content-security-policy"] == f"{own}; frame-ancestors 'self' http://localhost:8470"
    assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["origin-agent-cluster"] == "?1"
    assert headers.items() >= CONFINED.items()
    await bytes_of(response)


@pytest.mark.parametrize("host", ["localhost:8470", "127.0.0.1:8470", "LOCALHOST:8470"])
async def test_under_our_own_address_a_lesson_is_in_a_sandbox(browser: Browser, bytes_of: BytesOf, host: str) -> None:
    for target in ("/index.html", "/film.mp4", ""):
        response = await browser.get(f"/lessons/maths-6e-fractions{target}", host=host)
        headers = dict(response.headers)
        own = policy(f"{host.lower()}/lessons/maths-6e-fractions/")  # not `self`, which all lessons are there
        sandbox = "sandbox allow-scripts allow-forms allow-popups allow-downloads allow-modals"
        assert headers["content-security-policy"] == f"{own}; frame-ancestors 'self'; {sandbox}"
        assert "cross-origin-resource-policy" not in headers  # or its own pictures would be refused to it
        assert headers.items() >= CONFINED.items()
        await bytes_of(response)


async def test_at_an_address_that_csp_cannot_say_a_sandbox_is_as_narrow_as_it_can(browser: Browser) -> None:
    response = await browser.get("/lessons/maths-6e-fractions/", host="[::1]:8470", local=("::1", 8470))
    assert (header(response, "content-security-policy") or "").startswith(policy("'self'"))


async def test_what_a_lesson_opens_of_its_own_origin_is_as_confined_as_itself(browser: Browser) -> None:
    for target, status in (("/nothing.html", 404), ("/favicon.ico", 200), ("/", 302)):
        response = await browser.get(target, host=FRACTIONS, accept="text/html", sec_fetch_mode="navigate")
        headers = dict(response.headers)
        assert (response.status, headers["connection-allowlist"]) == (status, CONFINED["connection-allowlist"])
        assert "camera=()" in headers["permissions-policy"]
        assert headers["content-security-policy"]
    refused = await browser.get("/", host=FRACTIONS, sec_fetch_site="cross-site", sec_fetch_mode="cors")
    assert header(refused, "content-security-policy") == "default-src 'none'; sandbox"


@pytest.mark.parametrize("by_path", [False, True])
async def test_a_lesson_is_given_no_power_over_people_devices_or_networks(browser: Browser, by_path: bool) -> None:
    target = "/lessons/maths-6e-fractions/" if by_path else "/"
    response = await browser.get(target, host="localhost:8470" if by_path else FRACTIONS)
    powers = header(response, "permissions-policy") or ""
    refused = set(powers.replace("=()", "").split(", "))
    assert refused >= {"camera", "microphone", "geolocation", "usb", "serial", "hid", "midi", "display-capture"}
    assert refused.isdisjoint({"fullscreen", "autoplay", "picture-in-picture"})


async def test_where_the_config_lets_lessons_lead_outside_they_may(node: NodeInMemory, bytes_of: BytesOf) -> None:
    browser = Browser(shim(node, ShimConfig(outside_links=True), built_in(), hostname="salle12"))
    for target, host in (("/index.html", FRACTIONS), ("/lessons/maths-6e-fractions/index.html", "localhost:8470")):
        response = await browser.get(target, host=host)
        assert header(response, "connection-allowlist") is None
        assert (header(response, "content-security-policy") or "").startswith("default-src ")
        await bytes_of(response)


@pytest.mark.parametrize(
    ("target", "host"), [("/film.mp4", FRACTIONS), ("/lessons/maths-6e-fractions/film.mp4", "localhost:8470")]
)
async def test_no_worker_of_a_lesson_answers_in_the_nodes_place(browser: Browser, target: str, host: str) -> None:
    asked: dict[str, Any] = {"service_worker": "script", "sec_fetch_mode": "same-origin"}
    response = await browser.get(target, host=host, **asked)
    assert (response.status, response.body) == (403, b"")


async def test_what_a_withdrawn_lesson_has_kept_in_the_browser_is_forgotten(browser: Browser) -> None:
    response = await browser.get("/", host="histoire-6e-erreur.localhost:8470")
    assert (response.status, header(response, "clear-site-data")) == (410, '"storage"')
    ours = await browser.get("/lessons/histoire-6e-erreur/")  # at our own origin, which holds nothing of a lesson's
    assert (ours.status, header(ours, "clear-site-data")) == (410, None)
    missing = await browser.get("/nothing.html", host=FRACTIONS)
    assert (missing.status, header(missing, "clear-site-data")) == (404, None)


async def test_a_stranger_sets_off_no_download(browser: Browser, node: NodeInMemory) -> None:
    picture: dict[str, Any] = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}
    assert (await browser.get("/lessons/anglais-5e-school/a.png", **picture)).status == 403
    assert (await browser.get("/a.png", host="anglais-5e-school.localhost:8470", **picture)).status == 403
    assert not node.was_read


async def test_a_sandboxed_page_gets_its_own_pictures(browser: Browser, bytes_of: BytesOf) -> None:
    response = await browser.get(
        "/lessons/maths-6e-fractions/film.mp4", sec_fetch_site="cross-site", sec_fetch_mode="no-cors"
    )
    assert (response.status, await bytes_of(response)) == (200, FILM)


async def test_a_strangers_script_reads_no_lesson(browser: Browser) -> None:
    for site in ("cross-site", "same-site"):  # as other lessons are, below a domain on the LAN
        asked: dict[str, Any] = {"sec_fetch_site": site, "sec_fetch_mode": "cors"}
        for host, target in ((FRACTIONS, "/index.html"), ("localhost:8470", "/lessons/maths-6e-fractions/index.html")):
            response = await browser.get(target, host=host, **asked)
            assert (response.status, response.body) == (403, b"")


async def test_a_link_from_another_site_opens_a_lesson(browser: Browser, bytes_of: BytesOf) -> None:
    response = await browser.get("/index.html", host=FRACTIONS, sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert (response.status, await bytes_of(response)) == (200, PAGE)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_list_of_files_that_does_not_come_is_503(
    browser: Browser, node: NodeInMemory, autojump_clock: MockClock, method: str
) -> None:
    node.alter("sciences-6e-eau", state=State.WAITING)
    del node.contents[LessonId("sciences-6e-eau")]
    assert (await browser.get("/index.html", host=EAU, method=method)).status == 503
    assert node.reads.total() == 0


async def test_a_lesson_without_an_icon_gets_ours_so_that_no_browser_reports_an_error(browser: Browser) -> None:
    response = await browser.get("/favicon.ico", host="maths-6e-fractions.localhost:8470")
    assert (response.status, dict(response.headers)["content-type"]) == (200, "image/svg+xml")
