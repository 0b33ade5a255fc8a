# SPDX-License-Identifier: GPL-3.0-or-later
"""From a mailbox's orders in the store to what the gate may expect of a challenge mail."""

import dataclasses
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.gate import CHALLENGE_LIFETIME, Expectation
from acme_milter.enrollment.model import Enrollment
from acme_milter.protocol.mailbox import Mailbox
from acme_milter.store import challenge_mails, enrollments
from acme_milter.store.database import Database
from acme_milter.worker.identifiers import in_turn, standing_of
from acme_milter.worker.terms import terms_of

RELEVANT_FOR = CHALLENGE_LIFETIME + timedelta(hours=1)


def expectations_of(
    database: Database, config: Config, mailbox: str, now: datetime, token_digest: bytes
) -> list[Expectation]:
    """Every order of the mailbox that is young enough to have a challenge alive, ended ones included: a second copy
    of a mail that was answered must still be recognized as such (F-21). ``token_digest`` is the mail's at hand.
    """
    with database.read() as connection:
        return [
            _with_replay(connection, _expectation_at(connection, enrollment, mailbox, config, began_at), token_digest)
            for enrollment in _orders_for(connection, config, mailbox)
            if (began_at := enrollment.began_ordering_at) is not None
            and began_at >= now - RELEVANT_FOR
            and enrollment.authority in config.authorities
        ]


def answered_of(connection: sa.Connection, enrollment: Enrollment, mailbox: str) -> frozenset[bytes]:
    """Digests of the tokens that were answered for this address of the order."""
    if not enrollment.aliases:
        return challenge_mails.digests_of(connection, enrollment.id)
    return challenge_mails.digests_by_address(connection, enrollment.id).get(mailbox.lower(), frozenset())


def _orders_for(connection: sa.Connection, config: Config, mailbox: str) -> list[Enrollment]:
    """The mailbox's own, and those in which it is an alias."""
    alias = config.alias(mailbox)
    others = [] if alias is None else enrollments.of_mailbox(connection, alias.alias_of or "")
    named = [each for each in others if mailbox.lower() in {address.lower() for address in each.aliases}]
    return enrollments.of_mailbox(connection, mailbox) + named


def _expectation_at(
    connection: sa.Connection, enrollment: Enrollment, mailbox: str, config: Config, began_at: datetime
) -> Expectation:
    """Of an order for several addresses, for which each address is an order of its own: one whose authorization was
    read awaits its mail, whosever turn it is; before that it is about to be placed; and one that is proven is over.
    """
    answered = answered_of(connection, enrollment, mailbox)
    if enrollment.aliases:
        at_turn = in_turn(enrollment, mailbox)
        if at_turn is None:
            state, sender = standing_of(enrollment, mailbox)
            at_turn = dataclasses.replace(enrollment, state=state, challenge_sender=sender)
        enrollment = at_turn
    return _expectation(enrollment, answered, config, began_at)


def _with_replay(connection: sa.Connection, expected: Expectation, token_digest: bytes) -> Expectation:
    if expected.terms.smime_trust is None:  # DKIM always says how old a mail is
        return expected
    before = challenge_mails.was_answered_for_another(connection, token_digest, expected.enrollment_id)
    return dataclasses.replace(expected, answered_before=before)


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
