"""What holds for every test."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("everywhere", deadline=None)  # a machine that is busy is not wrong
settings.load_profile("everywhere")

# Two at a time is what a machine with two cores bears: of browsers, and of the other whole tests, one each.
_OF_BROWSERS = ("accessibility", "isolation", "lan", "links", "pages", "real_input", "shim_abuse", "video")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which whole tests must not run beside one another (`pytest -n`)."""
    for item in items:
        if item.get_closest_marker("whole"):
            is_browsers = item.path.parent.name == "whole" and item.path.stem.removeprefix("test_") in _OF_BROWSERS
            item.add_marker(pytest.mark.xdist_group("browsers" if is_browsers else "processes"))
