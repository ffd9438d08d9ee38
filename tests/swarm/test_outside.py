from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeshare.swarm.outside import Meter, PeerTraffic, is_outside

PROJECT = Path(__file__).parents[2]
ONE, OTHER, NEIGHBOUR = ("198.18.0.2", 6881), ("2001:db8::2", 6881), ("192.168.1.20", 6881)


@pytest.mark.parametrize("address", ["198.18.0.2", "100.64.0.1", "172.32.0.1", "2001:db8::2", "::ffff:198.18.0.2"])
def test_a_public_address_is_outside(address: str) -> None:
    assert is_outside(address)


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.20",
        "169.254.1.1",
        "127.0.0.1",
        "fe80::1",
        "fd00::1",
        "::1",
        "::ffff:10.0.0.1",
    ],
)
def test_a_private_a_link_local_and_a_loopback_address_are_not(address: str) -> None:
    assert not is_outside(address)


def test_a_meter_counts_what_was_carried_since_the_last_look_both_ways() -> None:
    meter = Meter()
    assert meter.added(111, [PeerTraffic(ONE, 10, 1), PeerTraffic(OTHER, 100, 0)]) == 111
    assert meter.added(118, [PeerTraffic(ONE, 15, 3), PeerTraffic(OTHER, 100, 0)]) == 7
    assert meter.added(118, [PeerTraffic(ONE, 15, 3), PeerTraffic(OTHER, 100, 0)]) == 0


def test_a_meter_does_not_count_the_local_network() -> None:
    assert Meter().added(2001, [PeerTraffic(NEIGHBOUR, 1000, 1000), PeerTraffic(ONE, 1, 0)]) == 1


def test_a_meter_counts_a_new_connection_to_the_same_peer_from_nothing() -> None:
    meter = Meter()
    meter.added(20, [PeerTraffic(ONE, 10, 10)])
    assert meter.added(36, [PeerTraffic(ONE, 4, 12)]) == 16
    assert meter.added(36, []) == 0
    assert meter.added(46, [PeerTraffic(ONE, 5, 5)]) == 10


def test_a_meter_counts_what_ended_connections_carried_outside() -> None:
    meter = Meter()
    assert meter.added(50, [PeerTraffic(ONE, 50, 0)]) == 50
    meter.parted(ONE[0])
    assert meter.added(90, []) == 40
    assert meter.added(190, []) == 100  # nobody knows of whom
    meter.parted(OTHER[0])
    meter.parted(NEIGHBOUR[0])
    assert meter.added(250, []) == 60  # nor which of the two


def test_a_meter_does_not_count_what_ended_connections_carried_in_the_local_network() -> None:
    meter = Meter()
    meter.parted(NEIGHBOUR[0])
    assert meter.added(90, []) == 0
    assert meter.added(180, [PeerTraffic(NEIGHBOUR, 10, 0)]) == 0  # the sum came late
    meter.rest()
    assert meter.added(190, [PeerTraffic(NEIGHBOUR, 10, 0)]) == 10  # long ago: nobody knows of whom


def test_a_peer_that_parted_without_a_byte_long_ago_says_nothing_of_those_who_come_later() -> None:
    meter = Meter()
    meter.parted(ONE[0])
    meter.rest()
    meter.rest()
    meter.parted(NEIGHBOUR[0])
    assert meter.added(90, []) == 0


def test_a_meter_finds_at_the_next_look_what_a_sum_did_not_know_yet() -> None:
    meter = Meter()
    assert meter.added(50, [PeerTraffic(ONE, 80, 0)]) == 80
    assert meter.added(100, [PeerTraffic(ONE, 90, 0)]) == 20  # its own ten, and ten of one that has gone
    assert meter.added(100, [PeerTraffic(ONE, 90, 0)]) == 0


@pytest.mark.whole
@pytest.mark.parametrize(
    "case",
    [
        "within_five_seconds_nothing_goes_outside_and_neighbours_are_served",
        "who_comes_from_outside_later_is_given_nothing",
        "a_reader_is_served_from_outside",
        "what_goes_outside_is_counted_and_limited_and_the_local_network_neither",
    ],
)
def test_with_peers_in_the_local_network_and_outside(case: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("addresses of one's own take root")
    command = ["unshare", "--net", sys.executable, "-m", "tests.swarm.outside", case, str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60.0, check=False)
    assert done.returncode == 0, done.stderr
