# SPDX-License-Identifier: GPL-3.0-or-later
"""When a certificate is renewed: the bounds that always hold, and what becomes of a crowd."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_milter.enrollment.renewal import (
    DAY,
    Obstacle,
    Span,
    background_pace,
    begin_of,
    day_of,
    mean_per_hour,
    moment_in_window,
    not_sooner_than,
    obstacle,
    planned_moment,
    span_of,
    storm_threshold,
    try_again_after,
    was_advanced,
)

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
LIFETIMES = st.timedeltas(min_value=timedelta(hours=1), max_value=timedelta(days=825))


def a_span(lifetime: timedelta = YEAR, at: float = 0.67, spread: timedelta | None = None) -> Span:
    return span_of(NOW, NOW + lifetime, at, spread)


def issue_at_once(number: int, span: Span, now: datetime = NOW) -> Counter[int]:
    """What the store does for each new certificate; returns how many renewals fall on each day."""
    planned: Counter[int] = Counter()
    for active in range(1, number + 1):
        planned[day_of(planned_moment(span, planned, active, f"certificate {active}", now))] += 1
    return planned


def test_the_span_ends_at_the_share_of_the_lifetime_and_begins_a_third_of_it_before() -> None:
    span = a_span(timedelta(days=300), at=0.6)
    assert (span.earliest, span.latest) == (NOW + timedelta(days=80), NOW + timedelta(days=180))
    assert span.interval == timedelta(days=180)


@pytest.mark.parametrize(("lifetime", "days"), [(YEAR, 14), (timedelta(days=90), 9), (timedelta(days=10), 1)])
def test_a_renewal_is_urgent_when_a_tenth_is_left_and_at_most_two_weeks(lifetime: timedelta, days: int) -> None:
    assert a_span(lifetime).urgent == NOW + lifetime - timedelta(days=days)


@given(lifetime=LIFETIMES, at=st.floats(0, 1), spread=st.none() | LIFETIMES)
def test_no_span_begins_in_the_first_tenth_or_after_its_end(
    lifetime: timedelta, at: float, spread: timedelta | None
) -> None:
    span = a_span(lifetime, at, spread)
    assert NOW + lifetime / 10 <= span.earliest <= span.latest


@given(lifetime=LIFETIMES, at=st.floats(0, 1), spread=st.none() | LIFETIMES)
def test_whatever_a_policy_says_there_is_time_to_fail_before_the_end(
    lifetime: timedelta, at: float, spread: timedelta | None
) -> None:
    span = a_span(lifetime, at, spread)
    assert span.latest <= span.urgent < NOW + lifetime


def test_what_has_just_come_is_kept_for_a_day_or_a_third_of_what_is_left() -> None:
    assert not_sooner_than(NOW, NOW + YEAR) == NOW + timedelta(days=1)
    assert not_sooner_than(NOW, NOW + timedelta(hours=3)) == NOW + timedelta(hours=1)
    assert not_sooner_than(NOW, NOW - YEAR) == NOW


@given(
    lifetime=LIFETIMES,
    at=st.floats(0.05, 1),
    spread=st.none() | LIFETIMES,
    age=st.floats(0, 1.2),
    counts=st.dictionaries(st.integers(0, 900), st.integers(0, 500), max_size=50),
    active=st.integers(1, 100_000),
    token=st.text(),
)
def test_a_planned_moment_is_never_after_the_latest_nor_before_now(
    lifetime: timedelta,
    at: float,
    spread: timedelta | None,
    age: float,
    counts: dict[int, int],
    active: int,
    token: str,
) -> None:
    span = a_span(lifetime, at, spread)
    now = NOW + age * lifetime
    planned = {day_of(NOW) + day: count for day, count in counts.items()}
    moment = planned_moment(span, planned, active, token, now)
    assert moment >= now
    assert moment <= max(span.latest, now)
    assert moment >= min(span.earliest, span.latest)


@settings(max_examples=40)
@given(number=st.integers(1, 1000), days=st.integers(60, 825))
def test_what_was_issued_at_once_is_never_more_than_twice_the_mean_on_any_day(number: int, days: int) -> None:
    span = a_span(timedelta(days=days))
    planned = issue_at_once(number, span)
    total = planned.total()
    mean_interval = sum((begin_of(day) - NOW) / DAY * count for day, count in planned.items()) / total
    assert max(planned.values()) <= max(2 * total / mean_interval, 1) + 1


def test_a_bulk_week_comes_back_level_and_stays_so() -> None:
    """Five cycles of 730 certificates that began in one moment."""
    lifetime = timedelta(days=365)
    planned: Counter[int] = Counter()
    for number in range(730):
        planned[day_of(planned_moment(a_span(lifetime), planned, number + 1, str(number), NOW))] += 1
    renewed: Counter[int] = Counter()
    for day in range(day_of(NOW) + 1, day_of(NOW) + 5 * 365):
        for number in range(planned.pop(day, 0)):
            span = span_of(begin_of(day), begin_of(day) + lifetime, 0.67, None)
            moment = planned_moment(span, planned, 730, f"{day} {number}", begin_of(day))
            planned[day_of(moment)] += 1
            renewed[day] += 1
    first = renewed.total() - sum(count for day, count in renewed.items() if day > day_of(NOW) + 245)
    assert first == 730
    later = {day: count for day, count in renewed.items() if day > day_of(NOW) + 245}
    assert max(later.values()) <= 2 * sum(later.values()) / (5 * 365 - 245)


def test_a_site_without_load_renews_as_late_as_planned() -> None:
    span = a_span()
    moment = planned_moment(span, {}, 1, "certificate", NOW)
    assert span.latest - 2 * DAY < moment <= span.latest


def test_the_renewals_of_a_day_are_spread_over_its_hours() -> None:
    span = a_span()
    day = day_of(span.latest) - 1
    moments = [planned_moment(span, {day: before}, 24 * 245, f"c{before}", NOW) for before in range(24)]
    assert {day_of(moment) for moment in moments} == {day}
    assert max(Counter(moment.hour for moment in moments).values()) <= 2


def test_an_old_certificate_whose_time_has_passed_is_due_now() -> None:
    late = NOW + timedelta(days=300)
    assert planned_moment(a_span(), {}, 1, "certificate", late) == late


@given(token=st.text(), hours=st.integers(1, 1000))
def test_the_moment_in_a_window_is_in_it_and_always_the_same(token: str, hours: int) -> None:
    start, end = NOW + DAY, NOW + DAY + timedelta(hours=hours)
    moment = moment_in_window(start, end, token, NOW)
    assert start <= moment < end
    assert moment == moment_in_window(start, end, token, NOW + timedelta(hours=1))


def test_moments_in_a_window_are_spread_over_it() -> None:
    moments = [moment_in_window(NOW, NOW + 10 * DAY, f"certificate {n}", NOW) for n in range(1000)]
    per_day = Counter(day_of(moment - NOW + begin_of(0)) for moment in moments)
    assert min(per_day[day] for day in range(10)) > 60


def test_a_window_that_has_passed_means_now() -> None:
    assert moment_in_window(NOW - 2 * DAY, NOW - DAY, "certificate", NOW) == NOW


def test_an_authoritys_usual_window_calls_for_nothing() -> None:
    usual = NOW + 0.3 * YEAR, NOW + 0.33 * YEAR  # earlier than we would have planned it, but its habit
    assert not was_advanced(usual, None, a_span(), NOW)
    assert not was_advanced(usual, usual, a_span(), NOW)


@pytest.mark.parametrize("known_before", [True, False])
def test_a_window_that_moves_to_the_present_is_a_call(known_before: bool) -> None:
    before = (NOW + 0.6 * YEAR, NOW + 0.7 * YEAR) if known_before else None
    assert was_advanced((NOW - DAY, NOW + DAY), before, a_span(), NOW)


def test_a_failed_renewal_can_fail_once_more_before_the_end_is_near() -> None:
    for days in (10, 90, 365, 825):
        span = a_span(timedelta(days=days))
        assert span.latest + 2 * try_again_after(timedelta(days=days)) <= span.urgent + timedelta(hours=1)


def test_the_mean_counts_each_certificate_by_its_own_interval() -> None:
    assert mean_per_hour(200, [timedelta(hours=100), timedelta(hours=300)]) == pytest.approx(
        200 * (1 / 100 + 1 / 300) / 2
    )
    assert mean_per_hour(10, []) == 0


def test_the_automatic_pace_is_twice_the_mean_and_at_least_twelve() -> None:
    assert background_pace("auto", 17.2) == 35
    assert background_pace("auto", 0.3) == 12
    assert background_pace(3, 17.2) == 3


def test_a_storm_is_more_than_a_twentieth_and_twenty_beyond_the_forecast() -> None:
    assert storm_threshold(1000, 5.5) == 75


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, None),
        ({"managed": False}, Obstacle.NOT_MANAGED),
        ({"missing": True}, Obstacle.MISSING),
        ({"observed": True}, Obstacle.OBSERVED),
        ({"has_authority": False}, Obstacle.NO_AUTHORITY),
        ({"same_person": False}, Obstacle.OTHER_PERSON),
    ],
)
def test_what_keeps_a_renewal_from_being_opened_has_a_name(changed: dict[str, bool], expected: Obstacle | None) -> None:
    facts = {"managed": True, "missing": False, "observed": False, "has_authority": True, "same_person": True}
    assert obstacle(**(facts | changed)) is expected
