"""What the server and its handlers exchange, and the gate a request passes on its way in. Pure.

A request that breaks a rule of the gate is answered without its target or its Host being repeated, and the connection
closes. The rules:

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
from typing import Protocol
from urllib.parse import unquote_to_bytes

import attrs
import h11
from attrs.validators import ge, lt, optional

BODILESS = (204, 304)  # statuses without a body and without a length of their own (RFC 9110 §8.6)

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff]+(?:[ \t]+[\x21-\x7e\x80-\xff]+)*)?")
_SERVER_WRITES = frozenset({"content-length", "transfer-encoding", "date", "server"})


@attrs.frozen
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
        values = [value for known, value in self.headers if known == name]
        return ", ".join(values) if values else None


class OpenFile(Protocol):
    """What owns an open descriptor, like `io.FileIO`."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...


@attrs.frozen
class FileBody:
    """`count` bytes of an open file from `start`, sent by sendfile(2). The server closes the file, whatever happens."""

    file: OpenFile
    start: int = attrs.field(validator=ge(0))
    count: int = attrs.field(validator=ge(0))


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

    status: int = attrs.field(validator=[ge(200), lt(600)])
    headers: tuple[tuple[str, str], ...] = ()
    body: Body = b""

    def __attrs_post_init__(self) -> None:
        for name, value in self.headers:
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"not a header: {name!r}: {value!r}")
            if name.lower() in _SERVER_WRITES:
                raise ValueError(f"{name} is written by the server")


class Refused(Exception):
    """The request breaks a rule; `response` says so and ends the connection."""

    def __init__(self, status: int, *headers: tuple[str, str], body: bytes = b"") -> None:
        super().__init__(status)
        self.response = Response(status, (*headers, ("connection", "close")), body)


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
    target = event.target.decode("ascii")
    raw_path, _, query = target.partition("?")
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400) from error
    if not raw_path.startswith("/") or _BROKEN_ESCAPE.search(raw_path) or "\0" in path:
        raise Refused(400)
    return Request(method, target, path, query, host, headers, local)


def head(response: Response) -> h11.Response:
    """The head of a response, with its length, where one is known and may be told, and the date."""
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.headers]
    headers.append((b"date", formatdate(usegmt=True).encode("ascii")))
    match response.body:
        case bytes(body):
            length: int | None = len(body)
        case FileBody(count=length) | StreamBody(size=length):
            pass
    if length is not None and response.status not in BODILESS:
        headers.append((b"content-length", str(length).encode("ascii")))
    reason = http.client.responses.get(response.status, "").encode("ascii")
    return h11.Response(status_code=response.status, headers=headers, reason=reason)
