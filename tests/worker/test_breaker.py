# SPDX-License-Identifier: GPL-3.0-or-later
"""The circuit breaker: what opens it, what closes it, how it is probed; and what the choice makes of it."""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from acme_milter.acme.problem import AcmeError, BadAnswer, ErrorType, Problem, RateLimited, ServerBusy, ServerRefused
from acme_milter.store.authority_health import Health
from acme_milter.store.pauses import Pause
from acme_milter.worker import breaker
from acme_milter.worker.breaker import (
    FAILURES,
    FIRST_PROBE,
    LONGEST_PROBE,
    ROW_LASTS,
    TRIAL_LASTS,
    after_failure,
    after_order,
    after_probe,
    is_failure,
    on_trial,
    probe_is_due,
    probing,
)
from acme_milter.worker.choice import LONG_PAUSE, Choice, Standing, choose, standing_of

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
WELL = Health(authority="ca")
SECOND = timedelta(seconds=1)


def problem(kind: ErrorType) -> Problem:
    return Problem.of(kind, "no", status=400)


def failing(times: int, *, apart: timedelta = SECOND) -> Health:
    health = WELL
    for number in range(times):
        health = after_failure(health, "timeout", NOW + number * apart, f"e{number}")
    return health


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (ServerBusy("ca.example: Connection refused"), True),
        (ServerBusy("serverInternal 500", problem=problem(ErrorType.SERVER_INTERNAL)), True),
        (BadAnswer("directory: expected JSON, got text/html"), True),
        (ServerRefused("no", problem=problem(ErrorType.SERVER_INTERNAL)), True),
        (RateLimited("no", problem=problem(ErrorType.RATE_LIMITED)), False),
        (ServerRefused("no", problem=problem(ErrorType.REJECTED_IDENTIFIER)), False),
        (ServerRefused("no", problem=problem(ErrorType.DNS)), False),
    ],
    ids=str,
)
def test_what_speaks_against_the_authority_counts_and_what_is_about_one_mailbox_does_not(
    error: AcmeError, counts: bool
) -> None:
    assert is_failure(error) is counts


def test_it_opens_at_the_last_failure_of_a_row_and_not_before() -> None:
    assert not failing(FAILURES - 1).is_open
    opened = failing(FAILURES)
    assert opened.is_open
    assert opened.probe_at is not None
    assert opened.open_since is not None
    assert opened.probe_at - opened.open_since == FIRST_PROBE


def test_an_order_that_is_taken_ends_the_row() -> None:
    again = after_failure(after_order(failing(FAILURES - 1)), "timeout", NOW, "e")
    assert (again.failures, again.is_open) == (1, False)


def test_failures_that_lie_far_apart_are_no_row() -> None:
    assert not failing(3 * FAILURES, apart=ROW_LASTS + SECOND).is_open


def test_while_it_is_open_only_the_trials_failure_says_anything_new() -> None:
    answering = after_probe(probing(failing(FAILURES), NOW), None, NOW)
    tried = on_trial(answering, "trial", NOW)
    assert after_failure(tried, "late", NOW, "another") == tried
    again = after_failure(tried, "HTTP 503", NOW, "trial")
    assert (again.openings, again.trial_id, again.last_error) == (2, None, "HTTP 503")
    assert again.open_since == tried.open_since


def test_each_probe_in_vain_is_followed_by_a_longer_pause_up_to_half_an_hour() -> None:
    health, pauses = failing(FAILURES), []
    for _ in range(8):
        health = after_probe(probing(health, NOW), "timeout", NOW)
        assert health.probe_at is not None
        pauses.append(health.probe_at - NOW)
    assert pauses == [timedelta(minutes=minutes) for minutes in (2, 4, 8, 16, 30, 30, 30, 30)]


def test_whoever_probes_puts_the_next_probe_off_before_it_asks() -> None:
    health = failing(FAILURES)
    at = NOW + timedelta(minutes=2)
    assert probe_is_due(health, at)
    assert not probe_is_due(probing(health, at), at)


def test_a_probe_that_a_wrong_clock_has_dated_is_due() -> None:
    health = dataclasses.replace(failing(FAILURES), probe_at=NOW + LONGEST_PROBE + timedelta(days=300))
    assert probe_is_due(health, NOW)


def test_a_trial_that_shows_nothing_ends_and_is_followed_by_a_probe() -> None:
    tried = on_trial(after_probe(probing(failing(FAILURES), NOW), None, NOW), "trial", NOW)
    assert not probe_is_due(tried, NOW)
    late = NOW + TRIAL_LASTS + SECOND
    assert probe_is_due(tried, late)
    over = probing(tried, late)
    assert (over.trial_id, over.openings) == (None, tried.openings)


def test_what_is_broken_is_told_once_and_again_for_each_probe_in_vain(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    before = failing(FAILURES - 1)
    opened = after_failure(before, "timeout", NOW, "e")
    assert breaker.tell(before, opened)
    assert not breaker.tell(opened, after_failure(opened, "timeout", NOW, "e"))
    answering = after_probe(probing(opened, NOW), None, NOW)
    assert breaker.tell(opened, answering)
    assert breaker.tell(answering, after_order(answering))
    events = [record.getMessage().split()[1] for record in caplog.records]
    assert events == ["authority-failing", "authority-healed", "authority-healed"]


FINE, AWAY = Standing(), Standing("away")


@pytest.mark.parametrize(
    ("standings", "chosen"),
    [
        ({"a": FINE, "b": FINE}, "a"),
        ({"a": AWAY, "b": FINE}, "b"),
        ({"a": AWAY, "b": AWAY, "c": FINE}, "c"),
        ({"a": AWAY, "b": AWAY}, "b"),
        ({"b": FINE}, "b"),
    ],
    ids=["the-first", "the-next", "the-third", "none-so-it-stays", "the-first-is-not-configured"],
)
def test_the_first_of_the_list_that_can_be_used_is_chosen(standings: Mapping[str, Standing], chosen: str) -> None:
    assert choose(("a", "b", "c"), standings, at="b").authority == chosen


def test_without_another_one_a_broken_authority_is_used_as_it_is() -> None:
    assert choose(("a",), {"a": AWAY, "b": FINE}) == Choice("a")


def test_one_that_answers_again_is_given_one_order_to_try() -> None:
    answering = Standing("broken", wants_trial=True)
    assert choose(("a", "b"), {"a": answering, "b": FINE}).authority == "b"
    tried = choose(("a", "b"), {"a": answering, "b": FINE}, may_try=lambda name: name == "a")
    assert (tried.authority, tried.trial) == ("a", True)
    under_trial = {"a": Standing("broken", trial_id="e1"), "b": FINE}
    assert choose(("a", "b"), under_trial, enrollment_id="e1").authority == "a"
    assert choose(("a", "b"), under_trial, enrollment_id="e2", may_try=lambda _: True).authority == "b"


@pytest.mark.parametrize(
    ("lasts", "usable"),
    [(None, False), (LONG_PAUSE, False), (LONG_PAUSE - SECOND, True)],
    ids=["a-persons", "a-long-one", "a-short-one"],
)
def test_a_short_pause_moves_nobody(lasts: timedelta | None, usable: bool) -> None:
    until = None if lasts is None else NOW + lasts
    pause = Pause(authority="a", reason="rateLimited", since=NOW, until=until)
    assert standing_of(None, pause, clock_is_wrong=False).is_usable() is usable
