from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edgeshare.freshness import LONG_SILENCE, NOTICE, SKEW, Clock, Held, judge

FLOOR = datetime(2026, 11, 1, tzinfo=UTC)
SIGNED = datetime(2026, 11, 20, tzinfo=UTC)
LIVES = {"root": 730, "targets": 365, "snapshot": 90, "timestamp": 30}  # days


def held(days: dict[str, int] | None = None, *, issued: datetime | None = SIGNED) -> Held:
    lives = {**LIVES, **(days or {})}
    return Held(
        versions={}, expiries={role: SIGNED + timedelta(days=life) for role, life in lives.items()}, issued=issued
    )


def test_metadata_is_fresh_until_the_first_role_expires() -> None:
    end = SIGNED + timedelta(days=30)
    assert judge(end - timedelta(seconds=1), FLOOR, held()).is_fresh
    late = judge(end, FLOOR, held())
    assert (late.is_fresh, late.role, late.expires) == (False, "timestamp", end)


@pytest.mark.parametrize("role", LIVES)
def test_each_role_can_be_the_first_to_expire(role: str) -> None:
    late = judge(SIGNED + timedelta(days=3), FLOOR, held({role: 2}))
    assert (late.is_fresh, late.role) == (False, role)


def test_nothing_is_fresh_where_nothing_is_held() -> None:
    assert judge(SIGNED, FLOOR, None).warning(SIGNED) is None
    assert not judge(SIGNED, FLOOR, None).is_fresh


def test_a_clock_two_days_behind_is_believed_and_one_further_behind_is_named() -> None:
    assert judge(SIGNED - SKEW, FLOOR, held()).clock is Clock.PLAUSIBLE
    behind = judge(SIGNED - SKEW - timedelta(seconds=1), FLOOR, held())
    assert behind.clock is Clock.BEHIND
    assert behind.is_fresh
    warning = behind.warning(datetime(1970, 1, 1, tzinfo=UTC))
    assert (
        warning
        == "this machine's clock says 1970-01-01, and the newest metadata was signed on 2026-11-20: set the clock"
    )


def test_a_clock_at_1970_makes_nothing_fresh_again() -> None:
    long_ago = datetime(1970, 1, 1, tzinfo=UTC)
    assert not judge(long_ago, SIGNED + timedelta(days=31), held()).is_fresh  # this edgeshare is newer than all of it
    assert not judge(long_ago, FLOOR, held(issued=SIGNED + timedelta(days=31))).is_fresh  # says the metadata itself


def test_a_moment_of_signing_that_cannot_be_is_not_believed() -> None:
    """A thief of the timestamp's key alone cannot have a machine's clock taken for wrong, for years on end."""
    after = SIGNED + timedelta(days=366)
    far = judge(SIGNED, FLOOR, held({"timestamp": 10_000, "snapshot": 10_000}, issued=after))
    assert (far.is_fresh, far.clock, far.issued) == (True, Clock.PLAUSIBLE, None)


def test_metadata_that_seems_to_be_over_a_year_old_names_the_clock_too() -> None:
    late = SIGNED + LONG_SILENCE
    assert judge(late, FLOOR, held()).clock is Clock.PLAUSIBLE
    later = judge(late + timedelta(seconds=1), FLOOR, held(), refreshed=SIGNED)
    assert later.clock is Clock.AHEAD
    warning = later.warning(datetime(2099, 1, 1, tzinfo=UTC))
    assert warning is not None
    assert "expired on 2026-12-20, the origin was heard last on 2026-11-20" in warning
    assert warning.endswith("or this machine's clock, which says 2099-01-01, is ahead: check it")


def test_one_look_at_a_wrong_clock_changes_nothing_that_follows() -> None:
    assert not judge(datetime(2099, 1, 1, tzinfo=UTC), FLOOR, held()).is_fresh
    assert judge(SIGNED + timedelta(days=1), FLOOR, held()).is_fresh


def test_what_has_expired_is_said_with_what_to_do() -> None:
    moment = SIGNED + timedelta(days=40)
    assert judge(moment, FLOOR, held(), refreshed=SIGNED).warning(moment) == (
        "nothing new is accepted: the timestamp metadata expired on 2026-12-20, the origin was heard last on 2026-11-20"
        "; what is here stays readable: tell the publisher if it lasts"
    )


def test_metadata_that_expires_within_two_weeks_is_told_of() -> None:
    end = SIGNED + timedelta(days=30)
    assert judge(end - NOTICE, FLOOR, held()).warning(end - NOTICE) is None
    late = end - NOTICE + timedelta(seconds=1)
    assert judge(late, FLOOR, held()).warning(late) == (
        "the timestamp metadata expires on 2026-12-20, and nothing new is accepted from then on: "
        "tell the publisher if it is not renewed"
    )


def test_metadata_that_does_not_say_when_it_was_signed_is_judged_by_its_expiry() -> None:
    assert judge(SIGNED + timedelta(days=29), FLOOR, held(issued=None)).is_fresh


def test_what_is_certain_is_the_clock_while_metadata_is_fresh_and_its_signing_when_it_has_expired() -> None:
    end, issued = held().expiries["timestamp"], held().issued
    assert issued
    soon, a_year_ahead = issued + timedelta(days=1), end + timedelta(days=365)
    assert judge(soon, FLOOR, held()).certain(soon) == soon
    assert judge(a_year_ahead, FLOOR, held()).certain(a_year_ahead) == issued
    behind = datetime(1970, 1, 1, tzinfo=UTC)
    assert judge(behind, FLOOR, held()).certain(behind) == issued
    assert judge(soon, FLOOR, None).certain(soon) == soon
