from __future__ import annotations

from pathlib import Path

import pytest

from tests.publish.support import Publisher


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """An empty repository of the publisher cned."""
    return Publisher(tmp_path / "repository", tmp_path / "keys").init()
