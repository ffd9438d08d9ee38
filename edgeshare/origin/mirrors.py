"""The mirrors of one repository: which to ask next, which are set aside and why, and where they moved to.

- The published order counts, among those that are not set aside.
- A mirror that fails rests, longer each time, and starts anew with its first good answer.
- A mirror that sent wrong bytes is set aside for an hour, and twice as long each time; no good answer makes that
  undone. Only when all mirrors sent wrong bytes are they asked all the same, after the rest of any failure: it may be
  the line that spoils them, and a lone origin must not be lost for an hour by one bad byte.
- Where a mirror redirects a folder to is remembered, for ever or for an hour as it says, until it fails there.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from urllib.parse import urlsplit

import attrs

from edgeshare.origin.backoff import delay, exile

PASSING_S = 3600.0  # how long a redirect that says to be temporary is remembered
TAKEN_MOST_S = 120.0  # of nothing but "somebody else was given it", until that counts as a failure
TAKEN_PAUSE_S = 90.0  # between two of those, and they do not belong together: longer than any guard has one wait


@attrs.frozen
class MirrorState:
    """How a mirror is seen at one instant."""

    name: str  # its address, without a login
    is_aside: bool
    until_s: float  # seconds until it may be asked again; 0 when it is not set aside
    reason: str | None  # why it is set aside, as the end of a sentence that begins with its name
    received_bytes: int  # heads and bodies, whatever became of them


def _with_slash(url: str) -> str:
    return url if url.endswith("/") else f"{url}/"


@attrs.define(eq=False)
class Mirror:
    """One mirror and how it behaved. Every `now` is in seconds of one clock that never goes back."""

    url: str = attrs.field(converter=_with_slash)
    name: str = attrs.field(init=False)
    received_bytes: int = attrs.field(default=0, init=False)
    rests_until: float = attrs.field(default=-float("inf"), init=False)
    wrong_until: float = attrs.field(default=-float("inf"), init=False)
    reason: str | None = attrs.field(default=None, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _wrong_times: int = attrs.field(default=0, init=False)
    _taken_since: float | None = attrs.field(default=None, init=False)
    _taken_last: float = attrs.field(default=-float("inf"), init=False)
    _moves: dict[str, tuple[str, float]] = attrs.field(factory=dict, init=False)  # by folder: where to, until when

    def __attrs_post_init__(self) -> None:
        self.name = _without_login(self.url)

    def worked(self) -> None:
        """It gave what was asked for, or has not got it."""
        self._failures = 0
        self._taken_since = None

    def rest(self, now: float, rng: Random, reason: str, *, retry_after_s: float | None = None, least: int = 1) -> None:
        """It failed; `least` has it rest as after so many failures."""
        self._failures = max(self._failures + 1, least)
        self.rests_until = now + delay(self._failures, rng, retry_after_s=retry_after_s)
        self.reason = reason
        self._taken_since = None
        self._moves.clear()

    def exile(self, now: float, rng: Random, reason: str) -> None:
        """It sent wrong bytes."""
        self.rest(now, rng, reason)
        self._wrong_times += 1
        self.wrong_until = now + exile(self._wrong_times, rng)

    def is_taken_for_too_long(self, now: float) -> bool:
        """Whether, with this one, it has said nothing but "somebody else was given it" for longer than is true."""
        if self._taken_since is None or now - self._taken_last > TAKEN_PAUSE_S:
            self._taken_since = now
        self._taken_last = now
        return now - self._taken_since > TAKEN_MOST_S

    def address(self, path: str, now: float) -> str:
        """The URL of a path (percent-encoded), where this mirror is known to have moved it."""
        base, until = self._moves.get(_folder(path), (self.url, float("inf")))
        return (base if now < until else self.url) + path

    def moved(self, path: str, url: str, now: float, *, is_for_good: bool) -> None:
        """It redirected `path` to `url`, and had it there. Only a move of the whole folder can be remembered."""
        if url.endswith(f"/{path}"):
            base = url.removesuffix(path)
            self._moves[_folder(path)] = (base, float("inf") if is_for_good else now + PASSING_S)

    def forget_move(self, path: str) -> bool:
        """Use the published address again; whether another was in use."""
        return self._moves.pop(_folder(path), None) is not None

    def state(self, now: float) -> MirrorState:
        """How it is seen now."""
        until_s = max(0.0, self.rests_until - now, self.wrong_until - now)
        return MirrorState(self.name, until_s > 0, until_s, self.reason if until_s > 0 else None, self.received_bytes)


def usable(mirrors: Iterable[Mirror], now: float) -> list[Mirror]:
    """The mirrors worth asking, some perhaps after a rest, in their order."""
    all_of_them = list(mirrors)
    return [mirror for mirror in all_of_them if mirror.wrong_until <= now] or all_of_them


def _folder(path: str) -> str:
    return path.partition("/")[0]


def _without_login(url: str) -> str:
    """The URL as it may stand in a message: a password in it is nobody's business."""
    login = urlsplit(url).netloc.rpartition("@")[0]
    return url.replace(f"{login}@", "", 1) if login else url
