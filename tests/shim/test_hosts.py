from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.config import DomainName, Endpoint, LessonsUrl, ShimConfig
from edgeshare.manifest import LessonId
from edgeshare.shim.hosts import (
    Elsewhere,
    Home,
    LessonOrigin,
    Names,
    Site,
    is_on_this_machine,
    is_own_loopback,
    lessons_at,
    site_of,
)

HOME = Names.of(ShimConfig(allowed_hosts=("Lecons.example.fr", "proxy.example.fr:81")), "salle12")
DOMAIN = DomainName("lecons.college.fr")
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
        "[127.0.0.1]:8470",
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
    assert at_home("lecons.example.fr") == at_home("LECONS.example.fr:8470") == Elsewhere("lecons.example.fr")
    assert at_home("proxy.example.fr:81") == Elsewhere("proxy.example.fr")


@pytest.mark.parametrize("host", ["salle12.lycee.example.fr:8470", "SALLE12.local:8470"])
def test_a_node_on_the_lan_answers_to_its_own_name(host: str) -> None:
    assert at_school(host) == Elsewhere(host.lower().removesuffix(":8470"))


def test_a_node_on_the_lan_answers_to_the_address_at_which_it_was_reached() -> None:
    assert at_school("192.168.1.2:8470") == Elsewhere("192.168.1.2")
    assert at_school("[2001:DB8::7]:8470", address="2001:db8::7") == Elsewhere("[2001:db8::7]")
    assert at_school("192.168.1.2:8470", address="::ffff:192.168.1.2") == Elsewhere("192.168.1.2")


@pytest.mark.parametrize(
    "host",
    ["192.168.1.3:8470", "192.168.1.2", "192.168.1.2:80", "[::ffff:192.168.1.2]:8470", "salle12", "salle13:8470"],
)
def test_a_node_on_the_lan_answers_to_no_other_address_or_name(host: str) -> None:
    assert at_school(host) is None


def test_the_second_port_beyond_the_loopback_makes_the_machines_name_ours() -> None:
    behind_nginx = ShimConfig(lessons_listen=Endpoint("0.0.0.0", 8471))
    names = Names.of(behind_nginx, "salle12")
    assert site_of("salle12.local:8471", address="192.168.1.2", port=8471, names=names) == Elsewhere("salle12.local")
    assert site_of("salle12.local:8470", address="192.168.1.2", port=8471, names=names) is None


def below_domain(host: str, *, proxy: str | None = None, port: int = 8471) -> Site | None:
    config = ShimConfig(lesson_domain=DOMAIN, lessons_url=LessonsUrl(proxy) if proxy else None)
    return site_of(host, address="192.168.1.2", port=port, names=Names.of(config, "salle12"))


def test_below_the_lesson_domain_each_lesson_has_an_origin_of_its_own() -> None:
    fractions = LessonOrigin(LessonId("maths-6e-fractions"), DOMAIN)
    assert below_domain("maths-6e-fractions.lecons.college.fr:8471") == fractions
    assert below_domain("MATHS-6e-fractions.Lecons.College.fr:8471") == fractions
    assert below_domain("lecons.college.fr:8471") == Elsewhere(DOMAIN)
    assert not is_on_this_machine(fractions)


@pytest.mark.parametrize(
    "host",
    [
        "x.lecons.college.fr",
        "x.lecons.college.fr:8470",
        "x.y.lecons.college.fr:8471",
        ".lecons.college.fr:8471",
        "-x.lecons.college.fr:8471",
        "x_y.lecons.college.fr:8471",
        "xlecons.college.fr:8471",
        "x.college.fr:8471",
        "x.lecons.college.fr.:8471",
        "x.lecons.college.fr.evil.com:8471",
        f"{'x' * 64}.lecons.college.fr:8471",
        "x.lecons.college.fr@evil:8471",
    ],
)
def test_nothing_else_near_the_lesson_domain_is_ours(host: str) -> None:
    assert below_domain(host) is None


def test_a_proxy_before_us_has_the_port_that_its_url_says_and_no_other() -> None:
    lesson = LessonOrigin(LessonId("x"), DOMAIN)
    assert below_domain("x.lecons.college.fr", proxy="https://lecons.college.fr") == lesson
    assert below_domain("x.lecons.college.fr:8443", proxy="https://lecons.college.fr:8443") == lesson
    assert below_domain("x.lecons.college.fr:443", proxy="https://lecons.college.fr:8443") is None
    assert below_domain("x.lecons.college.fr", proxy="https://lecons.college.fr:8443") is None
    assert below_domain("ecole.example.fr:8443", proxy="https://ecole.example.fr:8443") == Elsewhere("ecole.example.fr")
    assert below_domain("ecole.example.fr", proxy="https://ecole.example.fr:8443") is None


SECOND = Endpoint("0.0.0.0", 8471)


@pytest.mark.parametrize(
    ("config", "url"),
    [
        (ShimConfig(), "/lessons/{lesson}/"),
        (ShimConfig(lessons_listen=SECOND), "http://salle12.local:8471/lessons/{lesson}/"),
        (ShimConfig(lesson_domain=DOMAIN), "http://{lesson}.lecons.college.fr:8470/"),
        (ShimConfig(lessons_listen=SECOND, lesson_domain=DOMAIN), "http://{lesson}.lecons.college.fr:8471/"),
        (
            ShimConfig(lessons_listen=SECOND, lessons_url=LessonsUrl("https://edgeshare.local:8443")),
            "https://edgeshare.local:8443/lessons/{lesson}/",
        ),
        (
            ShimConfig(
                lessons_listen=SECOND, lesson_domain=DOMAIN, lessons_url=LessonsUrl("https://lecons.college.fr")
            ),
            "https://{lesson}.lecons.college.fr/",
        ),
    ],
)
def test_readers_elsewhere_are_led_to_where_lessons_are(config: ShimConfig, url: str) -> None:
    assert lessons_at(config, "salle12.local", 8470) == url


def test_port_80_is_left_out_as_browsers_do() -> None:
    assert lessons_at(ShimConfig(lesson_domain=DOMAIN), "x", 80) == "http://{lesson}.lecons.college.fr/"


@pytest.mark.parametrize("site", [Home(), LessonOrigin(LessonId("x"))])
def test_localhost_and_what_is_below_it_is_this_machine(site: Site) -> None:
    assert is_on_this_machine(site)
    assert not is_on_this_machine(Elsewhere("salle12.local"))


@given(st.text(), st.integers(1, 65535))
def test_any_host_is_judged_without_an_error(host: str, port: int) -> None:
    site_of(host, address="", port=port, names=HOME)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_what_arrives_at_a_loopback_address_is_from_this_machine(address: str) -> None:
    assert is_own_loopback(address)


@pytest.mark.parametrize("address", ["192.168.1.2", "::ffff:192.168.1.2", "fe80::1%eth0", "0.0.0.0", "", "localhost"])
def test_what_arrives_elsewhere_may_be_from_anywhere(address: str) -> None:
    assert not is_own_loopback(address)
