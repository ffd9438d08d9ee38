from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edgeshare import host

WINTER, SUMMER = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["Europe/Paris", ":Europe/Paris", "/usr/share/zoneinfo/Europe/Paris"])
def test_the_machines_zone_comes_with_its_rules_for_summer_and_winter(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TZ", name)
    zone = host.local_zone()
    assert [zone.utcoffset(moment) for moment in (WINTER, SUMMER)] == [timedelta(hours=1), timedelta(hours=2)]


def test_without_a_word_in_the_environment_it_is_the_one_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    now = datetime.now(UTC)
    assert now.astimezone(host.local_zone()).utcoffset() == now.astimezone().utcoffset()


@pytest.mark.parametrize("name", ["CET-1CEST,M3.5.0,M10.5.0/3", "No/Such", "/no/such/file", "../etc/passwd"])
def test_a_zone_without_rules_is_the_difference_of_this_moment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TZ", name)
    assert host.local_zone().utcoffset(WINTER) == host.local_zone().utcoffset(SUMMER) is not None
