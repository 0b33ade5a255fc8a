# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows when a mailbox has left or is another person's: orders end, certificates go out of use, what was
delivered of them is taken back, by policy they are revoked. Keys stay with the person whose they are.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.acme.problem import AcmeError
from acme_milter.acme.revocation import RevocationReason
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import Cancelled, Retired, advance
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.client import KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.mailboxes.record import leavers_policy
from acme_milter.store import audit, certificates, enrollments, mailboxes
from acme_milter.store.database import Database
from acme_milter.store.mailboxes import Astray, StoredMailbox
from acme_milter.store.withdrawals import LEFT, REASSIGNED
from acme_milter.worker.authorities import Authorities, AuthorityUnusable
from acme_milter.worker.withdrawing import revoke, withdraw_all_of

EVERY = timedelta(minutes=10)
"""A certificate that was under way when its mailbox left is found and put out of use after so long at most."""

AT_ONCE = 20
"""Enrollments in one transaction: each may have its mailbox's certificates of years taken back and revoked."""


def reason_of(word: str) -> RevocationReason:
    """RFC 5280 §5.3.1, spelled as in the configuration: ``key-compromise``. Raises KeyError."""
    return RevocationReason[word.upper().replace("-", "_")]


def part_with(connection: sa.Connection, config: Config, row: StoredMailbox, why: str, now: datetime) -> None:
    """What ``row``'s person has had delivered for the mailbox is taken back. Where the leavers' policy of the mailbox
    says so, the revocation of every certificate that still lasts is asked for, those that are out of use included: they
    prove as much.
    """
    withdraw_all_of(connection, config, row.address, row.principal, why, now)
    policy = leavers_policy(config, row)
    if policy.revoke:
        for certificate in certificates.valid_of(connection, row.address, row.principal, now):
            revoke(connection, config, certificate, reason_of(policy.reason), now, by="leavers")


class Leaving:
    """Looks for enrollments that are nobody's any more, whoever made them so and when: a crash in between, or another
    worker, leaves nothing undone. Any number of workers may do it.
    """

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        authorities: Authorities,
        clock: Callable[[], datetime],
    ) -> None:
        self._config = config
        self._database = database
        self._authorities = authorities
        self._clock = clock
        # An authority that hangs must hold up neither the chores nor the store.
        self._giving_back = ThreadPoolExecutor(2, thread_name_prefix="give-back")

    def close(self) -> None:
        self._giving_back.shutdown(cancel_futures=True)

    def end_what_is_over(self) -> int:
        """One round; returns the number of enrollments that were ended or went out of use."""
        ended = 0
        while True:
            with self._database.read() as connection:
                found = mailboxes.astray(connection, AT_ONCE)
            done = self._end_some(found) if found else []
            for enrollment in done:
                for url in enrollment.authorization_urls if enrollment.state is State.CANCELLED else ():
                    self._giving_back.submit(self._give_back, enrollment, url)
            ended += len(done)
            if not done:  # all done, or each of them was moved on just now: the next round looks again
                return ended

    def _end_some(self, found: list[Astray]) -> list[Enrollment]:
        done: list[Enrollment] = []
        with self._database.write() as connection:
            for one in found:
                with contextlib.suppress(enrollments.StaleVersion):
                    after = self._end_one(connection, one)
                    if after is not None:
                        done.append(after)
        for after in done:
            if after.state is State.CANCELLED:
                log_event(
                    Event.ENROLLMENT_CANCELLED,
                    rcpt=after.address,
                    authority=after.authority,
                    order=after.id,
                    error=after.last_error,
                )
        return done

    def _end_one(self, connection: sa.Connection, one: Astray) -> Enrollment | None:
        enrollment = enrollments.get(connection, one.enrollment_id)
        if enrollment is None or not (enrollment.is_open or enrollment.state is State.ACTIVE):
            return None
        now = self._clock()
        why = LEFT if one.has_left else REASSIGNED
        event = Cancelled(last_error=why) if enrollment.is_open else Retired()
        after = advance(enrollment, event, now)
        enrollments.save(connection, after)
        audit.record(
            connection,
            type(event).__name__,
            at=now,
            enrollment_id=after.id,
            address=after.address,
            details={"state": after.state, "reason": why},
        )
        row = mailboxes.find(connection, one.folded)
        if after.state is State.SUPERSEDED and row is not None:
            theirs = dataclasses.replace(row, address=after.address, principal=after.principal)
            part_with(connection, self._config(), theirs, why, now)
        return after

    def _give_back(self, enrollment: Enrollment, authorization_url: str) -> None:
        """Otherwise the authority could hand it out again with the next person's order (F-20)."""
        with contextlib.suppress(AcmeError, KeydUnavailable, KeydRefused, AuthorityUnusable):
            self._authorities.client_of(enrollment).deactivate_authorization(authorization_url)
