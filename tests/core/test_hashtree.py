from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.hashtree import BLOCK, FileHasher, HashedFile, TreeHasher

PIECE = 4 * BLOCK
sizes = st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 9 * PIECE + 5])


def content(size: int) -> bytes:
    return hashlib.shake_128(b"content").digest(size)


def hashed(raw: bytes, portion: int) -> HashedFile:
    hasher = FileHasher(PIECE)
    for start in range(0, len(raw), portion):
        hasher.update(raw[start : start + portion])
    return hasher.finish("a")


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


@given(sizes, st.sampled_from([1000, BLOCK, BLOCK + 1, PIECE, 10 * PIECE]))
def test_the_hashes_do_not_depend_on_the_portions(size: int, portion: int) -> None:
    raw = content(size)
    assert hashed(raw, portion) == hashed(raw, size + 1)
    tree = TreeHasher()
    for start in range(0, size, portion):
        tree.update(raw[start : start + portion])
    assert tree.root() == (hashed(raw, portion).root or b"")


def test_an_empty_file_has_no_hashes() -> None:
    assert hashed(b"", 1) == HashedFile("a", 0, None, b"", b"")
    assert TreeHasher().root() == b""


def test_the_root_of_one_block_is_its_hash() -> None:
    assert hashed(b"x", 1).root == sha256(b"x")


def test_the_leaves_are_padded_with_zeros_to_a_power_of_two() -> None:
    first, second, third = content(BLOCK), content(BLOCK)[::-1], b"end"
    expected = sha256(sha256(sha256(first), sha256(second)), sha256(sha256(third), bytes(32)))
    assert hashed(first + second + third, BLOCK).root == expected


def test_a_file_of_one_piece_has_no_layer() -> None:
    assert hashed(content(PIECE), BLOCK).layer == b""
    assert len(hashed(content(PIECE + 1), BLOCK).layer) == 2 * 32


def test_a_piece_is_hashed_with_its_padding() -> None:
    assert hashed(b"x", 1).pieces == hashlib.sha1(b"x" + bytes(PIECE - 1)).digest()


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (PIECE, 1), (PIECE + 1, 2)])
def test_a_file_has_one_hash_for_each_piece_begun(size: int, count: int) -> None:
    assert len(hashed(content(size), BLOCK).pieces) == 20 * count
