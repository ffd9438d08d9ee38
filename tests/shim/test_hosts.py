from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.config import Endpoint, ShimConfig
from edgeshare.manifest import LessonId
from edgeshare.shim.hosts import Elsewhere, Home, LessonOrigin, Names, Site, is_own_loopback, site_of

HOME = Names.of(ShimConfig(allowed_hosts=("Lecons.example.fr", "proxy.example.fr:81")), "salle12")
SCHOOL = Names.of(ShimConfig(listen=Endpoint("0.0.0.0", 8470)), "Salle12.lycee.example.fr")


def at_home(host: str, *, port: int = 8470, address: str = "127.0.0.1") -> Site | None:
    return site_of(host, address=address, port=port, names=HOME)


def at_school(host: str, *, address: str = "192.168.1.2") -> Site | None:
    return site_of(host, address=address, port=8470, names=SCHOOL)


@pytest.mark.parametrize("host", ["localhost:8470", "127.0.0.1:8470", "[::1]:8470", "LOCALHOST:8470"])
def test_the_loopback_names_are_home(host: str) -> None:
    assert at_home(host) == at_school(host) == Home()


@pytest.mark.parametrize(
    "host",
    [
        "attacker.com",
        "attacker.com:8470",
        "localhost",
        "localhost:",
        "localhost:80",
        "localhost:84700",
        "localhost:08470",
        "localhost.:8470",
        "localhost@evil:8470",
        "evil@localhost:8470",
        "localhost:8470@evil",
        "localhost:8470 evil",
        "localhost/:8470",
        "http://localhost:8470",
        "localhost,localhost:8470",
        "127.0.0.1",
        "127.0.0.2:8470",
        "127.1:8470",
        "2130706433:8470",
        "0x7f.0.0.1:8470",
        "0177.0.0.1:8470",
        "127.0.0.1.:8470",
        "::1:8470",
        "[::1]",
        "[::ffff:127.0.0.1]:8470",
        "[0:0:0:0:0:0:0:1%lo]:8470",
        "x.localhost.evil.com:8470",
        "x.y.localhost:8470",
        ".localhost:8470",
        "-x.localhost:8470",
        "x_y.localhost:8470",
        "x.localhost.:8470",
        "x.localhost",
        f"{'x' * 64}.localhost:8470",
        "salle12:8470",
        "salle12.local:8470",
        "192.168.1.2:8470",
        "lecons.example.fr:81",
        "sub.lecons.example.fr:8470",
        "proxy.example.fr:8470",
        "lecons.example.fr.",
        "loc\u00e1lhost:8470",
        "\u017fx.localhost:8470",
    ],
)
def test_no_other_host_is_ours(host: str) -> None:
    assert at_home(host) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "localhost:80"])
def test_the_port_may_be_left_out_when_it_is_80(host: str) -> None:
    assert at_home(host, port=80) == Home()
    assert at_home("x.localhost", port=80) == LessonOrigin(LessonId("x"))


def test_a_lesson_has_an_origin_of_its_own() -> None:
    assert at_home("maths-6E-fractions.localhost:8470") == LessonOrigin(LessonId("maths-6e-fractions"))
    assert at_home(f"{'x' * 63}.localhost:8470") == LessonOrigin(LessonId("x" * 63))


def test_allowed_hosts_count_as_written_in_any_case() -> None:
    assert at_home("lecons.example.fr") == at_home("LECONS.example.fr:8470") == Elsewhere()
    assert at_home("proxy.example.fr:81") == Elsewhere()


@pytest.mark.parametrize("host", ["salle12.lycee.example.fr:8470", "SALLE12.local:8470"])
def test_a_node_on_the_lan_answers_to_its_own_name(host: str) -> None:
    assert at_school(host) == Elsewhere()


def test_a_node_on_the_lan_answers_to_the_address_at_which_it_was_reached() -> None:
    assert at_school("192.168.1.2:8470") == Elsewhere()
    assert at_school("[2001:DB8::7]:8470", address="2001:db8::7") == Elsewhere()
    assert at_school("192.168.1.2:8470", address="::ffff:192.168.1.2") == Elsewhere()


@pytest.mark.parametrize(
    "host",
    ["192.168.1.3:8470", "192.168.1.2", "192.168.1.2:80", "[::ffff:192.168.1.2]:8470", "salle12", "salle13:8470"],
)
def test_a_node_on_the_lan_answers_to_no_other_address_or_name(host: str) -> None:
    assert at_school(host) is None


@given(st.text(), st.integers(1, 65535))
def test_any_host_is_judged_without_an_error(host: str, port: int) -> None:
    site_of(host, address="", port=port, names=HOME)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_what_arrives_at_a_loopback_address_is_from_this_machine(address: str) -> None:
    assert is_own_loopback(address)


@pytest.mark.parametrize("address", ["192.168.1.2", "::ffff:192.168.1.2", "fe80::1%eth0", "0.0.0.0", "", "localhost"])
def test_what_arrives_elsewhere_may_be_from_anywhere(address: str) -> None:
    assert not is_own_loopback(address)
