"""Content-Security-Policy, in its own words. Pure."""

from __future__ import annotations

import base64
import hashlib


def source_of(inline: str) -> str:
    """What permits this very text of an inline style or script (CSP 3 §2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
