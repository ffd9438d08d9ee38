"""The headers that keep pages, lessons and strangers apart, and the refusal of requests that other sites make. Pure.

- Our own pages load nothing but our own style and script, and cannot be framed.
- A lesson may run its scripts, and reach nothing but itself: it can neither call out nor be read from outside.
- At its own web origin a lesson has storage; under our own address it is sandboxed into an origin without a name, as
  `allow-same-origin` would make one origin of all lessons and of our pages.
- No cookies and no `Access-Control-Allow-*`, ever.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from edgeshare.httpd.messages import Request

Headers = tuple[tuple[str, str], ...]

_EVERYWHERE: Final[Headers] = (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"))
_SAME_ORIGIN: Final = ("cross-origin-resource-policy", "same-origin")
_OWN_POLICY: Final = (
    "default-src 'none'; style-src {style}; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def of_our_own(style: str = "'self'") -> Headers:
    """For our pages and the API; `style` is the source of style sheets in CSP's words."""
    policy = ("content-security-policy", _OWN_POLICY.format(style=style))
    return (policy, ("cross-origin-opener-policy", "same-origin"), _SAME_ORIGIN, *_EVERYWHERE)


def of_lesson_at_its_origin(port: int) -> Headers:
    """For every answer at `<lesson id>.localhost`."""
    return (("content-security-policy", _lesson_policy(port)), _SAME_ORIGIN, *_EVERYWHERE)


def of_lesson_in_sandbox(port: int) -> Headers:
    """For every answer below `/lessons/`.

    Without Cross-Origin-Resource-Policy: a sandboxed page's origin is the same as none, not even as its own pictures'.
    """
    policy = f"{_lesson_policy(port)}; sandbox allow-scripts allow-forms allow-popups"
    return (("content-security-policy", policy), *_EVERYWHERE)


def source_of(inline: str) -> str:
    """What permits this very text of an inline style, in CSP's words."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def is_from_another_site(request: Request) -> bool:
    """Whether a page of another site asks, other than by leading its reader here (Fetch Metadata).

    Browsers that do not say are believed: this is a second line of defence.
    """
    return request.header("sec-fetch-site") == "cross-site" and request.header("sec-fetch-mode") != "navigate"


def is_framed(request: Request) -> bool:
    """Whether another site's page opens this inside itself, which its reader may not even see."""
    kind = request.header("sec-fetch-dest")
    return request.header("sec-fetch-site") == "cross-site" and kind in ("iframe", "frame", "embed", "object")


def is_part_of_a_page(request: Request) -> bool:
    """Whether a page asks for a picture, style, script or film; to a sandboxed page even its own are another site's."""
    return request.header("sec-fetch-mode") == "no-cors"


def _lesson_policy(port: int) -> str:
    home = "http://localhost" if port == 80 else f"http://localhost:{port}"
    return (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
        f"frame-ancestors 'self' {home}; form-action 'self'"
    )
