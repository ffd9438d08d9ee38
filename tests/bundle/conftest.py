from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.support.sticks import School


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> School:
    """A school that has fetched two lessons; made once, and only looked at."""
    school = School(tmp_path_factory.mktemp("made"))
    school.publish()
    trio.run(school.hear)
    return school


@pytest.fixture
def school(made: School, tmp_path: Path) -> School:
    """The same for one test, to be altered."""
    return made.copy(tmp_path / "school")
