"""edgeshare: schools and homes share lessons among themselves, so that the publisher's servers stay calm."""

from datetime import UTC, datetime
from typing import Final

__version__ = "0.1.0"
RELEASED: Final = datetime(2026, 11, 1, tzinfo=UTC)  # no machine that runs this lives before; raised with each release
