from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.layout import Piece
from edgeshare.ration import COPIES, PEERS_PATIENCE_S, READER_PATIENCE_S, Reason, Shortage, due, ticket

PIECES = frozenset(Piece(n) for n in range(64))

pieces = st.frozensets(st.integers(0, 63).map(Piece))
secrets = st.binary(min_size=32, max_size=32)
seconds = st.floats(0, 1e6)


@st.composite
def shortages(draw: st.DrawFn) -> Shortage:
    missing = draw(pieces)
    return Shortage(
        missing=missing,
        held_by_peers=draw(pieces) & missing,
        awaited=draw(st.dictionaries(st.sampled_from(sorted(PIECES)), seconds)),
        peers=draw(st.integers(0, 500)),
        seekers=draw(st.integers(1, 10**6)),
        age_s=draw(seconds),
        stall_s=draw(seconds),
    )


def lone(missing: frozenset[Piece] = PIECES, seekers: int = 1) -> Shortage:
    return Shortage(missing=missing, held_by_peers=frozenset(), awaited={}, peers=0, seekers=seekers, age_s=0.0)


@given(shortages(), secrets)
def test_only_what_is_missing_is_taken(shortage: Shortage, secret: bytes) -> None:
    assert due(shortage, secret).keys() <= shortage.missing


@given(shortages(), secrets)
def test_a_piece_that_a_peer_has_is_left_to_the_peers_while_they_send(shortage: Shortage, secret: bytes) -> None:
    flowing = attrs.evolve(shortage, stall_s=0.0)
    for piece, reason in due(flowing, secret).items():
        if piece in flowing.held_by_peers:
            assert reason is Reason.READER_WAITS
            assert flowing.awaited[piece] >= READER_PATIENCE_S


@given(shortages(), secrets)
def test_a_reader_gets_what_nobody_has_at_once(shortage: Shortage, secret: bytes) -> None:
    taken = due(shortage, secret)
    for piece in shortage.awaited.keys() & (shortage.missing - shortage.held_by_peers):
        assert taken[piece] is Reason.READER_WAITS


def test_a_reader_waits_for_peers_no_longer_than_its_patience() -> None:
    held = Shortage(missing=PIECES, held_by_peers=PIECES, awaited={Piece(3): 0.0}, peers=5, seekers=9, age_s=0.0)
    just_short = attrs.evolve(held, awaited={Piece(3): READER_PATIENCE_S - 0.01})
    assert due(just_short, bytes(32)) == {}
    just_long = attrs.evolve(held, awaited={Piece(3): READER_PATIENCE_S})
    assert due(just_long, bytes(32)) == {Piece(3): Reason.READER_WAITS}


@given(pieces, secrets)
def test_a_node_that_is_alone_takes_everything_at_once(missing: frozenset[Piece], secret: bytes) -> None:
    assert due(lone(missing), secret) == dict.fromkeys(missing, Reason.ALONE)


@given(st.integers(1, 10**6), st.integers(0, 500), secrets)
def test_what_nobody_has_is_taken_by_everybody_in_the_end(seekers: int, peers: int, secret: bytes) -> None:
    old = attrs.evolve(lone(seekers=seekers), peers=peers, age_s=60.0)
    assert due(old, secret).keys() == PIECES


@given(shortages(), secrets, seconds)
def test_what_is_due_stays_due_while_it_is_missing(shortage: Shortage, secret: bytes, later_s: float) -> None:
    older = attrs.evolve(shortage, age_s=shortage.age_s + later_s, stall_s=shortage.stall_s + later_s)
    assert due(shortage, secret).keys() <= due(older, secret).keys()


@given(shortages(), secrets)
def test_what_is_due_does_not_change_by_asking_again(shortage: Shortage, secret: bytes) -> None:
    assert due(shortage, secret) == due(attrs.evolve(shortage), secret)


@given(shortages(), secrets, st.integers(2, 100))
def test_the_larger_the_crowd_the_less_is_due(shortage: Shortage, secret: bytes, times: int) -> None:
    larger = attrs.evolve(shortage, seekers=shortage.seekers * times)
    assert due(larger, secret).keys() <= due(shortage, secret).keys()


def test_a_crowd_that_starts_together_takes_about_the_same_number_of_copies_however_large() -> None:
    for seekers in (10, 100, 1000):
        taken = sum(
            len(due(attrs.evolve(lone(seekers=seekers), peers=9), node.to_bytes(32, "big"))) for node in range(seekers)
        )
        assert 0.6 * COPIES < taken / len(PIECES) < 1.4 * COPIES


def test_nodes_draw_apart_and_pieces_too() -> None:
    tickets = {ticket(node.to_bytes(32, "big"), piece) for node in range(100) for piece in PIECES}
    assert len(tickets) == 6400
    assert all(0 <= each < 1 for each in tickets)
    assert abs(sum(tickets) / 6400 - 0.5) < 0.02


@given(pieces, secrets)
def test_peers_who_promise_and_never_send_cannot_keep_a_lesson_from_a_node(
    missing: frozenset[Piece], secret: bytes
) -> None:
    promised = Shortage(missing=missing, held_by_peers=missing, awaited={}, peers=1, seekers=2, age_s=0.0)
    patient = attrs.evolve(promised, stall_s=PEERS_PATIENCE_S - 0.01)
    assert due(patient, secret) == {}
    tired = attrs.evolve(promised, stall_s=PEERS_PATIENCE_S + 10)
    assert due(tired, secret) == dict.fromkeys(missing, Reason.PEERS_STALL)
