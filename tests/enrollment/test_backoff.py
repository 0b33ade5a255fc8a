# SPDX-License-Identifier: GPL-3.0-or-later
"""How long we wait."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from acme_milter.enrollment.backoff import (
    POLL_FIRST,
    POLL_LONGEST,
    REORDER,
    STEP_LONGEST,
    poll_delay,
    reorder_delay,
    step_delay,
)

JITTER = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(st.integers(min_value=1, max_value=10_000), JITTER)
def test_a_step_is_repeated_after_half_a_second_to_an_hour(attempts: int, jitter: float) -> None:
    assert timedelta(seconds=0.5) <= step_delay(attempts, jitter) <= STEP_LONGEST


@given(st.integers(min_value=1, max_value=20), JITTER)
def test_each_failure_waits_at_least_as_long_as_half_the_doubled_last_one(attempts: int, jitter: float) -> None:
    assert step_delay(attempts + 1, jitter) >= step_delay(attempts, 0)


def test_jitter_spreads_over_the_upper_half() -> None:
    assert step_delay(5, 0.0) == timedelta(seconds=8)
    assert step_delay(5, 0.5) == timedelta(seconds=12)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=2)))
def test_polling_slows_down_to_a_minute(waited: timedelta) -> None:
    assert POLL_FIRST <= poll_delay(waited) <= POLL_LONGEST


def test_a_mailbox_whose_orders_die_waits_longer_each_time_and_never_stops_trying() -> None:
    assert [reorder_delay(generation) for generation in (1, 2, 3, 4, 5, 100)] == [*REORDER, REORDER[-1], REORDER[-1]]
