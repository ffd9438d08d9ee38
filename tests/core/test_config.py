from __future__ import annotations

from pathlib import Path

import pytest

from edgeshare.config import (
    NO_PROXY,
    PROFILES,
    Config,
    Endpoint,
    domain_name,
    lessons_url,
    load,
    parse,
    parse_endpoint,
    proxy_address,
)
from edgeshare.errors import ConfigError
from edgeshare.hours import ALWAYS, Window

FILE = Path("/etc/edgeshare/node.toml")
BASE = 'origins = ["https://lecons.example.fr/"]\nroot = "root.json"\n'


def config(more: str = "") -> Config:
    return parse(BASE + more, FILE)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_two_keys_are_enough() -> None:
    assert config().origins == ("https://lecons.example.fr/",)
    assert config().shim.listen == Endpoint("127.0.0.1", 8470)
    assert config().quota == 20 * 2**30


def test_every_key_of_the_design_is_read() -> None:
    whole = config(
        """
        profile = "home"
        library = "/var/lib/edgeshare"
        quota = "20 GiB"
        follow = ["cned/6e", "cned/6e.teacher"]
        fetch = ["maths-6e-fractions"]
        [shim]
        listen = "[::1]:8470"
        [swarm]
        listen = "0.0.0.0:6881"
        trackers = ["udp://lecons.example.fr:6969"]
        peers = ["192.0.2.1:6881"]
        upload = "5 Mbit/s"
        dht = false
        lsd = true
        """
    )
    assert whole.follow == ("cned/6e", "cned/6e.teacher")
    assert whole.fetch == ("maths-6e-fractions",)
    assert whole.shim.listen == Endpoint("::1", 8470)
    assert whole.swarm.peers == (Endpoint("192.0.2.1", 6881),)
    assert whole.swarm.upload == 625_000
    assert whole.swarm.dht is False


def test_a_relative_path_counts_from_the_folder_of_the_file() -> None:
    assert config().root == Path("/etc/edgeshare/root.json")
    assert config('library = "lib"').library == Path("/etc/edgeshare/lib")
    assert config('library = "/lib"').library == Path("/lib")
    assert config('[shim]\nstatement = "a11y.toml"').shim.statement == Path("/etc/edgeshare/a11y.toml")
    assert config().shim.statement is None


def test_a_profile_changes_defaults_and_a_key_in_the_file_wins() -> None:
    school = config('profile = "school"')
    assert (school.quota, school.shim.listen.host, school.swarm.upload) == (200 * 2**30, "0.0.0.0", 2_500_000)
    mine = config('profile = "school"\nquota = "1 GiB"\n[swarm]\nupload = "1 Mbit/s"')
    assert (mine.quota, mine.shim.listen.host, mine.swarm.upload) == (2**30, "0.0.0.0", 125_000)


def test_readers_nodes_fetch_ahead_at_night_and_the_publishers_own_at_once() -> None:
    night = Window.parse("20:00-06:30")
    assert [config(f'profile = "{each}"').schedule.window for each in PROFILES] == [night, night, ALWAYS]
    assert config('[schedule]\nwindow = "always"').schedule.window == ALWAYS


def test_a_line_has_no_limits_but_those_that_are_written() -> None:
    link = config().link
    assert (link.metered, link.network_manager, link.monthly_cap, link.download, link.hours) == (False, True, 0, 0, ())


def test_a_line_has_other_limits_by_the_hour() -> None:
    link = config(
        """
        keep_free = "2 GiB"
        [link]
        metered = true
        network_manager = false
        monthly_cap = "50 GB"
        download = "80 Mbit/s"
        [[link.hours]]
        between = "08:00-18:00"
        upload = "1 Mbit/s"
        download = "10 Mbit/s"
        [[link.hours]]
        between = "18:00-20:00"
        """
    ).link
    assert (link.metered, link.network_manager, link.monthly_cap, link.download) == (True, False, 50 * 10**9, 10**7)
    day, evening = link.hours
    assert (str(day.between), day.upload, day.download) == ("08:00-18:00", 125_000, 1_250_000)
    assert (str(evening.between), evening.upload, evening.download) == ("18:00-20:00", None, None)


def test_a_school_has_a_second_port_for_lessons_where_others_read() -> None:
    assert config().shim.lessons_listen is None
    assert config('profile = "school"').shim.lessons_listen == Endpoint("0.0.0.0", 8471)
    assert config('profile = "school"\n[shim]\nlessons_listen = "none"').shim.lessons_listen is None
    alone = 'profile = "school"\n[shim]\nlisten = "127.0.0.1:8470"\n'
    assert config(alone).shim.lessons_listen is None  # nobody but this machine
    assert config(f'{alone}lessons_listen = "0.0.0.0:8471"').shim.lessons_listen == Endpoint("0.0.0.0", 8471)


