# SPDX-License-Identifier: GPL-3.0-or-later
"""A challenge mail that passed the gate, and the one transaction by which its answer becomes a promise (G23)."""

import dataclasses
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Policy
from acme_milter.enrollment import gate
from acme_milter.enrollment.backoff import LOOK_AT_OUTBOX
from acme_milter.enrollment.conditions import Outcome, Reason, Stopped
from acme_milter.enrollment.gate import Expectation
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import ChallengeMailAccepted, ChallengeMailKept, Event, advance
from acme_milter.eventlog import Event as Happened
from acme_milter.protocol.challenge_mail import ChallengeMail
from acme_milter.protocol.dkim_policy import Verdict
from acme_milter.protocol.smime_verdict import SmimeVerdict
from acme_milter.store import audit, challenge_mails, enrollments, outbox
from acme_milter.worker.answer import Answerer
from acme_milter.worker.expectations import answered_of
from acme_milter.worker.identifiers import in_turn
from acme_milter.worker.reply_fate import is_at_hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A candidate that passed every condition up to the commit; ``smime`` is set when not DKIM but S/MIME proved it."""

    mailbox: str
    policy: Policy
    mail: ChallengeMail
    expected: Expectation
    verdict: Verdict
    smime: SmimeVerdict | None


@dataclass(frozen=True, slots=True)
class Promise:
    """What was written: the reply is due now, or ``later``, when its address's turn has come."""

    enrollment: Enrollment
    entry_id: str
    later: bool


def promise(
    connection: sa.Connection, answerer: Answerer, admission: Admission, *, queue_id: str | None, now: datetime
) -> Promise:
    """Write the challenge mail, the exact reply, the state and the audit record. The caller's transaction commits.

    Raises Stopped by what is true now, and StaleVersion when a step of the same enrollment was saved meanwhile.
    """
    enrollment = enrollments.get(connection, admission.expected.enrollment_id)
    if enrollment is None or not enrollment.is_open:
        raise Stopped("G10", Outcome.DELIVER_AND_ALERT, Reason.UNSOLICITED, "the order has just ended")
    at_turn = in_turn(enrollment, admission.mailbox)
    if at_turn is None and enrollment.aliases:
        raise Stopped("G10", Outcome.TRY_LATER, Reason.ORDER_NOT_KNOWN_YET, "the address has just been proven")
    if at_turn is None:
        raise Stopped("G10", Outcome.DELIVER_AND_ALERT, Reason.UNSOLICITED, "the order has just ended")
    # Again, on what is true now: the same mail may be at two hosts, and several may come at once.
    answered = answered_of(connection, enrollment, admission.mailbox)
    gate.check_answers(admission.mail, dataclasses.replace(admission.expected, answered=answered))
    if admission.mail.token_part1.digest() in challenge_mails.digests_of(connection, enrollment.id):
        # S/MIME BR 3.2.2.4: each address has a random value of its own.
        why = "for another address of the order"
        raise Stopped("G20", Outcome.DELIVER_AND_ALERT, Reason.ANSWERED_ALREADY, why)
    stored, entry = answerer.answer(connection, at_turn, admission, queue_id=queue_id, now=now)
    later = at_turn is not enrollment
    if later:
        entry = dataclasses.replace(entry, next_attempt_at=None)
    elif enrollment.aliases:  # one that was kept may be the true one, and this a stranger's: both go out
        replies = outbox.of_enrollment(connection, enrollment.id)
        outbox.let_go(connection, [one.id for one in replies if one.is_kept and is_at_hand(enrollment, one)], now)
    challenge_mails.insert(connection, stored)
    outbox.insert(connection, entry)
    enrollments.save(connection, advance(enrollment, _event(enrollment, now, later=later), now), release=False)
    audit.record(
        connection,
        Happened.CHALLENGE_ACCEPTED,
        at=now,
        enrollment_id=enrollment.id,
        address=enrollment.address,
        details={"queue_id": queue_id, "disposition": admission.policy.on_success},
    )
    return Promise(enrollment, entry.id, later)


def _event(enrollment: Enrollment, now: datetime, *, later: bool) -> Event:
    """The outbox acts next; the enrollment itself only looks now and then what has become of that.

    Unless a first reply is out already: what a second challenge brings must not hold up the first one's validation.
    Nor may what is for another address's turn.
    """
    if later:
        return ChallengeMailKept(next_attempt_at=enrollment.next_attempt_at, last_error=enrollment.last_error)
    if enrollment.state in {State.REPLIED, State.VALIDATING}:
        return ChallengeMailAccepted(next_attempt_at=enrollment.next_attempt_at)
    return ChallengeMailAccepted(next_attempt_at=now + LOOK_AT_OUTBOX)
