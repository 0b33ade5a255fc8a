# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a number of orders takes."""

from datetime import timedelta

import pytest

from acme_milter.config.schema import AuthorityLimits
from acme_milter.report.pace import Load, Pace, done_after, estimate, in_words, needed, pace_of

MINUTE = timedelta(minutes=1)
FIVE_THOUSAND = Load(5000, 5000)


@pytest.mark.parametrize(
    ("pace", "takes", "bound_by"),
    [
        (Pace(in_flight=50), timedelta(minutes=100), "in_flight 50"),
        (Pace(in_flight=50, typical=30 * MINUTE), timedelta(hours=50), "in_flight 50"),
        (Pace(in_flight=50, orders_per_hour=100), timedelta(hours=50), "orders_per_hour 100"),
        (Pace(in_flight=50, orders_per_hour=100, mails_per_hour=60), timedelta(hours=5000 / 60), "mails_per_hour 60"),
        (Pace(in_flight=50, orders_per_hour=100_000, mails_per_hour=60_000), timedelta(minutes=100), "in_flight 50"),
    ],
)
def test_the_slowest_limit_decides(pace: Pace, takes: timedelta, bound_by: str) -> None:
    found = estimate(FIVE_THOUSAND, pace)
    assert abs(found.takes - takes) < timedelta(seconds=1)
    assert found.bound_by.startswith(bound_by)


def test_the_typical_time_is_the_median_of_what_was_finished_and_says_so() -> None:
    pace = pace_of(AuthorityLimits(), [timedelta(seconds=number) for number in (2, 3, 400)])
    assert pace.typical == timedelta(seconds=3)
    assert pace.rests_on == "3 s an order (median of the last 3)"


def test_nothing_finished_yet_is_taken_for_a_minute_and_said() -> None:
    assert "60 s an order (assumed" in pace_of(AuthorityLimits(), []).rests_on


def test_each_limit_is_of_what_it_names() -> None:
    """Five thousand orders of three addresses."""
    load, pace = Load(5000, 15_000), Pace(in_flight=50, orders_per_hour=100, mails_per_hour=200)
    found = estimate(load, pace)
    assert (found.takes, found.bound_by) == (timedelta(hours=75), "mails_per_hour 200")
    assert done_after(timedelta(hours=15), load, pace) == 1000
    limits = needed(load, pace, timedelta(hours=100))
    assert (limits.orders_per_hour, limits.mails_per_hour) == (50, 150)


def test_nothing_to_do_takes_no_time() -> None:
    assert estimate(Load(), Pace(in_flight=50, orders_per_hour=3)).takes == timedelta(0)


def test_hour_by_hour_it_grows_to_the_whole() -> None:
    pace = Pace(in_flight=50, orders_per_hour=100)
    assert [done_after(timedelta(hours=hour), Load(250, 250), pace) for hour in (1, 2, 3)] == [100, 200, 250]


def test_the_limits_that_are_needed_are_enough_and_no_more() -> None:
    for within in (timedelta(hours=24), timedelta(days=4)):
        found = needed(FIVE_THOUSAND, Pace(in_flight=1, typical=30 * MINUTE), within)
        enough = Pace(in_flight=found.in_flight, orders_per_hour=found.orders_per_hour, typical=30 * MINUTE)
        fewer = Pace(in_flight=found.in_flight - 1, typical=30 * MINUTE)
        assert estimate(FIVE_THOUSAND, enough).takes <= within
        assert estimate(FIVE_THOUSAND, fewer).takes > within


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (timedelta(0), "no time"),
        (timedelta(seconds=5), "under a minute"),
        (timedelta(seconds=60), "1 min"),
        (timedelta(minutes=59), "59 min"),
        (timedelta(hours=4, minutes=11), "4 h 11 min"),
        (timedelta(hours=24), "24 h"),
        (timedelta(days=5, hours=5), "5 d 5 h"),
    ],
)
def test_durations_are_said_in_two_units(time: timedelta, words: str) -> None:
    assert in_words(time) == words