def test_lessons_may_have_a_domain_and_a_proxy_before_them() -> None:
    shim = config('[shim]\nlesson_domain = "Lecons.College.fr"\nlessons_url = "HTTPS://lecons.college.fr:443/"').shim
    assert (shim.lesson_domain, shim.lessons_url) == ("lecons.college.fr", "https://lecons.college.fr")
    assert lessons_url("http://x:80") == "http://x"
    assert lessons_url("http://x:443") == "http://x:443"
    assert config().shim.outside_links is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lecons",
        "1.2.3.4",
        "a.1",
        "*.lecons.fr",
        ".lecons.fr",
        "lecons.fr.",
        "a_b.fr",
        "x.localhost",
        "lecons.fr:80",
        "é.fr",
    ],
)
def test_what_lessons_cannot_stand_below_is_no_domain(text: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a domain"):
        domain_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "ftp://x",
        "https://",
        "https://x/y",
        "https://x?y",
        "https://x#y",
        "https://u@x",
        "https://x:0",
        "https://x:65536",
    ],
)
def test_what_is_more_or_less_than_scheme_name_and_port_is_no_way_to_lessons(text: str) -> None:
    with pytest.raises(ValueError, match="is not like https://"):
        lessons_url(text)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("salle12", False),
    ],
)
def test_an_endpoint_is_for_this_machine_alone_or_not(host: str, is_loopback: bool) -> None:
    assert Endpoint(host, 1).is_loopback is is_loopback


