# SPDX-License-Identifier: GPL-3.0-or-later
"""All that the store knows of one mailbox: a handful of look-ups by index, however many others there are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import (
    audit,
    certificate,
    challenge_mail,
    enrollment,
    mailbox_key,
    outbox,
    renewal,
    revocation,
)
from acme_milter.store.tallies import ACTIVE

IMPORTED = "imported"
"""The authority of certificates that came from elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A challenge mail that was let in, and the reply to it; the queue ids are Postfix's."""

    enrollment_id: str
    accepted_at: datetime
    queue_id: str | None
    dkim_domain: str
    dkim_selector: str
    smime_signer: str | None
    disposition: str
    reply_to: str | None
    reply_sent_at: datetime | None
    reply_queue_id: str | None
    reply_error: str | None
    departure: str | None
    departure_at: datetime | None
    departure_words: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateLine:
    """A certificate without its octets, with its key's algorithm and age. ``state`` is its enrollment's."""

    id: str
    enrollment_id: str
    address: str
    principal: str
    authority: str
    state: str
    serial: str
    issuer: str
    not_before: datetime
    not_after: datetime
    stored_at: datetime
    key_id: str
    key_algorithm: str
    key_created_at: datetime
    usage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Which certificates; None is no condition. ``state`` is an enrollment's, ``revocation-failed`` or ``all``."""

    authority: str | None
    domain: str | None
    ends_after: datetime | None
    ends_until: datetime | None
    issued_before: datetime | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalLine:
    """When a certificate is to be renewed, and the authority's window (RFC 9773) if it has one."""

    certificate_id: str
    due_at: datetime
    window_start: datetime | None
    window_end: datetime | None
    explanation_url: str | None
    opened_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationLine:
    """A wish to have a certificate revoked; neither done nor to be tried again: given up."""

    certificate_id: str
    reason: int
    asked_at: datetime
    next_attempt_at: datetime | None
    last_error: str | None
    done_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """A line of the audit trail."""

    at: datetime
    event: str
    enrollment_id: str | None
    details: Mapping[str, object]


def mails(connection: sa.Connection, enrollment_id: str) -> list[Mail]:
    """Challenge mails of an enrollment with their replies, in the order in which they came."""
    rows = connection.execute(
        sa.select(
            challenge_mail.c.enrollment_id,
            challenge_mail.c.accepted_at,
            challenge_mail.c.queue_id,
            challenge_mail.c.dkim_domain,
            challenge_mail.c.dkim_selector,
            challenge_mail.c.smime_signer,
            challenge_mail.c.disposition,
            outbox.c.envelope_recipient.label("reply_to"),
            outbox.c.sent_at.label("reply_sent_at"),
            outbox.c.queue_id.label("reply_queue_id"),
            outbox.c.last_error.label("reply_error"),
            outbox.c.departure,
            outbox.c.departure_at,
            outbox.c.departure_words,
        )
        .select_from(challenge_mail.outerjoin(outbox, outbox.c.challenge_mail_id == challenge_mail.c.id))
        .where(challenge_mail.c.enrollment_id == enrollment_id)
        .order_by(challenge_mail.c.accepted_at)
    )
    return [Mail(**row._asdict()) for row in rows]


_LINE = [
    certificate.c.id,
    certificate.c.enrollment_id,
    certificate.c.address,
    certificate.c.principal,
    certificate.c.authority,
    enrollment.c.state,
    certificate.c.serial,
    certificate.c.issuer,
    certificate.c.not_before,
    certificate.c.not_after,
    certificate.c.stored_at,
    certificate.c.key_id,
    mailbox_key.c.algorithm.label("key_algorithm"),
    mailbox_key.c.created_at.label("key_created_at"),
    certificate.c.usage,
]
_LINES = sa.select(*_LINE).select_from(
    certificate.join(enrollment, enrollment.c.id == certificate.c.enrollment_id).join(
        mailbox_key, mailbox_key.c.id == certificate.c.key_id
    )
)


def certificates_of(connection: sa.Connection, address: str) -> list[CertificateLine]:
    """Every certificate that was ever stored for the mailbox, whosever it was, the newest first."""
    return _lines(connection, certificate.c.address == address)


def with_serial(connection: sa.Connection, serial: str) -> list[CertificateLine]:
    """Certificates with a serial (lower-case hex); several authorities may have chosen the same one."""
    return _lines(connection, certificate.c.serial == serial)


def history_of(connection: sa.Connection, principal: str) -> list[CertificateLine]:
    """Every certificate that a person ever had, under whatever address, the newest first."""
    return _lines(connection, certificate.c.principal == principal)


def certificates_where(connection: sa.Connection, wanted: Condition) -> list[CertificateLine]:
    """Those that meet the whole condition, the soonest end first."""
    conditions: list[sa.ColumnElement[bool] | sa.TextClause] = []
    if wanted.state == "active":
        conditions.append(ACTIVE)
    elif wanted.state == "revocation-failed":
        given_up = sa.and_(revocation.c.next_attempt_at.is_(None), revocation.c.done_at.is_(None))
        conditions.append(certificate.c.id.in_(sa.select(revocation.c.certificate_id).where(given_up)))
    elif wanted.state != "all":
        conditions.append(enrollment.c.state == wanted.state)
    # An active one's end stands beside its enrollment, where an index has it.
    not_after = enrollment.c.not_after if wanted.state == "active" else certificate.c.not_after
    if wanted.ends_after is not None:
        conditions.append(not_after > wanted.ends_after)
    if wanted.ends_until is not None:
        conditions.append(not_after <= wanted.ends_until)
    if wanted.issued_before is not None:
        conditions.append(certificate.c.not_before < wanted.issued_before)
    if wanted.authority is not None:
        conditions.append(certificate.c.authority == wanted.authority)
    if wanted.domain is not None:
        conditions.append(certificate.c.address.endswith("@" + wanted.domain, autoescape=True))
    rows = connection.execute(_LINES.where(*conditions).order_by(not_after, certificate.c.address))
    return [CertificateLine(**row._asdict()) for row in rows]


def _lines(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[CertificateLine]:
    rows = connection.execute(_LINES.where(condition).order_by(certificate.c.stored_at.desc(), certificate.c.id))
    return [CertificateLine(**row._asdict()) for row in rows]


def renewal_of(connection: sa.Connection, certificate_id: str) -> RenewalLine | None:
    columns = [renewal.c[name] for name in RenewalLine.__dataclass_fields__]
    row = connection.execute(sa.select(*columns).where(renewal.c.certificate_id == certificate_id)).first()
    return None if row is None else RenewalLine(**row._asdict())


def revocations_of(connection: sa.Connection, certificate_ids: Sequence[str]) -> dict[str, RevocationLine]:
    """By certificate id."""
    columns = [revocation.c[name] for name in RevocationLine.__dataclass_fields__]
    rows = connection.execute(sa.select(*columns).where(revocation.c.certificate_id.in_(certificate_ids)))
    return {row.certificate_id: RevocationLine(**row._asdict()) for row in rows}


def noted(connection: sa.Connection, address: str, limit: int) -> list[Noted]:
    """The newest ``limit`` lines of the audit trail on the mailbox, the oldest of them first."""
    rows = connection.execute(
        sa.select(audit.c.at, audit.c.event, audit.c.enrollment_id, audit.c.details)
        .where(audit.c.address == address)
        .order_by(audit.c.number.desc())
        .limit(limit)
    ).all()
    return [Noted(**(row._asdict() | {"details": json.loads(row.details)})) for row in reversed(rows)]
