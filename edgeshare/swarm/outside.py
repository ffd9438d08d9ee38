"""Which peers are outside the local network, and what goes to and comes from them.

Inside is what libtorrent takes for local as well, and puts no limit on: private, link-local and loopback addresses. A
peer of the same network with a public address (IPv6 without ULA, or a campus with addresses of its own) is outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_address, ip_network

import attrs

_LOCAL = tuple(
    map(
        ip_network,
        # RFC 1918, RFC 3927, RFC 4193, RFC 4291
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "127.0.0.0/8",
            "fc00::/7",
            "fe80::/10",
            "::1",
        ),
    )
)


@attrs.frozen
class PeerTraffic:
    """What one connection has carried so far, in bytes of content."""

    peer: tuple[str, int]
    to_peer: int
    from_peer: int


def is_outside(address: str) -> bool:
    """Whether a peer's bytes cross the line to the outside."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return not any(parsed in network for network in _LOCAL)


class Meter:
    """Bytes of content to and from outside peers of one torrent, from looks at its connections.

    What connections carried that ended between two looks is what is missing of the torrent's own sum. It stayed in the
    local network where only such connections are known to have ended; what nobody knows of counts as outside.
    """

    def __init__(self) -> None:
        self.total = 0  # the torrent's own sum at the last look
        self._seen: Mapping[tuple[str, int], PeerTraffic] = {}
        self._explained = 0  # bytes of that sum
        self._ended: set[bool] = set()  # whether outside, since the last look
        self._ended_before: set[bool] = set()  # and before it: the sum may be a second late

    def parted(self, host: str) -> None:
        """A connection with `host` ended."""
        self._ended.add(is_outside(host))

    def rest(self) -> None:
        """Nothing was carried since the last look."""
        self._ended, self._ended_before = set(), self._ended

    def added(self, total: int, now: Iterable[PeerTraffic]) -> int:
        """What went outside since the last look; `total` is the torrent's own sum, to and from all its peers.

        The sum may be older than the look; then what is missing is found at the next one.
        """
        self.total = total
        before, self._seen = self._seen, {each.peer: each for each in now}
        carried = {peer: _added(each, before.get(peer)) for peer, each in self._seen.items()}
        missing = max(0, total - self._explained - sum(carried.values()))
        self._explained += missing + sum(carried.values())
        stayed = self._ended | self._ended_before == {False}
        self.rest()
        return sum(count for (host, _), count in carried.items() if is_outside(host)) + (0 if stayed else missing)


def _added(now: PeerTraffic, before: PeerTraffic | None) -> int:
    """Of one connection, or of another one to the same peer, which counts from nothing."""
    if before is None or now.to_peer < before.to_peer or now.from_peer < before.from_peer:
        return now.to_peer + now.from_peer
    return now.to_peer - before.to_peer + now.from_peer - before.from_peer
