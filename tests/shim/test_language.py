from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.shim.language import LANGUAGES, preferred


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "fr",
        "fr-FR,fr;q=0.9,en;q=0.8",
        "en;q=0.5, fr;q=0.8",
        "FR-ca",
        "de",
        "de,es;q=0.5",
        "*",
        "fr,en",
        "nonsense;;",
        "en;q=0",
        "en;q=0,*",
        "de, *;q=0.5",
        "fr;q=0",
    ],
)
def test_french_is_for_who_prefers_it_and_for_who_wants_neither(header: str | None) -> None:
    assert preferred(header) == "fr"


@pytest.mark.parametrize(
    "header",
    ["en", "en-GB,en;q=0.9,fr;q=0.8", "fr;q=0.5,en;q=0.51", "en,fr", "de,en;q=0.3", "fr;q=0, *", "en, *;q=0.5", "EN"],
)
def test_english_is_for_who_prefers_it(header: str) -> None:
    assert preferred(header) == "en"


@given(st.text() | st.text(alphabet="fren-*,;q=0.159 "))
def test_any_header_gives_one_of_our_languages(header: str) -> None:
    assert preferred(header) in LANGUAGES
