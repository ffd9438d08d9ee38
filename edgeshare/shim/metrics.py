"""`/metrics` for Prometheus: the figures of `view.NodeStatus`, and nothing besides.

- Counts only: no address, no name of a reader, and no lesson. What somebody opens is nobody's figure.
- A label's values are few and known beforehand: reasons, states, the config's catalogues and mirrors.
- Nothing is kept here, in no registry of the whole process: what the parts count is read when somebody asks.
- Given to this machine alone, unless the config says otherwise (docs/metrics.md has the reasons).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from edgeshare.freshness import Clock
from edgeshare.httpd.messages import Response
from edgeshare.refusals import Refusal
from edgeshare.shim import guards
from edgeshare.shim.guards import Headers
from edgeshare.view import MirrorView, NodeStatus, State

# The plain format of 2014, which every Prometheus reads: nothing here needs a later one, so nothing is negotiated.
_HEADERS: Final[Headers] = (
    *guards.of_our_own(),
    ("content-type", CONTENT_TYPE_PLAIN_0_0_4),
    ("cache-control", "no-store"),
)
_ELSEWHERE: Final = b"Only this machine gets metrics, at localhost: `metrics_on_lan` in the config gives them to all.\n"


class NodeCollector(Collector):
    """A node's status as metrics."""

    def __init__(self, status: NodeStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Every metric there is, those without a value yet with no sample."""
        status = self._status
        yield InfoMetricFamily(
            "edgeshare_build", "The node's version and profile.", {"version": status.version, "profile": status.profile}
        )
        yield from _traffic(status)
        yield from _lessons(status)
        yield from _trust(status)
        yield from _mirrors(status.mirrors)
        yield from _readers(status)


def exposition(status: NodeStatus) -> Response:
    """All metrics, as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(status))
    return Response(200, _HEADERS, generate_latest(registry))


def withheld() -> Response:
    """What others on the network get, where the config does not give them the metrics."""
    text = ("content-type", "text/plain; charset=utf-8")
    return Response(403, (*guards.of_our_own(), text, ("cache-control", "no-store")), _ELSEWHERE)


def _traffic(status: NodeStatus) -> Iterator[Metric]:
    origin = CounterMetricFamily(
        "edgeshare_origin_bytes",
        "Bytes received from the origins since the daemon started, HTTP headers included, by the reason for asking.",
        labels=("reason",),
    )
    for reason, count in sorted(status.origin_bytes.items()):
        origin.add_metric((reason,), count)
    yield origin
    yield CounterMetricFamily(
        "edgeshare_peer_bytes", "Bytes of content received from peers since the daemon started.", status.peer_bytes
    )
    yield CounterMetricFamily(
        "edgeshare_uploaded_bytes", "Bytes of content sent to peers since the daemon started.", status.uploaded_bytes
    )
    yield CounterMetricFamily(
        "edgeshare_outside_bytes",
        "Bytes to and from the outside since this month began, by this machine's clock; kept through restarts.",
        status.outside_bytes,
    )
    yield GaugeMetricFamily(
        "edgeshare_upload_limit_bytes_per_second",
        "What may go to the outside now; 0 is no limit.",
        status.limits.upload,
    )
    yield GaugeMetricFamily(
        "edgeshare_download_limit_bytes_per_second",
        "What may come from the outside now; 0 is no limit.",
        status.limits.download,
    )
    yield GaugeMetricFamily(
        "edgeshare_link_metered",
        "Whether only what somebody asks for is fetched, and nothing given to the outside (1), or not (0).",
        int(status.limits.is_metered),
    )
    yield GaugeMetricFamily("edgeshare_peers", "Peers connected now, counted once for each content.", status.peers)


def _lessons(status: NodeStatus) -> Iterator[Metric]:
    lessons = GaugeMetricFamily("edgeshare_lessons", "Lessons by where they stand on this node.", labels=("state",))
    for state in State:  # each, or a graph would have holes where there is none in it
        lessons.add_metric((state.value,), status.lessons.get(state, 0))
    yield lessons
    yield GaugeMetricFamily("edgeshare_disk_free_bytes", "Free bytes on the library's disk.", status.free_bytes)


def _trust(status: NodeStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "edgeshare_metadata_fresh",
        "Whether the origin's metadata is fresh (1), or expired or not here yet (0): then nothing new is accepted.",
        int(status.freshness.is_fresh),
    )
    yield GaugeMetricFamily(
        "edgeshare_metadata_expiry_timestamp_seconds",
        "When the metadata stops being fresh, in seconds since 1970.",
        status.freshness.expires.timestamp() if status.freshness.expires else None,
    )
    yield GaugeMetricFamily(
        "edgeshare_metadata_signed_timestamp_seconds",
        "When the newest metadata was signed, in seconds since 1970.",
        status.freshness.issued.timestamp() if status.freshness.issued else None,
    )
    yield GaugeMetricFamily(
        "edgeshare_clock_plausible",
        "Whether this machine's clock can be right (1), by what the metadata says, or can hardly be (0).",
        int(status.freshness.clock is Clock.PLAUSIBLE),
    )
    refused = CounterMetricFamily(
        "edgeshare_metadata_refused", "Refreshes that brought nothing, by the reason.", labels=("reason",)
    )
    for refusal in Refusal:
        refused.add_metric((refusal.value,), status.refused.get(refusal, 0))
    yield refused
    edition = GaugeMetricFamily(
        "edgeshare_catalogue_edition", "The edition of each catalogue that is here.", labels=("catalogue",)
    )
    issued = GaugeMetricFamily(
        "edgeshare_catalogue_issued_timestamp_seconds",
        "When that edition was issued, in seconds since 1970.",
        labels=("catalogue",),
    )
    for each in status.catalogues:
        if each.edition is not None:
            edition.add_metric((each.name,), each.edition)
        if each.issued is not None:
            issued.add_metric((each.name,), each.issued.timestamp())
    yield edition
    yield issued


def _mirrors(mirrors: tuple[MirrorView, ...]) -> Iterator[Metric]:
    aside = GaugeMetricFamily(
        "edgeshare_mirror_aside", "Whether a mirror is set aside for a while (1) or asked (0).", labels=("mirror",)
    )
    received = CounterMetricFamily(
        "edgeshare_mirror_received_bytes",
        "Bytes received from a mirror since the daemon started, HTTP headers included.",
        labels=("mirror",),
    )
    for name in dict.fromkeys(mirror.name for mirror in mirrors):  # one may be named twice, with two logins
        same = [mirror for mirror in mirrors if mirror.name == name]
        aside.add_metric((name,), int(all(mirror.is_aside for mirror in same)))
        received.add_metric((name,), sum(mirror.received_bytes for mirror in same))
    yield aside
    yield received


def _readers(status: NodeStatus) -> Iterator[Metric]:
    served = CounterMetricFamily(
        "edgeshare_served_bytes",
        "Bytes of bodies sent to readers since the daemon started, by where they came from; counted as answers end.",
        labels=("source",),
    )
    for source, count in status.served_bytes.items():
        served.add_metric((source,), count)
    yield served
    yield GaugeMetricFamily(
        "edgeshare_readers",
        "Connections that readers have open now, the one that asks for this included.",
        status.readers,
    )
