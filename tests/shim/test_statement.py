from __future__ import annotations

import textwrap
from datetime import date
from importlib.resources import files
from pathlib import Path

import pytest

from edgeshare.errors import ConfigError
from edgeshare.shim import statement
from edgeshare.shim.statement import Compliance, Statement, read_statement


def test_the_example_in_the_modules_head_can_be_read(tmp_path: Path) -> None:
    example = (files("edgeshare.shim") / "statement.py").read_text(encoding="utf-8")
    path = tmp_path / "accessibilite.toml"
    path.write_text(textwrap.dedent(example.split("```toml\n")[1].split("```")[0]), encoding="utf-8")
    found = read_statement(path)
    assert found.established == date(2027, 1, 15)
    assert found.compliance is Compliance.PARTIAL
    assert found.mail == "accessibilite@college-jean-moulin.example.fr"
    assert found.not_accessible[0].startswith("Les vidéos")
    assert statement.__doc__ in example


def test_an_empty_file_declares_nothing(tmp_path: Path) -> None:
    path = tmp_path / "accessibilite.toml"
    path.write_text("", encoding="utf-8")
    assert read_statement(path) == Statement()


@pytest.mark.parametrize(
    "text",
    [
        "share = 101",
        "share = -1",
        "share = true",
        "share = '71'",
        "body = 1",
        "exempt = 'x'",
        "exempt = [1]",
        "x = 1",
        "=",
    ],
)
def test_what_cannot_be_names_the_file_and_the_keys(tmp_path: Path, text: str) -> None:
    path = tmp_path / "accessibilite.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"accessibilite\.toml is no declaration .*not_accessible"):
        read_statement(path)


@pytest.mark.parametrize("text", ["body = 1", "exempt = 'x'", "x = 1"])
def test_what_cannot_be_is_said_in_a_line_without_pythons_own_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / "accessibilite.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        read_statement(path)
    reason = str(raised.value).partition("(")[2]
    assert reason.startswith(f"{text.partition(' ')[0]} is ")
    assert len(reason) < 200


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_statement(tmp_path / "missing.toml")


@pytest.mark.parametrize("contact", ["le secrétariat", "a b@c", "<a@b>", 'a@b"'])
def test_only_an_address_is_made_a_link(contact: str) -> None:
    assert Statement(contact=contact).mail is None
