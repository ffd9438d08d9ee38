from __future__ import annotations

from pathlib import Path

import pytest

from tests.publish.support import Editor, Publisher


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """An empty repository of the publisher cned."""
    return Publisher(tmp_path / "repository", tmp_path / "keys").init()


@pytest.fixture
def editor(publisher: Publisher, capsys: pytest.CaptureFixture[str]) -> Editor:
    """Somebody who types commands for that repository."""
    return Editor(publisher, capsys)
