"""What one answer of a server is worth: what is refused, in the words that `status` shows.

Each reason is the end of a sentence that begins with the mirror's name.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

import httpx

from edgeshare.origin.backoff import retry_after


class Refused(Exception):
    """One mirror's answer is of no use."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class TakenHere(Refused):
    """One mirror's guard gave it to somebody else."""


class WrongBytes(Refused):
    """One mirror sends something else than was published."""


class TooLong(Refused):
    """One mirror sends, or announces, more than a file of that name may have."""


class TooSlow(Exception):
    """One mirror's answer did not come in time."""


def whole(response: httpx.Response, most: int) -> int:
    """How long the body of a whole file is to be, -1 when it is not announced; raises as `_common`."""
    _common(response)
    if response.status_code != 200:
        raise Refused("sends a part where the whole was asked for")
    if _is_html(response):
        raise Refused("answers with a web page (a login page?)")
    length = announced(response)
    if length > most:
        raise TooLong(f"announces {length} bytes, more than {most}")
    return length


def part(response: httpx.Response, start: int, stop: int, size: int) -> int:
    """How long the body of a part of a file is to be; raises as `_common`."""
    _common(response)
    length = announced(response)
    if response.status_code == 200:
        # A lesson's pages are HTML as well: it is another page when it is not as long.
        if _is_html(response) and ((start, stop) != (0, size) or length not in (-1, size)):
            raise Refused("answers with a web page (a login page?)")
        if (start, stop) != (0, size):
            raise Refused("cannot send a part of a file")
    elif response.headers.get("Content-Range") != f"bytes {start}-{stop - 1}/{size}":
        raise Refused("sends another part of the file, or another file, than was asked for")
    if length not in (-1, stop - start):
        raise Refused(f"announces {length} bytes where {stop - start} were asked for")
    return stop - start


def announced(response: httpx.Response) -> int:
    """How long the body claims to be, -1 when it does not."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else -1


def next_url(here: httpx.URL, target: httpx.URL) -> str:
    """Where a redirect leads: the same server only, or its https.

    Raises:
        Refused: it leads elsewhere.
    """
    if (here.scheme, target.scheme) == ("https", "http"):
        raise Refused("redirects from https to http")
    is_same = (target.scheme, target.netloc) == (here.scheme, here.netloc)
    is_safer = (here.scheme, target.scheme) == ("http", "https") and target.host == here.host
    if not (is_same or is_safer):
        raise Refused("redirects to another place (a login page?)")
    return str(target.copy_with(userinfo=here.userinfo))


def said(error: Exception) -> str:
    """What a mirror did, as the end of a sentence."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, httpx.TimeoutException | TooSlow):
        return "is too slow"
    if isinstance(error, httpx.ProxyError):
        return "cannot be reached through the proxy (does it ask for a login?)"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return "has a certificate that this machine does not trust (is a proxy between, or the clock wrong?)"
    if isinstance(error, httpx.ConnectError):
        return "cannot be reached"
    if isinstance(error, httpx.RemoteProtocolError):
        return "breaks off in the middle, or does not speak HTTP"
    return f"broke the connection ({type(error).__name__})"


def _common(response: httpx.Response) -> None:
    """Refuse what no origin of ours would say.

    Raises:
        FileNotFoundError: there is no such file.
        Refused: the answer is of no use.
    """
    status = response.status_code
    if status in (404, 410):
        raise FileNotFoundError
    if status in (429, 503):
        patience = retry_after(response.headers.get("Retry-After"), time.time())
        if status == 429 and response.headers.get("Edgeshare-Range") == "taken":
            raise TakenHere("gave it to somebody else a moment ago", retry_after_s=patience)
        raise Refused("asks for patience", retry_after_s=patience)
    if status == 407:
        raise Refused("is behind a proxy that asks for a login (407)")
    if status not in (200, 206):
        raise Refused(f"answers {status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused("sends compressed bytes, which were not asked for")


def _is_html(response: httpx.Response) -> bool:
    return str(response.headers.get("Content-Type", "")).lower().startswith("text/html")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
