from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.errors import ManifestError
from edgeshare.layout import MAX_PIECE, MIN_PIECE, Layout, Piece, read_layout

LENGTH = 2 * MIN_PIECE


def info_dict(sizes: dict[str, int], length: int = LENGTH) -> dict[bytes, Any]:
    """An info dict with files of `sizes`, in the order of their names' bytes; the hashes are of nothing."""
    tree: dict[bytes, Any] = {}
    listed: list[dict[bytes, Any]] = []
    pieces = b""
    for path, size in sorted(sizes.items(), key=lambda item: item[0].encode().split(b"/")):
        *folders, name = path.encode().split(b"/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        root = {b"pieces root": hashlib.sha256(path.encode()).digest()} if size else {}
        node[name] = {b"": {b"length": size, **root}}
        listed.append({b"length": size, b"path": [*folders, name]})
        if pad := -size % length:
            listed.append({b"attr": b"p", b"length": pad, b"path": [b".pad", b"%d" % pad]})
        pieces += b"".join(hashlib.sha1(b"%d" % n).digest() for n in range(-(-size // length)))
    return {
        b"file tree": tree,
        b"files": listed,
        b"meta version": 2,
        b"name": b"lesson",
        b"piece length": length,
        b"pieces": pieces,
    }


def refusal(info: dict[bytes, Any]) -> str:
    with pytest.raises(ManifestError) as caught:
        read_layout(info)
    assert str(caught.value).isprintable()
    return str(caught.value)


names = st.lists(st.sampled_from(["a", "b", "é", "sub", "z"]), min_size=1, max_size=3).map("/".join)
layouts = (
    st.dictionaries(names, st.integers(0, 5 * LENGTH) | st.sampled_from([0, 1, LENGTH, 2 * LENGTH]), min_size=1)
    .filter(lambda sizes: any(sizes.values()))
    .filter(lambda sizes: not any(other.startswith(f"{path}/") for path in sizes for other in sizes))
    .map(lambda sizes: read_layout(info_dict(sizes)))
)


@given(layouts)
def test_every_piece_belongs_to_one_file(layout: Layout) -> None:
    owners = [file for file in layout.files for _ in layout.pieces_of(file)]
    assert len(owners) == layout.pieces
    for number, owner in enumerate(owners):
        file, start, stop = layout.file_of(Piece(number))
        assert file == owner
        assert 0 <= start < stop <= file.size
        assert number in layout.pieces_of(file)


@given(layouts)
def test_the_pieces_of_a_file_hold_its_bytes_once_each(layout: Layout) -> None:
    for file in layout.files:
        held = [layout.file_of(Piece(number))[1:] for number in layout.pieces_of(file)]
        assert [start for start, _ in held] == [0, *[stop for _, stop in held[:-1]]][: len(held)]
        assert (held[-1][1] if held else 0) == file.size


@given(layouts, st.data())
def test_the_spans_of_a_range_are_its_bytes_in_order(layout: Layout, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(layout.files))
    start = data.draw(st.integers(0, file.size))
    stop = data.draw(st.integers(start, file.size))
    place = start
    for span in layout.spans(file, start, stop):
        owner, first, last = layout.file_of(span.piece)
        assert owner == file
        assert first + span.start == place
        assert 0 <= span.start < span.stop <= layout.piece_length
        assert first + span.stop <= last
        place += span.stop - span.start
    assert place == stop


@given(layouts)
def test_a_file_is_found_by_its_path_alone(layout: Layout) -> None:
    assert [layout.by_path[file.path] for file in layout.files] == list(layout.files)
    assert layout.size == sum(file.size for file in layout.files)


def test_a_piece_is_known_with_and_without_its_padding() -> None:
    info = info_dict({"a": 3})
    info[b"pieces"] = hashlib.sha1(b"abc" + bytes(LENGTH - 3)).digest()
    layout = read_layout(info)
    assert layout.is_piece(Piece(0), b"abc")
    assert layout.is_piece(Piece(0), b"abc" + bytes(LENGTH - 3))
    assert not layout.is_piece(Piece(0), b"abd")
    assert not layout.is_piece(Piece(0), b"abc" + bytes(LENGTH))
    assert not layout.is_piece(Piece(0), b"")


@pytest.mark.parametrize("length", [MIN_PIECE, MAX_PIECE])
def test_a_piece_length_is_taken_at_its_limits(length: int) -> None:
    assert read_layout(info_dict({"a": 1}, length)).piece_length == length


@pytest.mark.parametrize("length", [MIN_PIECE // 2, MAX_PIECE * 2, MIN_PIECE + 1, 3 * MIN_PIECE, 0, -MIN_PIECE, b"x"])
def test_another_piece_length_is_refused(length: Any) -> None:
    info = info_dict({"a": 1}) | {b"piece length": length}
    assert "power of two" in refusal(info)


@pytest.mark.parametrize(
    "path",
    [b"..", b".", b"a\\b", b"C:", b"a\nb", b"\xff", b"a\xe2\x80\xaeb", b"x" * 256, b"a/b/../c", b"/etc/passwd"],
)
def test_a_name_that_no_lesson_may_hold_is_refused(path: bytes) -> None:
    info = info_dict({"a": 1})
    info[b"file tree"] = {path: info[b"file tree"][b"a"]}
    info[b"files"][0][b"path"] = [path]
    assert "the torrent " in refusal(info)


def test_a_folder_above_the_lesson_is_refused() -> None:
    info = info_dict({"up/etc/passwd": 1})
    info[b"file tree"] = {b"..": info[b"file tree"][b"up"]}
    info[b"files"][0][b"path"] = [b"..", b"etc", b"passwd"]
    assert "empty part, `.` or `..`" in refusal(info)


@pytest.mark.parametrize("depth", [64, 65, 5000])
def test_paths_have_at_most_64_parts(depth: int) -> None:
    info = info_dict({"a": 1})
    for _ in range(depth - 1):
        info[b"file tree"] = {b"a": info[b"file tree"]}
    info[b"files"][0][b"path"] = [b"a"] * depth
    if depth == 64:
        assert len(read_layout(info).files[0].path.split("/")) == 64
    else:
        assert "more than 64 parts" in refusal(info)


def edited(edit: Callable[[dict[bytes, Any]], object]) -> dict[bytes, Any]:
    info = copy.deepcopy(info_dict({"a": LENGTH + 5, "b/c": 0, "b/d": 7}))
    read_layout(info)
    edit(info)
    return info


@pytest.mark.parametrize(
    "edit",
    [
        lambda info: info.update({b"meta version": 1}),
        lambda info: info.pop(b"file tree"),
        lambda info: info.pop(b"name"),
        lambda info: info.update({b"name": b"\xff"}),
        lambda info: info.update({b"file tree": {}}),
        lambda info: info.update({b"file tree": []}),
        lambda info: info.update({b"file tree": {b"": {b"length": 1, b"pieces root": bytes(32)}}}),
        lambda info: info[b"file tree"].update({b"a": 5}),
        lambda info: info[b"file tree"].update({b"a": {b"": []}}),
        lambda info: info[b"file tree"][b"a"].update({b"x": {}}),
        lambda info: info[b"file tree"][b"a"][b""].pop(b"length"),
        lambda info: info[b"file tree"][b"a"][b""].update({b"length": -1}),
        lambda info: info[b"file tree"][b"a"][b""].update({b"length": 2**62}),
        lambda info: info[b"file tree"][b"a"][b""].update({b"length": LENGTH + 6}),
        lambda info: info[b"file tree"][b"a"][b""].pop(b"pieces root"),
        lambda info: info[b"file tree"][b"a"][b""].update({b"pieces root": bytes(31)}),
        lambda info: info[b"file tree"][b"a"][b""].update({b"pieces root": bytes(33)}),
        lambda info: info[b"file tree"][b"a"][b""].update({b"pieces root": 5}),
        lambda info: info[b"file tree"][b"b"][b"c"][b""].update({b"pieces root": bytes(32)}),
        lambda info: info[b"file tree"][b"b"][b"c"][b""].update({b"attr": b"l", b"symlink path": [b"..", b"x"]}),
        lambda info: info[b"file tree"][b"a"][b""].update({b"attr": b"x"}),
        lambda info: info.pop(b"files"),
        lambda info: info.update({b"files": {}}),
        lambda info: info[b"files"].pop(),
        lambda info: info[b"files"].append({b"length": 0, b"path": [b"e"]}),
        lambda info: info[b"files"].reverse(),
        lambda info: info[b"files"].__setitem__(0, b""),
        lambda info: info[b"files"][0].update({b"length": LENGTH}),
        lambda info: info[b"files"][0].update({b"length": b""}),
        lambda info: info[b"files"][0].update({b"path": b"a"}),
        lambda info: info[b"files"][0].update({b"path": [b"A"]}),
        lambda info: info[b"files"][0].update({b"path": [1]}),
        lambda info: info[b"files"][0].update({b"attr": b"l", b"symlink path": [b".."]}),
        lambda info: info[b"files"][0].update({b"attr": 5}),
        lambda info: info[b"files"][0].update({b"attr": b"xp"}),
        lambda info: info[b"files"][1].pop(b"attr"),
        lambda info: info.pop(b"pieces"),
        lambda info: info.update({b"pieces": b""}),
        lambda info: info.update({b"pieces": info[b"pieces"] + bytes(20)}),
        lambda info: info.update({b"pieces": info[b"pieces"][:-1]}),
    ],
    ids=range(40),
)
def test_a_torrent_that_contradicts_itself_is_refused(edit: Callable[[dict[bytes, Any]], object]) -> None:
    assert "torrent" in refusal(edited(edit))


def test_a_torrent_of_nothing_but_empty_files_is_refused() -> None:
    assert "one hash for each piece" in refusal(info_dict({"a": 0}))


bencodable = st.recursive(
    st.integers() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(info_dict({"a": 1}))), bencodable)
def test_any_value_of_any_key_is_taken_or_refused(key: bytes, value: object) -> None:
    with contextlib.suppress(ManifestError):
        read_layout(info_dict({"a": 1}) | {key: value})


@given(bencodable, bencodable)
def test_any_file_tree_is_taken_or_refused(leaf: object, entry: object) -> None:
    for tree in ({b"a": {b"": leaf}}, {b"a": leaf}, leaf):
        with contextlib.suppress(ManifestError):
            read_layout(info_dict({"a": 1}) | {b"file tree": tree})
    with contextlib.suppress(ManifestError):
        read_layout(info_dict({"a": 1}) | {b"files": [entry]})
