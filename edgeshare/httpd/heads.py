"""The bytes that a client sends, as requests. Sans-I/O: bytes in, requests and refusals out.

A head is read by h11, which takes 0.1 ms; the very same bytes once more are the same request, and cost nothing. Against
smuggling, where two programs see two requests in the same bytes, a head is refused (400) that

- has a line which ends otherwise than by CR LF, or continues the one before (obs-fold, RFC 9112 §5.2);
- is not read whole, from its first byte to its last, as one request.

A head has at most `HEAD_BYTES` (431). After a refusal nothing more may be asked of it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import attrs
import h11

from edgeshare.httpd.messages import Refused, Request, checked

HEAD_BYTES: Final = 16 * 1024  # a browser sends under 2 KiB; more is no reader
KEPT, KEPT_BYTES = 512, 2048  # heads that are remembered, and how long the longest is

_END = re.compile(rb"\n\r?\n")  # as h11 finds it: any other end would be another request
_LOOSE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]")


@attrs.frozen
class Asked:
    """A request, and what the client makes of its connection."""

    request: Request
    stays: bool  # another may follow
    knows_chunks: bool  # it speaks HTTP/1.1


class Heads:
    """What one connection's client has sent, and what of it is still to be read."""

    def __init__(self, local: tuple[str, int]) -> None:
        self._local = local
        self._pending = b""
        self._searched = 0  # up to here no head ends

    @property
    def pending(self) -> int:
        """Bytes that belong to no request yet."""
        return len(self._pending)

    def receive(self, received: bytes) -> None:
        """Take up what has arrived."""
        self._pending = self._pending + received if self._pending else received

    def next(self) -> Asked | None:
        """The next request; None as long as its head is not complete.

        Raises:
            Refused: it breaks a rule, whatever may still come of it.
        """
        end = _END.search(self._pending, self._searched)
        if end is None:
            self._searched = max(0, len(self._pending) - 2)
            if len(self._pending) > HEAD_BYTES:
                raise Refused(431)
            if self._pending[:1] and self._pending[0] <= 0x20:  # not worth waiting for: no request begins so
                raise Refused(400)
            return None
        stop = end.end()
        if stop > HEAD_BYTES:
            raise Refused(431)
        raw, self._pending, self._searched = self._pending[:stop], self._pending[stop:], 0
        return (_read_before if stop <= KEPT_BYTES else _read)(raw, self._local)


def _read(raw: bytes, local: tuple[str, int]) -> Asked:
    """The request of a complete head, as h11 reads it.

    Raises:
        Refused: it breaks a rule.
    """
    if _LOOSE.search(raw):
        raise Refused(400)
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    http.receive_data(raw)
    try:
        event = http.next_event()
    except h11.RemoteProtocolError as error:
        is_too_long = error.error_status_hint == 431
        raise Refused(431 if is_too_long else 400) from error  # nor 501: no coding at all is a request's here
    if not isinstance(event, h11.Request) or http.trailing_data[0]:
        raise Refused(400)
    request = checked(event, local)
    words = (request.header("connection") or "").lower().split(",")
    knows_chunks = event.http_version >= b"1.1"
    return Asked(request, knows_chunks and all(word.strip(" \t") != "close" for word in words), knows_chunks)


# A class has the same browser thirty times, and a lesson that is opened again is asked for in the same words.
_read_before = lru_cache(maxsize=KEPT)(_read)
