from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.httpd.ranges import LONGEST_HEADER, Span, Unsatisfiable, not_modified, parse, range_applies

SIZE = 1000


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-499", Span(0, 500)),
        ("bytes=500-", Span(500, 1000)),
        ("bytes=999-", Span(999, 1000)),
        ("bytes=-1", Span(999, 1000)),
        ("bytes=-500", Span(500, 1000)),
        ("BYTES=1-2", Span(1, 3)),
        ("bytes= 1-2\t", Span(1, 3)),
        ("bytes=,1-2,", Span(1, 3)),
        ("bytes=0001-0002", Span(1, 3)),
    ],
)
def test_a_single_range_of_bytes_is_a_span(header: str, span: Span) -> None:
    assert parse(header, SIZE) == span


@pytest.mark.parametrize(
    "header", ["bytes=0-1000", "bytes=0-999", "bytes=-1000", "bytes=-1001", "bytes=0-" + "9" * 100]
)
def test_a_range_that_reaches_beyond_the_file_is_cut_at_its_end(header: str) -> None:
    assert parse(header, SIZE) == Span(0, SIZE)


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=" + "9" * 100 + "-"])
def test_a_range_outside_the_file_is_unsatisfiable(header: str) -> None:
    assert parse(header, SIZE) == Unsatisfiable()


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=--1",
        "bytes=a-b",
        "bytes=2-1",  # invalid, so ignored, not unsatisfiable
        "bytes=5000-4999",
        "bytes=0-1,3-4",
        "bytes =0-1",
        "bytes=0 -1",
        "bytes=0x0-0x1",
        "bytes=+1-2",
        "bytes=1_0-20",
        "bytes=1.0-2",
        "lines=0-1",
        "bytes=\u0661-\u0662",  # Arabic digits, which `int` takes
        "bytes=\u00b2-",
        "bytes=0-1\n",
    ],
)
def test_anything_else_means_the_whole_file(header: str | None) -> None:
    assert parse(header, SIZE) is None


def test_a_header_is_read_up_to_its_longest_and_not_one_digit_further() -> None:
    longest = "bytes=0-".ljust(LONGEST_HEADER, "9")
    assert parse(longest, SIZE) == Span(0, SIZE)
    assert parse(longest + "9", SIZE) is None
    assert parse("bytes=0-" + "9" * 5000, SIZE) is None  # more digits than `int` takes


def test_of_an_empty_file_a_suffix_is_all_and_any_position_is_outside() -> None:
    assert parse("bytes=-5", 0) is None
    assert parse("bytes=-0", 0) == Unsatisfiable()
    assert parse("bytes=0-", 0) == Unsatisfiable()


def test_content_range_counts_as_http_does_with_both_ends_included() -> None:
    assert Span(0, 500).content_range(1000) == "bytes 0-499/1000"
    assert Unsatisfiable().content_range(1000) == "bytes */1000"


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 5), (5, 4), (-1, 4)])
def test_a_span_holds_at_least_one_byte(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="no span"):
        Span(start, stop)


@given(st.text() | st.from_regex(r"bytes=[0-9]*-[0-9]*", fullmatch=True), st.integers(0, 10**12))
def test_whatever_is_asked_a_span_lies_inside_the_file(header: str, size: int) -> None:
    match parse(header, size):
        case Span(start, stop):
            assert 0 <= start < stop <= size


@given(st.integers(1, 10**15), st.data())
def test_what_a_span_says_of_itself_parses_back_to_it(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    assert parse(f"bytes={start}-{stop - 1}", size) == Span(start, stop)
    assert parse(f"bytes=-{size - start}", size) == parse(f"bytes={start}-", size) == Span(start, size)


@pytest.mark.parametrize(
    "if_none_match",
    ['"a"', 'W/"a"', '"b", "a"', '"b",W/"a"', '"x,y" , "a"', "*", " * ", ', ,"a",', '"b","a","c"'],
)
def test_a_client_that_has_the_file_is_told_so(if_none_match: str) -> None:
    assert not_modified(if_none_match, '"a"')


@pytest.mark.parametrize(
    "if_none_match",
    [None, "", "a", '"b"', '"A"', '"a', 'a"', 'w/"a"', '"b" "a"', '"x,"a",y"', '"b", *', '"b;a"'],
)
def test_a_client_that_has_another_file_or_makes_no_sense_gets_it(if_none_match: str | None) -> None:
    assert not not_modified(if_none_match, '"a"')


def test_a_weak_tag_of_ours_matches_weakly() -> None:
    assert not_modified('"a"', 'W/"a"')
    assert not_modified('W/"a"', 'W/"a"')


@given(st.lists(st.from_regex(r'(W/)?"[!#-~]*"', fullmatch=True)), st.from_regex(r'"[!#-~]*"', fullmatch=True))
def test_a_list_matches_exactly_when_one_of_its_tags_does(tags: list[str], etag: str) -> None:
    assert not_modified(", ".join(tags), etag) == any(tag.removeprefix("W/") == etag for tag in tags)


@given(st.text())
def test_any_text_is_a_list_of_tags_or_matches_nothing(if_none_match: str) -> None:
    assert not_modified(if_none_match, '"a"') in (True, False)


def test_a_range_applies_to_the_very_file_that_if_range_names() -> None:
    assert range_applies(None, '"a"')
    assert range_applies('"a"', '"a"')


@pytest.mark.parametrize("if_range", ['"b"', 'W/"a"', "Thu, 08 Apr 2021 08:00:00 GMT", "", "*", '"a", "b"'])
def test_any_other_if_range_asks_for_the_whole_file(if_range: str) -> None:
    assert not range_applies(if_range, '"a"')


def test_a_weak_tag_never_holds_for_a_range() -> None:
    assert not range_applies('W/"a"', 'W/"a"')
