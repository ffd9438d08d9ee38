"""What the server and its handlers exchange, and the gate a request passes on its way in. Pure.

A request that breaks a rule of the gate is answered without its target or its Host being repeated, and the connection
closes. The rules, besides those of `heads` for the bytes themselves:

- Exactly one `Host`, not empty, in HTTP/1.0 too (400).
- No Transfer-Encoding (400), GET and HEAD only (405), and neither with a body (400).
- A target that begins with `/`, no absolute form, in percent-encoded UTF-8 without NUL (400).
"""

from __future__ import annotations

import http.client
import re
from collections.abc import AsyncIterable
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

import attrs
import h11
from attrs.validators import ge, optional

BODILESS = (204, 304)  # statuses without a body and without a length of their own (RFC 9110 §8.6)

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff]+(?:[ \t]+[\x21-\x7e\x80-\xff]+)*)?")
_SERVER_WRITES = frozenset({"content-length", "transfer-encoding", "date", "server"})
_HEADS_KEPT: Final = 512  # of 1 kB each
_LAST: Final = b"connection: close\r\n"
_CHUNKED: Final = b"transfer-encoding: chunked\r\n"


@attrs.frozen(cache_hash=True)
class Request:
    """A request that has passed the gate. Whether its Host is ours is for the handler to judge."""

    method: str  # GET or HEAD
    target: str  # as sent: path and query
    path: str  # percent-decoded once, begins with `/`; `..`, empty parts and control characters are kept
    query: str  # as sent, without the `?`
    host: str  # the header's value as sent, never empty
    headers: tuple[tuple[str, str], ...]  # names in lower case, in order
    local: tuple[str, int]  # address and port of this end of the connection; ("", 0) without a socket

    def header(self, name: str) -> str | None:
        """The value of a header, several of one name joined by commas (RFC 9110 §5.3); `name` in lower case."""
        joined = None
        for known, value in self.headers:
            if known == name:
                joined = value if joined is None else f"{joined}, {value}"
        return joined


class OpenFile(Protocol):
    """What owns an open descriptor, like `io.FileIO`."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...


@attrs.frozen
class FileBody:
    """`count` bytes of an open file from `start`, sent by sendfile(2). The server closes the file, whatever happens."""

    file: OpenFile
    start: int
    count: int

    def __attrs_post_init__(self) -> None:
        if self.start < 0 or self.count < 0:
            raise ValueError("a part's start and count must be >= 0")


@attrs.frozen
class StreamBody:
    """Bytes made while they are sent; a response that holds it is sent once.

    `chunks` is entered when the head is out, and left at the end, when the client leaves, and at shutdown. A producer
    may hold a nursery open inside; `trio.as_safe_channel` makes one of an async generator. It is never entered for
    HEAD, so what must be closed is opened on entering. Without a `size` in bytes the body goes chunked.
    A producer that cannot go on ends short of `size` (the connection breaks), or raises (it is logged, too).
    """

    chunks: AbstractAsyncContextManager[AsyncIterable[bytes]]
    size: int | None = attrs.field(validator=optional(ge(0)))


Body = bytes | FileBody | StreamBody


@attrs.frozen
class Response:
    """Status, headers and body. The server itself writes length and date; `("connection", "close")` is obeyed."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Body = b""
    lines: bytes = attrs.field(init=False, eq=False, repr=False)  # of the headers, as they are sent
    is_last: bool = attrs.field(init=False, eq=False, repr=False)  # it ends its connection

    def __attrs_post_init__(self) -> None:
        if not 200 <= self.status < 600:
            raise ValueError("a final status must be from 200 to 599")
        lines, is_last = _written(self.headers)
        object.__setattr__(self, "lines", lines)  # as attrs does for what is frozen
        object.__setattr__(self, "is_last", is_last)


# At a lesson's own web origin, too, there is a document that no handler has seen: it may not speak for the lesson.
CONFINED: Final = ("content-security-policy", "default-src 'none'; sandbox")


class Refused(Exception):
    """The request breaks a rule; `response` says so and ends the connection."""

    def __init__(self, status: int, *headers: tuple[str, str], body: bytes = b"") -> None:
        super().__init__(status)
        self.response = Response(status, (*headers, CONFINED, ("connection", "close")), body)


def checked(event: h11.Request, local: tuple[str, int]) -> Request:
    """The request of h11's event, by the rules above; h11 has refused two Hosts already, and none in HTTP/1.1.

    Raises:
        Refused: it breaks one of them.
    """
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    fields = dict(headers)
    host = fields.get("host")
    if not host or "transfer-encoding" in fields:  # a Content-Length beside it may be smuggling; no need to find out
        raise Refused(400)
    method = event.method.decode("ascii")
    if method not in ("GET", "HEAD"):
        raise Refused(405, ("allow", "GET, HEAD"))
    if int(fields.get("content-length", "0")):  # digits, 20 at most, as h11 has seen to
        raise Refused(400)
    return Request(method, *located(event.target.decode("ascii")), host, headers, local)


def located(target: str) -> tuple[str, str, str]:
    """A request's target as it was sent, its path decoded, and its query; `target` is ASCII.

    Raises:
        Refused: it is no path, or not one that could be meant.
    """
    raw_path, _, query = target.partition("?")
    if not raw_path.startswith("/"):
        raise Refused(400)
    if "%" not in raw_path:
        return target, raw_path, query
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400) from error
    if _BROKEN_ESCAPE.search(raw_path) or "\0" in path:
        raise Refused(400)
    return target, path, query


@lru_cache(maxsize=_HEADS_KEPT)
def _written(headers: tuple[tuple[str, str], ...]) -> tuple[bytes, bool]:
    """The lines of these headers, and whether one of them ends the connection.

    Kept for the next response with the same ones: a page's files differ in tag and type only.

    Raises:
        ValueError: one of them is broken, or the server's to write.
    """
    lines, closes = [], False
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"not a header: {name!r}: {value!r}")
        if name.lower() in _SERVER_WRITES:
            raise ValueError(f"{name} is written by the server")
        closes = closes or (name.lower() == "connection" and value.lower() == "close")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1"), closes


def head(response: Response, *, length: int | None, now_s: float, closes: bool, is_chunked: bool = False) -> bytes:
    """The head of a response whose body has `length` bytes, where that is known and may be told.

    `now_s` is the time by the wall's clock, and `closes` that this response is the connection's last.
    """
    end = _LAST if closes and not response.is_last else b""
    if is_chunked:
        end += _CHUNKED
    elif length is not None and response.status not in BODILESS:
        end += b"content-length: %d\r\n" % length
    return b"%b%bdate: %b\r\n%b\r\n" % (_status_line(response.status), response.lines, _date(int(now_s)), end)


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {http.client.responses.get(status, '')}\r\n".encode("ascii")


@lru_cache(maxsize=1)
def _date(now_s: int) -> bytes:
    return formatdate(now_s, usegmt=True).encode("ascii")
