# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of moves, and what a move writes."""

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acme_milter.enrollment import state_machine
from acme_milter.enrollment.model import CHALLENGED_STATES, OPEN_STATES, Enrollment, State
from acme_milter.enrollment.state_machine import (
    TRANSITIONS,
    Activated,
    AuthorizationValid,
    Cancelled,
    ChallengeKnown,
    ChallengeMailAccepted,
    ChallengePosted,
    Deferred,
    Event,
    Failed,
    ImpossibleTransition,
    Moved,
    OrderingBegan,
    ReplyHandedOver,
    advance,
    diagram,
)

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def an_enrollment(state: State) -> Enrollment:
    return Enrollment(
        principal="alice@org.example",
        id="e1",
        address="alice@org.example",
        authority="ca",
        state=state,
        version=7,
        generation=1,
        opened_at=NOW,
        state_since=NOW,
        next_attempt_at=NOW,
    )


KINDS = [kind for kind in vars(state_machine).values() if isinstance(kind, type) and Event in kind.__bases__]


def every_event() -> list[Event]:
    known = {
        "authority": "other",
        "key_id": "k",
        "began_ordering_at": NOW,
        "order_url": "u",
        "order_expires_at": None,
        "authorization_url": "u",
        "finalize_url": "u",
        "challenge_url": "u",
        "challenge_sender": "ca@ca.example",
        "token_part2": b"sealed",
        "challenge_posted_at": NOW,
        "finalize_sent_at": NOW,
        "certificate_url": "u",
        "certificate_id": "c",
        "last_error": "because",
        "successor_id": None,
    }
    events = []
    for kind in KINDS:
        required = {f.name: known[f.name] for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
        events.append(kind(**required))
    return events


@pytest.mark.parametrize("state", State)
def test_only_moves_of_the_table_happen(state: State) -> None:
    for event in every_event():
        target = TRANSITIONS.get((state, type(event)))
        if target is None:
            with pytest.raises(ImpossibleTransition):
                advance(an_enrollment(state), event, LATER)
        else:
            assert advance(an_enrollment(state), event, LATER).state is target


def test_every_event_and_every_state_is_in_the_table() -> None:
    assert {event for _, event in TRANSITIONS} == set(KINDS)
    assert set(TRANSITIONS.values()) | {State.PLANNED} == set(State)


def test_every_state_is_reachable_and_no_closed_state_reopens() -> None:
    reached, frontier = {State.PLANNED}, [State.PLANNED]
    while frontier:
        source = frontier.pop()
        for (state, _), target in TRANSITIONS.items():
            if state is source and target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(State)
    assert not [1 for (source, _), target in TRANSITIONS.items() if source not in OPEN_STATES and target in OPEN_STATES]


def test_a_move_goes_one_version_on_and_remembers_since_when() -> None:
    moved = advance(an_enrollment(State.AWAITING_MAIL), ChallengeMailAccepted(next_attempt_at=LATER), LATER)
    assert (moved.version, moved.state_since, moved.next_attempt_at) == (8, LATER, LATER)


def test_staying_in_a_state_keeps_its_since() -> None:
    moved = advance(an_enrollment(State.VALIDATING), Deferred(next_attempt_at=LATER), LATER)
    assert moved.state_since == NOW


def test_an_event_writes_the_facts_it_carries() -> None:
    event = ChallengeKnown(challenge_url="https://ca/chall", challenge_sender="x@ca", token_part2=b"sealed")
    moved = advance(an_enrollment(State.ORDERING), event, LATER)
    assert (moved.challenge_url, moved.challenge_sender, moved.token_part2) == ("https://ca/chall", "x@ca", b"sealed")


def test_who_moves_to_another_authority_leaves_everything_behind_that_was_for_the_one_before() -> None:
    ordering = dataclasses.replace(
        an_enrollment(State.ORDERING), key_id="k", began_ordering_at=NOW, counted_at=NOW, account_id="a"
    )
    moved = advance(ordering, Moved(authority="other"), LATER)
    assert (moved.state, moved.authority) == (State.PLANNED, "other")
    assert {moved.key_id, moved.began_ordering_at, moved.counted_at, moved.account_id} == {None}


def test_an_event_without_a_time_is_due_at_once() -> None:
    assert advance(an_enrollment(State.ORDERING), AuthorizationValid(), LATER).next_attempt_at == LATER


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.ISSUED, Activated()),
        (State.VALIDATING, Failed(last_error="no")),
        (State.PLANNED, Cancelled(last_error="left")),
    ],
)
def test_an_ended_enrollment_is_never_due(state: State, event: Event) -> None:
    assert advance(an_enrollment(state), event, LATER).next_attempt_at is None


def test_failures_in_a_row_are_counted_and_polling_is_none() -> None:
    once = advance(an_enrollment(State.FINALIZING), Deferred(last_error="503", next_attempt_at=LATER), NOW)
    twice = advance(once, Deferred(last_error="503", next_attempt_at=LATER), NOW)
    polled = advance(twice, Deferred(next_attempt_at=LATER), NOW)
    assert (once.attempts, twice.attempts, polled.attempts) == (1, 2, 0)
    assert (twice.last_error, polled.last_error) == ("503", None)


def test_another_challenge_of_the_same_order_moves_nothing_back() -> None:
    for state in CHALLENGED_STATES - {State.AWAITING_MAIL}:
        assert advance(an_enrollment(state), ChallengeMailAccepted(), NOW).state is state


def test_a_late_handover_moves_nothing_back() -> None:
    assert advance(an_enrollment(State.VALIDATING), ReplyHandedOver(), NOW).state is State.VALIDATING


def test_an_early_post_still_waits_for_the_mail() -> None:
    posted = advance(an_enrollment(State.AWAITING_MAIL), ChallengePosted(challenge_posted_at=NOW), NOW)
    assert posted.state is State.AWAITING_MAIL
    assert posted.challenge_posted_at == NOW


def test_ordering_is_a_state_of_its_own_before_anything_is_known() -> None:
    began = advance(an_enrollment(State.PLANNED), OrderingBegan(key_id="k", began_ordering_at=NOW), NOW)
    assert began.state is State.ORDERING
    assert began.order_url is None


def test_the_documented_diagram_is_drawn_from_the_table() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert diagram() in documented


def test_a_sealed_token_is_not_shown() -> None:
    event = ChallengeKnown(challenge_url="u", challenge_sender="s", token_part2=b"canary")
    assert "canary" not in repr(event)
    assert "canary" not in repr(advance(an_enrollment(State.ORDERING), event, NOW))
