from __future__ import annotations

import re
from importlib.resources import as_file, files
from io import BytesIO

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po


@pytest.fixture(scope="module")
def french() -> Catalog:
    source = files("edgeshare.shim") / "locale" / "fr.po"
    return read_po(BytesIO(source.read_bytes()), locale="fr", abort_invalid=True)


@pytest.fixture(scope="module")
def wanted() -> set[str | tuple[str, ...]]:
    with as_file(files("edgeshare.shim") / "templates") as folder:
        found = extract_from_dir(
            str(folder),
            [("**.html", "jinja2.ext:babel_extract")],
            {"**.html": {"trimmed": "true", "silent": "false"}},
        )
        return {tuple(message) if isinstance(message, list | tuple) else message for _, _, message, _, _ in found}


def said(catalog: Catalog) -> list[Message]:
    return [message for message in catalog if message.id]


def texts_of(message: Message) -> list[str]:
    text = message.string
    return [] if text is None else [text] if isinstance(text, str) else list(text)


def test_every_text_of_the_templates_has_its_french(french: Catalog, wanted: set[str | tuple[str, ...]]) -> None:
    assert len(wanted) > 50
    for message in wanted:
        known = french.get(message if isinstance(message, str) else message[0])
        assert known is not None, message
        texts = texts_of(known)
        assert all(texts), message
        assert not known.fuzzy, message


def test_no_french_is_left_over(french: Catalog, wanted: set[str | tuple[str, ...]]) -> None:
    assert {message.id for message in said(french)} == wanted


def test_translations_fill_in_the_same_values(french: Catalog) -> None:
    for message in said(french):
        texts = texts_of(message)
        source = message.id if isinstance(message.id, str) else message.id[0]
        for text in texts:
            assert sorted(re.findall(r"%\(\w+\)s|%", text)) == sorted(re.findall(r"%\(\w+\)s|%", source))


def test_french_marks_keep_to_their_words_and_nobody_is_tutoyed(french: Catalog) -> None:
    for message in said(french):
        texts = texts_of(message)
        for text in texts:
            assert not re.search(r"[^\u00a0][:;?!»]|«[^\u00a0]", text), text
            assert not re.search(r"\b(tu|te|ton|ta|tes|toi)\b", text, re.IGNORECASE), text