def test_a_proxy_is_the_environments_or_one_of_its_own_or_none() -> None:
    assert config("").origin.proxy is None
    assert config('[origin]\nproxy = "http://user:word@p:3128/"').origin.proxy == "http://user:word@p:3128/"
    assert config('[origin]\nproxy = "none"').origin.proxy == NO_PROXY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p:3128",
        "http://",
        "http://:3128",
        "http://p:0",
        "http://p:x",
        "http://p/q",
        "http://p?q",
        "http://[",
        "http://p\n",
    ],
)
def test_what_is_no_proxy_is_refused_and_its_password_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not like http://proxy\.example:3128$"):
        proxy_address(text)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_can_be_read(profile: str) -> None:
    assert config(f'profile = "{profile}"').profile == profile


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ["`origins` is missing"]),
        ('origins = ["https://a/"]', ["`root` is missing"]),
        ('origins = []\nroot = "r"', ["`origins` is empty"]),
        ('origins = "https://a/"\nroot = "r"', ["`origins` is not a list"]),
        ('origins = ["lecons.example.fr"]\nroot = "r"', ["`origins`", "'lecons.example.fr'", "https://"]),
        ('origins = ["ftp://a/"]\nroot = "r"', ["`origins`", "'ftp://a/'"]),
        ('origins = ["https://"]\nroot = "r"', ["`origins`", "'https://'"]),
        (BASE + "quotta = 1", ["unknown key `quotta`", "did you mean `quota`?"]),
        (BASE + "zzz = 1", ["unknown key `zzz`", "known keys: ", "follow"]),
        (BASE + '"a\\nb" = 1', ["unknown key `a\\nb`"]),
        (BASE + "[swarm]\ndth = true", ["unknown key `swarm.dth`", "did you mean `swarm.dht`?"]),
        (BASE + "swarm = 5", ["`swarm` is not a table"]),
        (BASE + "quota = 5", ["`quota`", "20 GiB"]),
        (BASE + 'quota = "5 Mbit/s"', ["`quota`", "'5 Mbit/s'", "GiB"]),
        (BASE + '[swarm]\nupload = "5 MB"', ["`swarm.upload`", "'5 MB'", "Mbit/s"]),
        (BASE + "[swarm]\nupload = true", ["`swarm.upload`", "a rate"]),
        (BASE + "[swarm]\ndht = 1", ["`swarm.dht`", "true or false"]),
        (BASE + '[swarm]\ntrackers = ["lecons:6969"]', ["`swarm.trackers`", "'lecons:6969'"]),
        (BASE + '[swarm]\npeers = ["a"]', ["`swarm.peers`", "'a'", "host:port"]),
        (BASE + '[shim]\nlisten = "8470"', ["`shim.listen`", "'8470'", "127.0.0.1:8470"]),
        (BASE + '[shim]\nlessons_listen = "8471"', ["`shim.lessons_listen`", "'8471'"]),
        (BASE + '[shim]\nlessons_listen = "0.0.0.0:8470"', ["`shim.lessons_listen` has the port of `shim.listen`"]),
        (BASE + '[shim]\nlessons_url = "https://x"', ["`shim.lessons_url` leads nowhere", "lessons_listen"]),
        (BASE + '[shim]\nlesson_domain = "x"', ["`shim.lesson_domain`", "'x'", "lecons.college-exemple.fr"]),
        (BASE + '[origin]\nproxy = "socks5://p"', ["`origin.proxy`", "http://proxy.example:3128"]),
        (BASE + "[origin]\nproxy = false", ["`origin.proxy`", "http://proxy.example:3128", '"none"']),
        (BASE + 'follow = ["6e"]', ["`follow`", "'6e'", "cned/6e"]),
        (BASE + 'fetch = ["Maths"]', ["`fetch`", "'Maths'"]),
        (BASE + 'profile = "hom"', ["profile 'hom'", "home, school, origin"]),
        (BASE + 'profile = ["home"]', ["profile ['home']", "home, school, origin"]),
        (BASE + "[shim]\nconnections_per_client = 0", ["`shim.connections_per_client`", "from 1 to 4096"]),
        (BASE + "[shim]\nconnections_per_client = true", ["`shim.connections_per_client`", "from 1 to 4096"]),
        (BASE + "refresh_every_s = 0", ["`refresh_every_s`", "from 1 to"]),
        (BASE + "refresh_every_s = nan", ["`refresh_every_s`", "from 1 to"]),
        (BASE + "refresh_every_s = inf", ["`refresh_every_s`", "from 1 to"]),
        (BASE + "refresh_every_s = true", ["`refresh_every_s`", "from 1 to"]),
        (BASE + "keep_free = 1", ["`keep_free`", "20 GiB"]),
        (BASE + '[schedule]\nwindow = "night"', ["`schedule.window`", "'night'", "20:00-06:30", "always"]),
        (BASE + '[schedule]\nwindow = "20:00-24:00"', ["`schedule.window`", "'20:00-24:00'"]),
        (BASE + "[schedule]\nwindow = 20:00:00", ["`schedule.window`", "20:00-06:30"]),
        (
            BASE + '[schedule]\nwindows = "always"',
            ["unknown key `schedule.windows`", "did you mean `schedule.window`?"],
        ),
        (BASE + 'schedule = "always"', ["`schedule` is not a table", "[schedule]"]),
        (BASE + '[link]\nmetered = "yes"', ["`link.metered`", "true or false"]),
        (BASE + '[link]\nmonthly_cap = "5"', ["`link.monthly_cap`", "'5'", "GiB"]),
        (BASE + '[link]\ndownload = "5 MB"', ["`link.download`", "Mbit/s"]),
        (BASE + '[link.hours]\nbetween = "8:00-9:00"', ["`link.hours` is not a list of tables", "[[link.hours]]"]),
        (BASE + "[link]\nhours = [5]", ["`link.hours` is not a list of tables"]),
        (BASE + '[[link.hours]]\nupload = "1 Mbit/s"', ["`link.hours.between`", "is missing"]),
        (BASE + '[[link.hours]]\nbetween = "8-9"', ["`link.hours.between`", "'8-9'", "20:00-06:30"]),
        (BASE + '[[link.hours]]\nbetween = "8:00-9:00"\nupload = 5', ["`link.hours.upload`", "a rate"]),
        (BASE + '[[link.hours]]\nbetwen = "8:00-9:00"', ["unknown key `link.hours.betwen`", "`link.hours.between`?"]),
        (BASE + "root = 5", ["is not TOML"]),
        ("x = " + "[" * 20_000, ["is not TOML"]),
    ],
)
def test_an_error_names_the_file_the_key_and_what_it_may_be(text: str, named: list[str]) -> None:
    line = refusal(text)
    for word in [str(FILE), *named]:
        assert word in line


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml .*--config"):
        load(tmp_path / "none.toml")


def test_a_config_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match=r"node\.toml is not UTF-8"):
        load(tmp_path / "node.toml")


@pytest.mark.parametrize("text", ["127.0.0.1:0", "h:65535", "[::1]:1", "[2001:db8::1]:6881"])
def test_an_endpoint_is_printed_as_it_is_read(text: str) -> None:
    assert str(parse_endpoint(text)) == text


@pytest.mark.parametrize("text", ["", "h", "h:", ":1", "h:65536", "::1:80", "[h]:1", "[::g]:1", "a b:1", "h:1\n"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_endpoint(text)
