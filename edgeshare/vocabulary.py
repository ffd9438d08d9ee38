"""Levels and subjects: codes are kept, labels derived (ScoLOMFR vocabularies 022 and 015).

The words stand in `vocabulary.toml`, which a release of edgeshare, or a school's own file, replaces. A code that the
file does not know is kept as it is and shown as it is: a new spécialité must not wait for a new edgeshare.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import attrs

from edgeshare.errors import ConfigError

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@attrs.frozen(kw_only=True)
class Term:
    """One level or subject."""

    slug: str
    code: str  # ScoLOMFR, like `scolomfr-voc-022-num-018`
    rank: int  # where it stands in menus
    labels: Mapping[str, str]  # language → label

    def label(self, language: str) -> str:
        """Its name in `language`, in French where there is none."""
        return self.labels.get(language) or self.labels.get("fr") or self.slug


@attrs.frozen(kw_only=True)
class Vocabulary:
    """The levels and subjects that this edgeshare has words for."""

    levels: Mapping[str, Term]
    subjects: Mapping[str, Term]

    def level_label(self, slug: str, language: str) -> str:
        """The name of a level; its code when it is unknown."""
        return self.levels[slug].label(language) if slug in self.levels else slug

    def subject_label(self, slug: str, language: str) -> str:
        """The name of a subject; its code when it is unknown."""
        return self.subjects[slug].label(language) if slug in self.subjects else slug


def is_code(text: str) -> bool:
    """Whether `text` can be a slug or a ScoLOMFR code: lower-case words and digits joined by `-`."""
    return len(text) <= 63 and _SLUG.fullmatch(text) is not None


@cache
def built_in() -> Vocabulary:
    """The vocabulary of this release."""
    return parse((files("edgeshare") / "vocabulary.toml").read_text(encoding="utf-8"))


def parse(text: str) -> Vocabulary:
    """The vocabulary in a TOML file's `text`.

    Raises:
        ConfigError: it is not a vocabulary of version 1.
    """
    try:
        whole = tomllib.loads(text)
        if whole["version"] != 1:
            raise ConfigError(f"this vocabulary has version {whole['version']!r}", hint="edgeshare reads version 1")
        return Vocabulary(levels=_terms(whole["levels"]), subjects=_terms(whole["subjects"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"this is no vocabulary ({error})", hint="see vocabulary.toml in the package") from error


def _terms(table: dict[str, dict[str, Any]]) -> dict[str, Term]:
    return {
        slug: Term(slug=slug, code=str(entry["code"]), rank=int(entry.get("rank", n)), labels=dict(entry["label"]))
        for n, (slug, entry) in enumerate(table.items())
    }
