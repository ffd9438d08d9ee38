from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import REGISTRY

from edgeshare.config import Endpoint, Rate, ShimConfig
from edgeshare.freshness import Clock, Freshness
from edgeshare.httpd.messages import Response
from edgeshare.httpd.server import listen, serve
from edgeshare.limits import Limits
from edgeshare.refusals import Refusal, RefusalNote
from edgeshare.shim.routes import Handler, shim
from edgeshare.view import CatalogueView, MirrorView, NodeStatus, State
from edgeshare.vocabulary import built_in
from tests.shim.conftest import NOW, Browser

if TYPE_CHECKING:
    from tests.shim.conftest import NodeInMemory

LAN = ("192.168.1.2", 8470)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(response: Response) -> Samples:
    """Each sample by its name and labels; fails where Prometheus could not read it, or would read one twice."""
    assert response.status == 200
    assert isinstance(response.body, bytes)
    found: Samples = {}
    for family in text_string_to_metric_families(response.body.decode("utf-8")):
        assert family.documentation
        assert family.type != "unknown"
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            assert math.isfinite(sample.value)
            found[key] = sample.value
    return found


def of(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


async def told(browser: Browser) -> Samples:
    return samples(await browser.get("/metrics"))


def on_the_lan(node: NodeInMemory, **config: Any) -> Handler:
    listen = Endpoint("0.0.0.0", 8470)
    return shim(node, ShimConfig(listen=listen, **config), built_in(), hostname="salle12", now=lambda: NOW)


async def test_the_metrics_are_the_status(browser: Browser, node: NodeInMemory) -> None:
    node.origin_bytes = {"nobody_has_it": 2**40, "metadata": 512}
    node.mirrors = (
        MirrorView(name="http://a/", is_aside=True, until=NOW, reason="answers 500", received_bytes=12),
        MirrorView(name="http://b/", is_aside=False, received_bytes=2**41),
    )
    found = await told(browser)
    assert of(found, "edgeshare_build_info", version="0.1.0", profile="home") == 1
    assert of(found, "edgeshare_origin_bytes_total", reason="nobody_has_it") == 2**40
    assert of(found, "edgeshare_origin_bytes_total", reason="metadata") == 512
    assert of(found, "edgeshare_peer_bytes_total") == 5
    assert of(found, "edgeshare_uploaded_bytes_total") == 3
    assert of(found, "edgeshare_peers") == 2
    assert of(found, "edgeshare_disk_free_bytes") == 10**9
    assert of(found, "edgeshare_metadata_fresh") == 1
    assert of(found, "edgeshare_metadata_expiry_timestamp_seconds") == NOW.timestamp()
    assert of(found, "edgeshare_metadata_signed_timestamp_seconds") == NOW.timestamp()
    assert of(found, "edgeshare_clock_plausible") == 1
    assert of(found, "edgeshare_catalogue_edition", catalogue="cned/6e") == 4
    assert of(found, "edgeshare_catalogue_issued_timestamp_seconds", catalogue="cned/6e") == NOW.timestamp() - 259_200
    assert of(found, "edgeshare_mirror_aside", mirror="http://a/") == 1
    assert of(found, "edgeshare_mirror_aside", mirror="http://b/") == 0
    assert of(found, "edgeshare_mirror_received_bytes_total", mirror="http://a/") == 12
    assert of(found, "edgeshare_mirror_received_bytes_total", mirror="http://b/") == 2**41


async def test_the_limits_of_the_line_are_told(browser: Browser, node: NodeInMemory) -> None:
    node.limits = Limits(upload=Rate(125_000), reason="the config says that the line is metered")
    found = await told(browser)
    assert of(found, "edgeshare_upload_limit_bytes_per_second") == 125_000
    assert of(found, "edgeshare_download_limit_bytes_per_second") == 0
    assert of(found, "edgeshare_link_metered") == 1
    assert of(found, "edgeshare_outside_bytes_total") == 7


async def test_what_readers_got_is_told_by_source_and_how_many_are_there(browser: Browser, node: NodeInMemory) -> None:
    node.more = {"served_bytes": {"library": 2**40, "swarm": 0, "pages": 9}, "readers": 21}
    found = await told(browser)
    assert of(found, "edgeshare_served_bytes_total", source="library") == 2**40
    assert of(found, "edgeshare_served_bytes_total", source="swarm") == 0
    assert of(found, "edgeshare_served_bytes_total", source="pages") == 9
    assert of(found, "edgeshare_readers") == 21


async def test_every_reason_to_refuse_metadata_has_its_count(browser: Browser, node: NodeInMemory) -> None:
    node.refusals = (RefusalNote(at=NOW, refusal=Refusal.OLDER, what="timestamp.json of http://a/ is refused"),)
    found = await told(browser)
    counts = {each: of(found, "edgeshare_metadata_refused_total", reason=each.value) for each in Refusal}
    assert counts == {each: int(each is Refusal.OLDER) for each in Refusal}


async def test_a_clock_that_can_hardly_be_right_is_told(browser: Browser, node: NodeInMemory) -> None:
    node.freshness = Freshness(is_fresh=True, expires=NOW, clock=Clock.BEHIND)
    assert of(await told(browser), "edgeshare_clock_plausible") == 0


async def test_every_state_of_a_lesson_has_its_count(browser: Browser, node: NodeInMemory) -> None:
    found = await told(browser)
    counts = {state: of(found, "edgeshare_lessons", state=state.value) for state in State}
    assert counts == {state: node.status().lessons.get(state, 0) for state in State}
    assert counts[State.COMPLETE] == 2
    assert counts[State.WAITING] == 0  # said, and not left out: a graph has no holes


async def test_what_is_not_known_yet_has_no_value(
    browser: Browser, node: NodeInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = CatalogueView(name="cned/5e", is_followed=True, edition=None, issued=None, lessons=0)
    status = attrs.evolve(node.status(), freshness=Freshness(is_fresh=False), catalogues=(listed,), origin_bytes={})

    def young(_: NodeInMemory) -> NodeStatus:
        return status

    monkeypatch.setattr(type(node), "status", young)
    found = await told(browser)
    names = {name for name, _ in found}
    assert of(found, "edgeshare_metadata_fresh") == 0
    assert of(found, "edgeshare_peer_bytes_total") == 5
    assert names.isdisjoint(
        {
            "edgeshare_metadata_expiry_timestamp_seconds",
            "edgeshare_metadata_signed_timestamp_seconds",
            "edgeshare_catalogue_edition",
            "edgeshare_catalogue_issued_timestamp_seconds",
            "edgeshare_origin_bytes_total",
            "edgeshare_mirror_aside",
        }
    )


async def test_every_name_follows_the_conventions_of_prometheus(browser: Browser) -> None:
    response = await browser.get("/metrics")
    assert isinstance(response.body, bytes)
    for family in text_string_to_metric_families(response.body.decode("utf-8")):
        assert family.name.startswith("edgeshare_")
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            assert not any(unit in sample.name for unit in ("_ms", "_kb", "_mb", "_percent", "_bits"))


async def test_a_mirror_that_is_named_twice_is_told_once(browser: Browser, node: NodeInMemory) -> None:
    node.mirrors = (
        MirrorView(name="http://a/", is_aside=True, received_bytes=1),
        MirrorView(name="http://a/", is_aside=False, received_bytes=2),
    )
    found = await told(browser)
    assert of(found, "edgeshare_mirror_aside", mirror="http://a/") == 0
    assert of(found, "edgeshare_mirror_received_bytes_total", mirror="http://a/") == 3


async def test_an_odd_name_of_a_mirror_does_not_break_the_format(browser: Browser, node: NodeInMemory) -> None:
    odd = 'http://a/"\\\n} 1 é/'
    node.mirrors = (MirrorView(name=odd, is_aside=True),)
    assert of(await told(browser), "edgeshare_mirror_aside", mirror=odd) == 1


async def test_metrics_are_the_plain_text_of_prometheus_and_never_kept(browser: Browser) -> None:
    for accept in (
        "*/*",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
        "text/plain;version=x",
    ):
        headers = dict((await browser.get("/metrics", accept=accept)).headers)
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_a_head_of_the_metrics_has_their_length_and_no_body(handler: Handler) -> None:
    listeners = await listen("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, handler, listeners)
        async with httpx.AsyncClient(trust_env=False, base_url=f"http://localhost:{port}") as client:
            whole, head = await client.get("/metrics"), await client.head("/metrics")
        nursery.cancel_scope.cancel()
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    assert head.headers["content-type"] == whole.headers["content-type"]


async def test_metrics_say_nothing_of_lessons_and_readers(
    browser: Browser, node: NodeInMemory, bytes_of: Callable[[Response], Any]
) -> None:
    for path in ("/l/maths-6e-fractions", "/lessons/maths-6e-fractions/film.mp4"):
        await bytes_of(await browser.get(path, user_agent="Firefox of room 12", accept_language="fr"))
    response = await browser.get("/metrics", user_agent="Prometheus/3")
    assert isinstance(response.body, bytes)
    text = response.body.decode("utf-8")
    for lesson in node.views:
        assert lesson not in text
        assert node.views[lesson].manifest.title not in text
    assert "Firefox" not in text
    assert "Prometheus" not in text


async def test_metrics_are_read_anew_each_time_and_are_in_no_registry(browser: Browser, node: NodeInMemory) -> None:
    assert of(await told(browser), "edgeshare_origin_bytes_total", reason="alone") == 7
    node.origin_bytes = {"alone": 9}
    assert of(await told(browser), "edgeshare_origin_bytes_total", reason="alone") == 9
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("edgeshare")]


# Who gets them


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.53", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_gets_them(node: NodeInMemory, address: str) -> None:
    browser = Browser(on_the_lan(node))
    assert (await browser.get("/metrics", local=(address, 8470))).status == 200


@pytest.mark.parametrize("host", ["salle12:8470", "salle12.local:8470", "192.168.1.2:8470", "localhost:8470"])
async def test_the_lan_gets_none_and_is_told_why(node: NodeInMemory, host: str) -> None:
    response = await Browser(on_the_lan(node)).get("/metrics", host=host, local=LAN)
    assert response.status == 403
    assert isinstance(response.body, bytes)
    assert b"metrics_on_lan" in response.body
    assert b"edgeshare_" not in response.body


async def test_who_comes_through_a_proxy_on_this_machine_gets_none(node: NodeInMemory) -> None:
    handler = on_the_lan(node, allowed_hosts=("lecons.college.example.fr",))
    response = await Browser(handler).get("/metrics", host="lecons.college.example.fr")
    assert response.status == 403


async def test_the_lan_gets_them_where_the_config_says_so(node: NodeInMemory) -> None:
    browser = Browser(on_the_lan(node, metrics_on_lan=True))
    assert (await browser.get("/metrics", host="salle12.local:8470", local=LAN)).status == 200
    assert (await browser.get("/metrics", host="attacker.com", local=LAN)).status == 421


async def test_a_strange_name_gets_none(browser: Browser) -> None:
    assert (await browser.get("/metrics", host="attacker.com")).status == 421


async def test_a_page_of_another_site_gets_none(browser: Browser) -> None:
    response = await browser.get("/metrics", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
    assert (response.status, response.body) == (403, b"")


async def test_a_lessons_own_origin_has_none(browser: Browser) -> None:
    assert (await browser.get("/metrics", host="maths-6e-fractions.localhost:8470")).status == 404
