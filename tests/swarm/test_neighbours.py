from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from edgeshare.swarm.neighbours import client_name, new_token, token_in


@given(st.binary(max_size=60))
def test_any_name_of_a_client_is_a_token_or_none(name: bytes) -> None:
    found = token_in(name)
    assert found is None or (len(found) == 8 and found.hex().encode() in name)


def test_a_token_stands_in_a_nodes_name_and_in_no_other_clients() -> None:
    token = new_token(Random(1))
    name = client_name(token).encode()
    assert token_in(name) == token
    assert token != new_token(Random(2))
    for other in (b"", b"libtorrent/2.0.9.0", name[:-1], name + b"0", b" " + name, name + b"\n", name.upper()):
        assert token_in(other) is None
