"""What the tests with real processes share: a site, a browser, and a place for what they measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from .support import QUIET_CHROMIUM, Measured, Site, needed, needed_library, open_site

_MEASURED = "measured"

# Chromium speaks to this machine only.
_CHROMIUM = (
    *QUIET_CHROMIUM,
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
def playwright() -> Iterator[Playwright]:
    """What drives browsers; a process can have one at a time."""
    needed_library("libatomic.so.1")  # its Node.js is linked with it
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    chromium = playwright.chromium.launch(executable_path=needed("chromium"), headless=True, args=_CHROMIUM)
    yield chromium
    chromium.close()


@pytest.fixture
def browser_by(browser: Browser) -> Iterator[Callable[[Path], Browser]]:
    """Starts one more Chromium, by a program that runs it somewhere else."""
    started: list[Browser] = []

    def start(program: Path) -> Browser:
        started.append(browser.browser_type.launch(executable_path=program, headless=True, args=_CHROMIUM))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Keeps a line for pytest's summary."""
    kept = request.node.user_properties  # which reach the summary from another process, too
    return lambda line: kept.append((_MEASURED, f"{request.node.name}: {line}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])]
    if lines := [value for each in reports for name, value in each.user_properties if name == _MEASURED]:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
