# SPDX-License-Identifier: GPL-3.0-or-later
"""From a mailbox's orders in the store to what the gate may expect of a challenge mail."""

from datetime import datetime, timedelta

from acme_milter.config.schema import Config
from acme_milter.enrollment.gate import CHALLENGE_LIFETIME, Expectation
from acme_milter.enrollment.model import Enrollment
from acme_milter.protocol.mailbox import Mailbox
from acme_milter.store import challenge_mails, enrollments
from acme_milter.store.database import Database
from acme_milter.worker.terms import terms_of

RELEVANT_FOR = CHALLENGE_LIFETIME + timedelta(hours=1)


def expectations_of(database: Database, config: Config, mailbox: str, now: datetime) -> list[Expectation]:
    """Every order of the mailbox that is young enough to have a challenge alive, ended ones included: a second copy
    of a mail that was answered must still be recognized as such (F-21).
    """
    with database.read() as connection:
        return [
            _expectation(enrollment, challenge_mails.digests_of(connection, enrollment.id), config, began_at)
            for enrollment in enrollments.of_mailbox(connection, mailbox)
            if (began_at := enrollment.began_ordering_at) is not None
            and began_at >= now - RELEVANT_FOR
            and enrollment.authority in config.authorities
        ]


def _expectation(enrollment: Enrollment, answered: frozenset[bytes], config: Config, began_at: datetime) -> Expectation:
    sender = enrollment.challenge_sender
    return Expectation(
        enrollment_id=enrollment.id,
        authority=enrollment.authority,
        state=enrollment.state,
        sender=None if sender is None else Mailbox.parse(sender, allow_utf8=True),
        began_ordering_at=began_at,
        answered=answered,
        terms=terms_of(config.authorities[enrollment.authority]),
    )
