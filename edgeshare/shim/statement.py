"""The declaration of accessibility as the body that runs a node fills it in: a small TOML file, or nothing yet.

```toml
body = "Collège Jean-Moulin, 12 rue des Écoles, 35000 Rennes"
contact = "accessibilite@college-jean-moulin.example.fr"
established = 2027-01-15
plan = "https://college-jean-moulin.example.fr/schema-pluriannuel"
audit = "Cabinet Untel, 12 janvier 2027"
share = 71                 # of the RGAA's criteria that apply, in percent, as the audit found
not_accessible = ["Les vidéos de deux leçons n'ont pas de sous-titres."]
exempt = ["Les cartes en ligne."]
```

Every key may be left out. Without an audit a node's pages have to say that they do not comply, whatever they are like
(article 47 of the act 2005-102, decree 2019-768).
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import attrs

from edgeshare.errors import ConfigError


class Compliance(enum.Enum):
    """What the home page has to say; the words are the decree's."""

    NONE = "none"
    PARTIAL = "partial"  # from half of the criteria on
    FULL = "full"


def _is_a(kind: type, what: str) -> Callable[[Statement, attrs.Attribute[Any], object], None]:
    def check(_: Statement, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{attribute.name} is {value!r}, and a {what} is wanted")

    return check


def _is_texts(_: Statement, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{attribute.name} is {value!r}, and a list of texts is wanted")


@attrs.frozen(kw_only=True)
class Statement:
    """What one body declares of the pages that it gives."""

    body: str | None = attrs.field(default=None, validator=_is_a(str, "text"))
    contact: str | None = attrs.field(default=None, validator=_is_a(str, "text"))
    established: date | None = attrs.field(default=None, validator=_is_a(date, "date"))
    plan: str | None = attrs.field(default=None, validator=_is_a(str, "text"))
    audit: str | None = attrs.field(default=None, validator=_is_a(str, "text"))
    share: int | None = attrs.field(default=None)
    not_accessible: tuple[str, ...] = attrs.field(default=(), validator=_is_texts)
    exempt: tuple[str, ...] = attrs.field(default=(), validator=_is_texts)

    @share.validator
    def _is_percent(self, attribute: attrs.Attribute[int | None], value: object) -> None:
        if value is not None and (type(value) is not int or not 0 <= value <= 100):
            raise ValueError(f"share is {value!r}, and a whole number from 0 to 100 is wanted")

    @property
    def compliance(self) -> Compliance:
        """What may be claimed: nothing without an audit and its share."""
        if self.audit is None or self.share is None or self.share < 50:
            return Compliance.NONE
        return Compliance.FULL if self.share == 100 else Compliance.PARTIAL

    @property
    def mail(self) -> str | None:
        """The contact where it is an address to write to."""
        is_address = self.contact is not None and "@" in self.contact and not set(self.contact) & set(" <>\"'")
        return self.contact if is_address else None


UNFILLED = Statement()  # as it comes with edgeshare


def _known(given: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(given.keys() - {field.name for field in attrs.fields(Statement)})
    if unknown:
        raise ValueError(f"{unknown[0]} is no key of it")
    return given


def read_statement(path: Path) -> Statement:
    """The declaration in the TOML file `path`.

    Raises:
        ConfigError: it cannot be read, or a key or value in it cannot be.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return Statement(**_known(given))
    except OSError as error:
        hint = "`statement` names it; without one the pages say that no audit was made"
        raise ConfigError(f"cannot read {path} ({error.strerror})", hint=hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        hint = f"its keys are {', '.join(field.name for field in attrs.fields(Statement))}"
        raise ConfigError(
            f"{path} is no declaration of accessibility ({str(error).splitlines()[0]})", hint=hint
        ) from error
