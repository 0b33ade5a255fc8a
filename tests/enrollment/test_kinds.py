# SPDX-License-Identifier: GPL-3.0-or-later
"""Which certificates a mailbox wants, which it lacks, which of them are over, and which is ordered next."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.kinds import (
    Held,
    Opening,
    covers,
    in_use,
    missing,
    next_of,
    opening_of,
    renewal_of,
    renewed_at_once,
    supersedes,
    turns_taken,
    usages_of,
)
from acme_milter.enrollment.model import Cause, Enrollment, State

DUAL, SIGN, ENCRYPT = KeyUsageKind.DUAL, KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
PAIR = usages_of("dual")


def enrollment(
    usage: KeyUsageKind = SIGN,
    state: State = State.ACTIVE,
    *,
    cause: Cause = Cause.RENEWAL,
    replaces_id: str | None = None,
    authority: str = "ca",
    principal: str = "alice",
) -> Enrollment:
    return Enrollment(
        id=f"e-{usage}-{authority}",
        address="alice@org.example",
        authority=authority,
        principal=principal,
        state=state,
        version=1,
        generation=1,
        opened_at=NOW,
        state_since=NOW,
        next_attempt_at=None,
        cause=cause,
        replaces_id=replaces_id,
        usage=usage,
        certificate_id=f"c-{usage}",
    )


def held(*usages: KeyUsageKind) -> Held:
    return {usage: enrollment(usage) for usage in usages}


def test_a_layout_says_how_many_certificates_there_are_and_which_comes_first() -> None:
    assert usages_of("single") == (DUAL,)
    assert usages_of("dual") == (SIGN, ENCRYPT)


@pytest.mark.parametrize(
    ("usages", "covered"),
    [((), False), ((SIGN,), False), ((ENCRYPT,), False), ((SIGN, ENCRYPT), True), ((DUAL,), True)],
)
def test_a_mailbox_is_covered_when_it_can_sign_and_be_written_to(usages: Sequence[KeyUsageKind], covered: bool) -> None:
    assert covers(usages) is covered


@pytest.mark.parametrize(
    ("layout", "there", "lacking"),
    [
        ("single", (), (DUAL,)),
        ("dual", (), (SIGN, ENCRYPT)),
        ("dual", (SIGN,), (ENCRYPT,)),
        ("dual", (ENCRYPT,), (SIGN,)),
        ("dual", (DUAL,), ()),
        ("single", (SIGN, ENCRYPT), ()),
        ("single", (SIGN,), (DUAL,)),
    ],
)
def test_what_is_missing_goes_by_what_there_is_and_not_by_a_layout_that_has_changed(
    layout: str, there: Sequence[KeyUsageKind], lacking: Sequence[KeyUsageKind]
) -> None:
    assert missing(usages_of(layout), there) == lacking


@pytest.mark.parametrize(
    ("new", "old", "beside", "over"),
    [
        (SIGN, SIGN, (SIGN, ENCRYPT), True),
        (SIGN, ENCRYPT, (ENCRYPT,), False),
        (SIGN, DUAL, (DUAL,), False),
        (ENCRYPT, DUAL, (DUAL, SIGN), True),
        (SIGN, DUAL, (DUAL, ENCRYPT), True),
        (DUAL, SIGN, (SIGN, ENCRYPT), True),
        (DUAL, ENCRYPT, (SIGN, ENCRYPT), True),
        (DUAL, DUAL, (DUAL,), True),
        (SIGN, ENCRYPT, (ENCRYPT, DUAL), False),
    ],
)
def test_one_certificate_for_both_is_over_only_when_both_new_ones_are_there(
    new: KeyUsageKind, old: KeyUsageKind, beside: Sequence[KeyUsageKind], over: bool
) -> None:
    assert supersedes(new, old, beside) is over


def test_only_what_is_active_and_the_persons_own_and_no_trial_is_in_use() -> None:
    known = [
        enrollment(SIGN, State.SUPERSEDED),
        enrollment(SIGN, authority="ca:staging"),
        enrollment(ENCRYPT, principal="bob"),
        enrollment(ENCRYPT, authority="other"),
    ]
    assert list(in_use(known, {"alice"})) == [ENCRYPT]
    assert list(in_use(known, {"alice"}, "ca:staging")) == [SIGN]
    assert not in_use(known, {"alice"}, "ca")


def test_the_first_order_is_for_what_is_not_there_and_names_what_it_replaces() -> None:
    assert opening_of(PAIR, {}) == Opening(SIGN)
    assert opening_of(PAIR, held(SIGN)) == Opening(ENCRYPT)
    assert opening_of(PAIR, held(DUAL)) == Opening(SIGN, "c-dual")
    assert opening_of((DUAL,), held(SIGN, ENCRYPT)) == Opening(DUAL, "c-sign")
    assert opening_of(PAIR, held(SIGN, ENCRYPT)) is None
    assert opening_of(PAIR, held(SIGN, ENCRYPT), again=True) == Opening(SIGN, "c-sign")


def test_a_renewal_carries_its_use_and_follows_a_layout_that_has_changed() -> None:
    assert renewal_of(PAIR, held(SIGN, ENCRYPT), ENCRYPT, "old") == Opening(ENCRYPT, "old")
    assert renewal_of(PAIR, held(DUAL), DUAL, "old") == Opening(SIGN, "old")
    assert renewal_of(PAIR, held(DUAL, SIGN), DUAL, "old") == Opening(ENCRYPT, "old")
    assert renewal_of((DUAL,), held(SIGN, ENCRYPT), ENCRYPT, "old") == Opening(DUAL, "old")
    assert renewal_of(PAIR, held(SIGN, ENCRYPT, DUAL), DUAL, "old") is None


def test_whoever_asks_for_a_renewal_gets_it_from_the_first_certificate_on() -> None:
    assert renewed_at_once(PAIR, {}) is None
    assert renewed_at_once(PAIR, held(ENCRYPT)) == Opening(ENCRYPT, "c-encrypt")
    assert renewed_at_once(PAIR, held(SIGN, ENCRYPT)) == Opening(SIGN, "c-sign")
    assert renewed_at_once((DUAL,), held(ENCRYPT)) == Opening(DUAL, "c-encrypt")


def test_the_second_order_follows_the_first_whether_it_came_to_something_or_not() -> None:
    for state in (State.ACTIVE, State.FAILED):
        assert next_of(PAIR, enrollment(SIGN, state), {}) == Opening(ENCRYPT)
    assert next_of(PAIR, enrollment(SIGN), held(SIGN, DUAL)) == Opening(ENCRYPT, "c-dual")
    assert next_of(PAIR, enrollment(SIGN), held(SIGN, ENCRYPT)) is None
    assert next_of((DUAL,), enrollment(DUAL), held(DUAL)) is None
    assert next_of((DUAL,), enrollment(SIGN), held(SIGN)) is None


def test_both_are_ordered_anew_where_a_person_or_a_bulk_run_wants_both() -> None:
    asked = enrollment(SIGN, cause=Cause.ASKED, replaces_id="c-sign")
    assert next_of(PAIR, asked, held(SIGN, ENCRYPT)) == Opening(ENCRYPT, "c-encrypt")
    run = enrollment(SIGN, cause=Cause.BULK, replaces_id="c-sign")
    assert next_of(PAIR, run, held(SIGN, ENCRYPT)) is None
    assert next_of(PAIR, run, held(SIGN, ENCRYPT), also="c-old") == Opening(ENCRYPT, "c-old")


def test_nothing_is_ordered_in_circles_when_nothing_succeeds() -> None:
    assert next_of(PAIR, enrollment(ENCRYPT, State.FAILED), {}) is None
    assert next_of(PAIR, enrollment(ENCRYPT), held(ENCRYPT)) == Opening(SIGN)
    assert next_of(PAIR, enrollment(SIGN, State.FAILED), held(ENCRYPT)) is None


def test_what_has_had_its_turn_is_not_ordered_again_whatever_came_of_it() -> None:
    asked = enrollment(SIGN, State.FAILED, cause=Cause.ASKED, replaces_id="c-dual")
    assert next_of(PAIR, asked, held(DUAL, ENCRYPT), taken={SIGN}) == Opening(ENCRYPT, "c-encrypt")
    assert next_of(PAIR, asked, held(DUAL, ENCRYPT), taken=PAIR) is None
    assert next_of(PAIR, asked, held(ENCRYPT), also="c-old", taken=PAIR) is None
    assert next_of(PAIR, enrollment(ENCRYPT), held(ENCRYPT), taken=PAIR) is None


def during(start: int, end: int, usage: KeyUsageKind, state: State, cause: Cause = Cause.ASKED) -> Enrollment:
    """Opened and ended at these minutes."""
    opened, ended = NOW + timedelta(minutes=start), NOW + timedelta(minutes=end)
    return replace(enrollment(usage, state, cause=cause), opened_at=opened, state_since=ended)


def test_those_have_had_their_turn_whose_end_was_the_begin_of_the_next() -> None:
    last = during(20, 30, ENCRYPT, State.ACTIVE)
    retried = [during(10, 20, ENCRYPT, State.FAILED), during(0, 10, SIGN, State.FAILED)]
    assert turns_taken([last, *retried], last) == {SIGN, ENCRYPT}
    assert turns_taken([last, during(0, 10, SIGN, State.FAILED)], last) == {ENCRYPT}
    assert turns_taken([last, during(0, 20, SIGN, State.FAILED, Cause.RENEWAL)], last) == {ENCRYPT}
    assert turns_taken([last, during(0, 25, SIGN, State.SUPERSEDED)], last) == {ENCRYPT}
