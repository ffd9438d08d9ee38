"""Which of our languages a reader gets (RFC 9110 §12.5.4). Pure."""

from __future__ import annotations

import re
from typing import Final, Literal

Language = Literal["fr", "en"]
LANGUAGES: Final[tuple[Language, ...]] = ("fr", "en")  # the first is for readers who do not say

_RANGE = re.compile(r"([a-z]{1,8}|\*)(?:-[a-z0-9-]{1,64})?[ \t]*(?:;[ \t]*q=([01](?:\.[0-9]{0,3})?))?", re.IGNORECASE)
_MOST_RANGES = 32  # browsers send up to ten


def preferred(accept_language: str | None) -> Language:
    """The language of ours that `Accept-Language` weighs most, the earlier one of equals.

    French when there is no header, when it cannot be read, and when it wants neither.
    """
    weights: dict[str, float] = {}
    for part in (accept_language or "").split(",")[:_MOST_RANGES]:
        if match := _RANGE.fullmatch(part.strip(" \t")):
            tag, weight = match[1].lower(), float(match[2] or 1)
            weights[tag] = max(weight, weights.get(tag, 0.0))
    order = list(weights)
    if "*" in weights:  # stands for what is not named
        for language in LANGUAGES:
            weights.setdefault(language, weights["*"])
    wanted = [language for language in LANGUAGES if weights.get(language, 0) > 0]

    def rank(language: Language) -> tuple[float, int]:
        return -weights[language], order.index(language if language in order else "*")

    return min(wanted, key=rank, default=LANGUAGES[0])
