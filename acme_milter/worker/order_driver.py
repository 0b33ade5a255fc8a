# SPDX-License-Identifier: GPL-3.0-or-later
"""The order driver: for an enrollment in a given state, the one step that is due. Saving it is the scheduler's."""

import contextlib
import uuid
from datetime import timedelta

import sqlalchemy as sa

from acme_milter.acme.problem import AcmeError, ServerRefused
from acme_milter.enrollment.backoff import LOOK_AT_OUTBOX, reorder_delay
from acme_milter.enrollment.gate import CHALLENGE_LIFETIME
from acme_milter.enrollment.model import CHALLENGED_STATES, Enrollment, State
from acme_milter.enrollment.staging import is_staging
from acme_milter.enrollment.state_machine import Deferred, Failed
from acme_milter.keys.client import KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.store import enrollments
from acme_milter.worker.agreement import wants_agreement
from acme_milter.worker.authorities import AccountGone, AuthorityUnusable
from acme_milter.worker.choice import Choosing
from acme_milter.worker.clock_watch import WRONG
from acme_milter.worker.custody import brought_key
from acme_milter.worker.following import open_next
from acme_milter.worker.identifiers import has_changed_hands
from acme_milter.worker.issuance import Issuance
from acme_milter.worker.lost_account import is_lost, told_of
from acme_milter.worker.order_desk import OrderDesk
from acme_milter.worker.reading import Reading
from acme_milter.worker.step import OrderDied, Step
from acme_milter.worker.validation import Validation

LOOK_AT_KEY = timedelta(seconds=5)
"""Pause of an order that waits until its account has its next key."""


