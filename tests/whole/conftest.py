"""What the tests with real processes share: a site, a browser, and a place for what they measured."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from .support import Measured, Site, needed, needed_library, open_site

_LINES = pytest.StashKey[list[str]]()

# Chromium speaks to this machine only, and does nothing on its own account.
_CHROMIUM = (
    "--no-sandbox",  # root has none; what it opens here is ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1",
    "--autoplay-policy=no-user-gesture-required",
)


@pytest.fixture
def site() -> Iterator[Site]:
    """A publisher and nodes; their folder, unlike pytest's, is one that nginx's and opentracker's users can enter."""
    with tempfile.TemporaryDirectory(prefix="edgeshare-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with open_site(folder) as opened:
            yield opened


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    program = needed("chromium")
    needed_library("libatomic.so.1")  # playwright's Node.js is linked with it
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, headless=True, args=_CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Keeps a line for pytest's summary."""
    lines = request.config.stash.setdefault(_LINES, [])
    return lambda line: lines.append(f"{request.node.name}: {line}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was measured."""
    if lines := config.stash.get(_LINES, []):
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
