"""A page in the browser, and everything about it that its reader would not like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from playwright.sync_api import Browser, Page, Request

# Pictures further down load when they are scrolled to; decoding fails for those that are not pictures.
_BROKEN_PICTURES = """async () => {
    const broken = [];
    for (const picture of document.images) {
        picture.loading = "eager";
        try { await picture.decode(); } catch { }
        if (!picture.complete || picture.naturalWidth === 0) broken.push(picture.src);
    }
    return broken;
}"""


@attrs.define
class Visit:
    """One tab, and what went wrong in it."""

    page: Page
    troubles: list[str] = attrs.field(factory=list)

    def open(self, url: str) -> None:
        """Go to `url` and wait until everything on it is loaded."""
        self.page.goto(url, wait_until="load", timeout=30_000)

    def is_whole(self) -> bool:
        """Whether nothing failed: every picture shows, no request and no script went wrong. Fails with what did."""
        broken: Any = self.page.evaluate(_BROKEN_PICTURES)
        assert broken == [], f"{self.page.url}: pictures that do not show: {broken}"
        assert self.troubles == [], f"{self.page.url}: {self.troubles}"
        return True

    @property
    def pictures(self) -> int:
        """How many the page has."""
        count: int = self.page.evaluate("document.images.length")
        return count


@contextmanager
def visit(browser: Browser, *, locale: str | None = None) -> Iterator[Visit]:
    """A new tab of a browser that remembers nothing; its reader wants pages in the language of `locale`."""
    context = browser.new_context(locale=locale)
    page = context.new_page()
    seen = Visit(page)
    page.on("console", lambda said: _note(seen, said.type == "error", f"console: {said.text} {said.location['url']}"))
    page.on("pageerror", lambda error: _note(seen, True, f"script: {error}"))
    page.on("requestfailed", lambda request: _note(seen, not _is_let_go(request), f"failed: {request.url}"))
    page.on("response", lambda response: _note(seen, response.status >= 400, f"{response.status}: {response.url}"))
    try:
        yield seen
    finally:
        context.close()


def _is_let_go(request: Request) -> bool:
    """Whether Chromium ended the request itself: a film's when it has enough for now, events with their page."""
    return request.resource_type in ("media", "eventsource") and request.failure == "net::ERR_ABORTED"


def _note(seen: Visit, is_trouble: bool, line: str) -> None:
    if is_trouble:
        seen.troubles.append(line)
