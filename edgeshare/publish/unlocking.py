"""What unlocks a key, a passphrase or a device's PIN, from where an operator keeps it.

The first of these that there is counts, and a wrong one is not made good by the next:

1. a systemd credential of the key, `timestamp.passphrase` or `timestamp.pin`;
2. a systemd credential for all keys, `edgeshare.passphrase` or `edgeshare.pin`;
3. the file that `EDGESHARE_PASSPHRASE_FILE` or `EDGESHARE_PIN_FILE` names;
4. the person at the terminal.

Never the command line and never a variable's value: other processes can read both (proc(5)).
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from pathlib import Path

import attrs

from edgeshare.errors import TrustError
from edgeshare.publish import private

# Asks a person a question and gives the answer, which is not shown while they type; None when nobody is there.
Ask = Callable[[str], str | None]


class Kind(enum.Enum):
    """What a key is locked with."""

    PASSPHRASE = "passphrase"  # noqa: S105 - the word, of an encrypted file
    PIN = "PIN"  # of a device

    @property
    def suffix(self) -> str:
        """The end of a credential's name."""
        return f".{self.value.lower()}"

    @property
    def variable(self) -> str:
        """The environment variable that names a file."""
        return f"EDGESHARE_{self.value.upper()}_FILE"


@attrs.frozen
class Secret:
    """A passphrase or a PIN, and whom to ask about it when it is wrong."""

    text: str = attrs.field(repr=False)
    source: str


class Secrets:
    """The passphrases and PINs of this run; each is asked for once."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._answers: dict[tuple[Kind, str], Secret] = {}
        self._last: str | None = None  # passphrase that a person gave: often that of the next key too
        self._files: dict[Path, str] = {}  # a pipe, as in `VARIABLE=<(pass show root)`, can be read only once

    def of(self, key: str, kind: Kind, opens: Callable[[str], bool] = lambda _: False) -> Secret:
        """What unlocks the key named `key`.

        Nobody is asked when the passphrase that they gave last `opens` this key too. A PIN is never tried so: devices
        count the wrong ones.

        Raises:
            TrustError: nobody says, or the file that should cannot be read or others can read it.
        """
        known = self._answers.get((kind, key))
        if known is None:
            known = self._find(key, kind, f"The {kind.value} of the key {key}", opens)
            if not known.text:
                hint = f"type it at a terminal, or name a file that holds it in {kind.variable}"
                raise TrustError(f"the key {key} needs its {kind.value}", hint=hint)
            self._answers[kind, key] = known
        return known

    def of_new_keys(self) -> str:
        """The passphrase that new keys are to have.

        Raises:
            TrustError: as `of`.
        """
        found = self._find("edgeshare", Kind.PASSPHRASE, "A passphrase for the new keys", lambda _: False)
        if not found.text:
            hint = f"run it in a terminal, or name a file that holds one in {Kind.PASSPHRASE.variable}"
            raise TrustError("the new keys need a passphrase", hint=hint)
        return found.text

    def remember(self, key: str, kind: Kind, text: str) -> None:
        """Do not ask for what somebody has just chosen."""
        self._answers[kind, key] = Secret(text, "the terminal")
        if kind is Kind.PASSPHRASE:
            self._last = text

    def forget(self, key: str, kind: Kind) -> None:
        """Ask again the next time: what was said was wrong, and a device counts the wrong PINs."""
        self._answers.pop((kind, key), None)

    def _find(self, key: str, kind: Kind, question: str, opens: Callable[[str], bool]) -> Secret:
        folder = credentials()
        places = [folder / f"{name}{kind.suffix}" for name in (key, "edgeshare")] if folder else []
        found = next((path for path in places if path.exists()), None)
        if found is None and os.environ.get(kind.variable):
            found = Path(os.environ[kind.variable])
        if found is not None:
            if found not in self._files:
                self._files[found] = _read(found)
            return Secret(self._files[found], str(found))
        if kind is Kind.PASSPHRASE and self._last is not None and opens(self._last):
            return Secret(self._last, "the terminal")
        text = self._ask(question) or ""
        if kind is Kind.PASSPHRASE:
            self._last = text or None
        return Secret(text, "the terminal")


def credentials() -> Path | None:
    """The folder of what systemd handed to this service (systemd.exec(5), LoadCredential=); None outside of one."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None


def _read(path: Path) -> str:
    try:
        text = private.read_secret(path, "the file").decode()
    except OSError as error:
        raise TrustError(f"cannot read {path} ({error.strerror})", hint="check its name and its owner") from error
    except UnicodeDecodeError:
        # Not chained: the exception holds the bytes.
        raise TrustError(f"{path} is not text", hint="it must be UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")
