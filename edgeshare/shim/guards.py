"""The headers that keep pages, lessons and strangers apart, and the refusal of requests that other sites make. Pure.

- Our own pages load nothing but our own style and script, and cannot be framed.
- A lesson may run its scripts, and reach nothing but itself: it can neither call out nor be read from outside. What CSP
  does not cover (WebRTC, speculation rules, connecting ahead, leaving) `Connection-Allowlist` does, which
  Chromium knows since 2026; no header stops these in other browsers.
- At its own web origin a lesson has storage; under our own address it is sandboxed into an origin without a name, as
  `allow-same-origin` would make one origin of all lessons and of our pages. There it loads from its own folder only.
- What answers for a lesson is this node and no worker of the lesson's, or the lesson could outlive its withdrawal.
- No cookies and no `Access-Control-Allow-*`, ever.
"""

from __future__ import annotations

from typing import Final

import attrs

from edgeshare.httpd.messages import Request, Response
from edgeshare.manifest import LessonId

Headers = tuple[tuple[str, str], ...]

_EVERYWHERE: Final[Headers] = (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"))
_SELF: Final = "'self'"
_SAME_ORIGIN: Final = ("cross-origin-resource-policy", "same-origin")
_WINDOWS_APART: Final[Headers] = (("cross-origin-opener-policy", "same-origin"), ("origin-agent-cluster", "?1"))
_FOREIGN: Final = ("cross-site", "same-site")  # of one site are all ports of a machine, and all names of a domain
# A file may be saved, a page printed, a question asked; what matters is not there: `allow-same-origin`, and to lead the
# whole tab elsewhere from a frame.
_SANDBOX: Final = "allow-scripts allow-forms allow-popups allow-downloads allow-modals"
# What a page may ask a browser for, or do unasked, that reaches people, devices or networks. Films may fill the screen.
_REFUSED_POWERS: Final = (
    *("accelerometer", "browsing-topics", "camera", "clipboard-read", "display-capture", "geolocation", "gyroscope"),
    *("hid", "identity-credentials-get", "idle-detection", "local-fonts", "local-network", "local-network-access"),
    *("loopback-network", "magnetometer", "microphone", "midi", "otp-credentials", "payment"),
    *("publickey-credentials-get", "serial", "storage-access", "usb", "window-management", "xr-spatial-tracking"),
)
_POWERLESS: Final[Headers] = (
    ("permissions-policy", ", ".join(f"{power}=()" for power in _REFUSED_POWERS)),
    ("x-dns-prefetch-control", "off"),  # a name that is looked up is a message, too
)
FORGET: Final[Headers] = (("clear-site-data", '"storage"'),)  # of this very origin
_OWN_POLICY: Final = (
    "default-src 'none'; style-src {style}; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def of_our_own(style: str = "'self'") -> Headers:
    """For our pages and the API; `style` is the source of style sheets in CSP's words."""
    policy = ("content-security-policy", _OWN_POLICY.format(style=style))
    return (policy, ("cross-origin-opener-policy", "same-origin"), _SAME_ORIGIN, *_EVERYWHERE)


def of_lesson_at_its_origin(home: str | None) -> Headers:
    """For a lesson's files at its own web origin; `home` is the origin of our pages when both are on this machine.

    Only there, or by TLS, do browsers keep windows apart when they are told to; elsewhere they would complain.
    """
    ancestors, apart = (f"'self' {home}", _WINDOWS_APART) if home else ("'self'", ())
    policy = f"{_lesson_policy(_SELF)}; frame-ancestors {ancestors}"
    return (("content-security-policy", policy), *apart, _SAME_ORIGIN, *_EVERYWHERE)


def of_lesson_in_sandbox(lesson: LessonId, host: str) -> Headers:
    """For a lesson's files below `/lessons/`; `host` is the request's Host, which is ours.

    Without Cross-Origin-Resource-Policy: a sandboxed page's origin is the same as none, not even as its own pictures'.
    """
    # To `self` belong all lessons there; but CSP cannot say an IPv6 address (CSP 3, "host-source").
    own = _SELF if host.startswith("[") else f"{host.lower()}/lessons/{lesson}/"
    policy = f"{_lesson_policy(own)}; frame-ancestors 'self'; sandbox {_SANDBOX}"
    return (("content-security-policy", policy), *_EVERYWHERE)


def confining(home: str | None) -> Headers:
    """For every answer that a lesson could make a document of its own origin, our pages about its errors too.

    What it opens there it can change as it likes, and speak through it. `home` is the origin of our pages; None lets
    lessons lead outside, and with that speak to it.
    """
    inside = (("connection-allowlist", f'(response-origin "{home}/*")'),) if home else ()
    return (*inside, *_POWERLESS)


def by_plain_http(response: Response) -> Response:
    """`response` without what browsers obey by TLS and on their own machine only, and complain of elsewhere."""
    names = [name for name, _ in _WINDOWS_APART]
    return attrs.evolve(response, headers=tuple(each for each in response.headers if each[0] not in names))


def nothing() -> Headers:
    """For an empty answer: the document that a browser makes of it has no origin, and so is nobody's to use."""
    return (("content-security-policy", "default-src 'none'; sandbox"), ("cache-control", "no-store"))


def is_from_another_site(request: Request) -> bool:
    """Whether a page of another origin asks, other than by leading its reader here (Fetch Metadata).

    Browsers that do not say are believed: this is a second line of defence.
    """
    return request.header("sec-fetch-site") in _FOREIGN and request.header("sec-fetch-mode") != "navigate"


def is_framed(request: Request) -> bool:
    """Whether another site's page opens this inside itself, which its reader may not even see."""
    kind = request.header("sec-fetch-dest")
    return request.header("sec-fetch-site") in _FOREIGN and kind in ("iframe", "frame", "embed", "object")


def is_part_of_a_page(request: Request) -> bool:
    """Whether a page asks for a picture, style, script or film; to a sandboxed page even its own are another site's."""
    return request.header("sec-fetch-mode") == "no-cors"


def is_for_a_service_worker(request: Request) -> bool:
    """Whether a lesson wants a script to answer in the node's place from now on (Service Workers, "Service-Worker")."""
    return request.header("service-worker") is not None


def _lesson_policy(own: str) -> str:
    sources = f"default-src {own} 'unsafe-inline' 'unsafe-eval' data: blob:"
    return f"{sources}; base-uri {own}; form-action {own}"