class OrderDriver:
    """Takes steps; holds no state of its own, so any number of threads may share it."""

    def __init__(self, desk: OrderDesk, choosing: Choosing | None = None) -> None:
        """``choosing``: where the successor of a dead order goes; without it to the same authority."""
        self._desk = desk
        self._choosing = choosing or Choosing(desk.config)
        self._reading = Reading(desk)
        self._validation = Validation(desk)
        self._issuance = Issuance(desk)

    def take_step(self, enrollment: Enrollment) -> Step:
        """Do what is due for the enrollment: at most one ACME step.

        Raises AcmeError or a keys error that ``temporary`` tells apart, and lets everything else through as a fault
        of ours. An order that died is not an exception to the caller: it comes back as ``Failed``.
        """
        try:
            if enrollment.state is not State.ISSUED:  # its certificate is here, and is good without the authority
                self._desk.authority(enrollment)
            self._check_deadline(enrollment)
            self._check_aliases(enrollment)
            if self._waits_for_the_key(enrollment):
                return Step(Deferred(next_attempt_at=self._desk.clock() + LOOK_AT_KEY))
            match enrollment.state:
                case State.PLANNED:
                    return self._validation.begin(enrollment)
                case State.ORDERING if enrollment.order_url is None:
                    return self._validation.place_order(enrollment)
                case State.ORDERING:
                    return self._reading.read(enrollment)
                case State.AWAITING_MAIL:
                    return self._validation.wait_for_mail(enrollment)
                case State.REPLIED:
                    return self._validation.post_challenge(enrollment)
                case State.VALIDATING:
                    return self._validation.poll_authorization(enrollment)
                case State.FINALIZING if enrollment.certificate_url is None:
                    return self._issuance.finalize(enrollment)
                case State.FINALIZING:
                    return self._issuance.fetch_certificate(enrollment)
                case State.ISSUED:
                    return self._issuance.clean_up(enrollment)
                case State.REPLYING:
                    return self._validation.wait_for_outbox(enrollment)
                case _:  # nothing is due in a state that is not open
                    return Step(Deferred(next_attempt_at=self._desk.clock() + LOOK_AT_OUTBOX))
        except OrderDied as died:
            return self._fail(enrollment, str(died), again=died.again)
        except AccountGone as gone:
            if enrollment.state is State.ISSUED:
                raise
            return self._fail(enrollment, str(gone), again=True)  # no other account can see the order
        except ServerRefused as refused:
            if is_lost(refused):
                raise told_of(self._desk.database, enrollment, refused) from None
            # Signed with a key that was exchanged meanwhile, it will be taken with the new one.
            stale = self._desk.authorities.key_has_just_changed(enrollment)
            if refused.temporary or stale or wants_agreement(refused):
                raise
            return self._fail(enrollment, str(refused), again=not (refused.problem and refused.problem.needs_operator))

    def _waits_for_the_key(self, enrollment: Enrollment) -> bool:
        """RFC 8555 §7.3.5: no challenge is opened while the account's key, with which it is answered, may change."""
        begins = enrollment.state in {State.PLANNED, State.ORDERING} and enrollment.order_url is None
        return begins and self._desk.authorities.key_is_changing(enrollment)

    def _check_deadline(self, enrollment: Enrollment) -> None:
        """S/MIME BR 3.2.2.4 and RFC 8555 §7.1.3: neither the challenge nor the order lives for ever."""
        if enrollment.state in {State.PLANNED, State.ISSUED}:
            return
        if enrollment.state is State.FINALIZING:
            self._check_lost(enrollment)
            return
        deadline = self._desk.deadline(enrollment)
        if self._desk.clock() <= deadline:
            return
        # A clock that has jumped ahead must not end an order: ask the authority what time it is, right now.
        try:
            self._desk.authorities.network(enrollment.authority).ask_the_time()
        except (AcmeError, AuthorityUnusable):
            if not self._goes_elsewhere(enrollment):
                raise
        if self._desk.clock() - self._desk.clock_error(enrollment) > deadline:
            why = "" if enrollment.last_error is None else f": {enrollment.last_error}"
            raise OrderDied(f"the order ran out of time while {enrollment.state}{why}", again=True)

    def _check_aliases(self, enrollment: Enrollment) -> None:
        """An alias may leave its mailbox before its turn or after it: no certificate is asked for that names it."""
        asked_for = enrollment.finalize_sent_at is not None or enrollment.certificate_url is not None
        if asked_for or enrollment.state not in CHALLENGED_STATES | {State.ORDERING, State.FINALIZING}:
            return
        config = self._desk.config()
        for alias in enrollment.aliases:
            if has_changed_hands(config, enrollment, alias):
                managed = config.member(enrollment.address) is not None
                raise OrderDied(f"{alias} is not an address of {enrollment.address} any more", again=managed)

    def _check_lost(self, enrollment: Enrollment) -> None:
        """F-31: the certificate may have been made, so nothing is ordered anew for a day; nor at all while it may come.

        Where the authority is broken, and another one would take the order, nobody is to wait longer than that.
        """
        waits = self._desk.clock() - self._desk.clock_error(enrollment) - enrollment.state_since
        if waits > CHALLENGE_LIFETIME and self._goes_elsewhere(enrollment):
            raise OrderDied(
                f"{enrollment.authority} is broken, and has not handed out the certificate for a day", again=True
            )

    def _goes_elsewhere(self, enrollment: Enrollment) -> bool:
        """Whether another authority would take the next order, and says that our clock is right."""
        with self._desk.database.read() as connection:
            choice = self._choosing.next_of(connection, enrollment, self._desk.clock())
        if choice.authority == enrollment.authority:
            return False
        try:
            skew = self._desk.authorities.network(choice.authority).ask_the_time()
        except (AcmeError, AuthorityUnusable):
            return False
        return skew is not None and abs(skew) <= WRONG

    def _fail(self, enrollment: Enrollment, error: str, *, again: bool) -> Step:
        """End the enrollment; open its successor where that can help.

        The authorization is given back only when that is committed: a challenge mail that comes in between must not
        be answered for an authorization which we have just ended.
        """

        def give_back() -> None:
            # Otherwise the authority could hand the dead authorization back with the next order (F-20).
            for url in enrollment.authorization_urls:
                with contextlib.suppress(AcmeError, KeydUnavailable, KeydRefused, AuthorityUnusable):
                    self._desk.client(enrollment).deactivate_authorization(url)

        now = self._desk.clock()

        def go_on(connection: sa.Connection) -> None:
            failed = enrollments.get(connection, enrollment.id)
            assert failed is not None
            open_next(connection, self._desk.config(), failed, now)

        if not again or is_staging(enrollment.authority):  # who rehearses looks at it, and tries again himself
            return Step(Failed(last_error=error), also=go_on, afterwards=give_back)
        successor_id = uuid.uuid4().hex

        def open_successor(connection: sa.Connection) -> None:
            # Its own order is over in this transaction: the choice is made for a mailbox that has none open.
            authority = self._choosing.next_of(connection, enrollment, now).authority
            same = authority == enrollment.authority
            enrollments.open_new(
                connection,
                enrollment_id=successor_id,
                address=enrollment.address,
                principal=enrollment.principal,
                authority=authority,
                cause=enrollment.cause,
                replaces_id=enrollment.replaces_id,
                bulk_run_id=enrollment.bulk_run_id,
                now=now,
                generation=enrollment.generation + 1,
                # The pause is for the authority with which it failed.
                next_attempt_at=now + reorder_delay(enrollment.generation) if same else now,
                last_error=error,
                usage=enrollment.usage,
                key_id=brought_key(connection, enrollment),
            )

        failed = Failed(last_error=error, successor_id=successor_id)
        return Step(failed, also=open_successor, afterwards=give_back)
