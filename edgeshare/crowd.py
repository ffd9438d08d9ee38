"""How many nodes are after the same lesson: an estimate from what is heard, pure.

The tracker's count is the best there is, and may be old, wrong or missing. Peers that are connected or known by
address (from the tracker, peer exchange, the DHT or the local network) are a lower bound that nobody can talk down.
What the manifest expects counts only while the tracker is silent: without it, in a crowd whose tracker is down, every
node would take itself for the only one.
"""

from __future__ import annotations

import attrs

UNEXPECTED = 100  # nodes, where the tracker is silent and the manifest expects nothing
MOST = 20_000_000  # a country's pupils and teachers; a tracker that says more is wrong
PATIENCE_S = 1.5  # until a node that no tracker was named to believes that nobody else is there


@attrs.frozen
class Gathering:
    """What a node knows of a swarm without hearing from it."""

    has_tracker: bool  # somebody named one
    audience: int | None  # nodes that the manifest expects
    joined_s: float  # when this node joined
    patience_s: float = PATIENCE_S

    def crowd(self, *, connected: int, known: int, tracker: int | None, now_s: float) -> int:
        """Nodes believed to be after the lesson, this one included; at least 1.

        `connected` and `known` count peers, the latter by address; a tracker names this node too. `tracker` is its
        count, with this node in it; None while it has not answered.
        """
        seen = max(1 + connected, known)
        if tracker is not None:
            return max(seen, min(tracker, MOST))
        if self.has_tracker or now_s - self.joined_s < self.patience_s:
            return max(seen, min(self.audience or UNEXPECTED, MOST))
        return seen
