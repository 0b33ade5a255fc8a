# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on revocations: wishes to have a certificate revoked, kept until the authority has done it."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.eventlog import Event
from acme_milter.store import audit
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.schema import certificate as certificate_table
from acme_milter.store.schema import revocation as table

KEY_COMPROMISE = 1
"""RFC 5280 §5.3.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """``reason`` is of RFC 5280 §5.3.1. Neither ``next_attempt_at`` nor ``done_at``: given up, see ``last_error``."""

    certificate_id: str
    authority: str
    reason: int
    asked_at: datetime
    next_attempt_at: datetime | None
    attempts: int
    last_error: str | None
    done_at: datetime | None


def ask(connection: sa.Connection, certificate: StoredCertificate, reason: int, now: datetime, by: str) -> bool:
    """Have the certificate revoked; ``by`` says who wants it, for the audit trail. False: it is revoked already.

    Asking twice changes nothing while the first wish waits for its turn; one that was given up begins anew.
    """
    known = get(connection, certificate.id)
    if known is not None and known.done_at is not None:
        return False
    if known is not None and known.next_attempt_at is not None:
        return True
    values = {"reason": reason, "asked_at": now, "next_attempt_at": now, "attempts": 0, "last_error": None}
    if known is None:
        connection.execute(
            table.insert().values(certificate_id=certificate.id, authority=certificate.authority, **values)
        )
    else:
        connection.execute(table.update().where(table.c.certificate_id == certificate.id).values(values))
    audit.record(
        connection,
        Event.REVOCATION_ASKED,
        at=now,
        enrollment_id=certificate.enrollment_id,
        address=certificate.address,
        details={"serial": certificate.serial, "reason": reason, "by": by},
    )
    return True


def get(connection: sa.Connection, certificate_id: str) -> Revocation | None:
    row = connection.execute(sa.select(table).where(table.c.certificate_id == certificate_id)).first()
    return None if row is None else Revocation(**row._asdict())


def is_compromised(connection: sa.Connection, key_id: str) -> bool:
    """Whether a certificate with this key was revoked, or is to be, because the key is not secret any more."""
    query = (
        sa.select(sa.literal(1))
        .select_from(certificate_table.join(table, table.c.certificate_id == certificate_table.c.id))
        .where(certificate_table.c.key_id == key_id, table.c.reason == KEY_COMPROMISE)
    )
    return connection.execute(query).first() is not None


def authorities_due(connection: sa.Connection, now: datetime) -> list[str]:
    """The authorities that are to be asked something now."""
    due_now = sa.select(table.c.authority).where(table.c.next_attempt_at <= now).distinct()
    return list(connection.execute(due_now).scalars())


def due(connection: sa.Connection, authority: str, now: datetime, limit: int) -> list[Revocation]:
    """What the authority is to be asked now, the longest waiting first."""
    rows = connection.execute(
        sa.select(table)
        .where(table.c.next_attempt_at <= now, table.c.authority == authority)
        .order_by(table.c.next_attempt_at, table.c.certificate_id)
        .limit(limit)
    )
    return [Revocation(**row._asdict()) for row in rows]


def undone(connection: sa.Connection, limit: int = 1000) -> list[Revocation]:
    """What was asked for and has not been done, given up or not, the oldest first."""
    rows = connection.execute(sa.select(table).where(table.c.done_at.is_(None)).order_by(table.c.asked_at).limit(limit))
    return [Revocation(**row._asdict()) for row in rows]


def done(connection: sa.Connection, certificate_id: str, now: datetime) -> None:
    """The authority has done it."""
    values = {"done_at": now, "next_attempt_at": None, "last_error": None}
    connection.execute(table.update().where(table.c.certificate_id == certificate_id).values(values))


def failed(connection: sa.Connection, certificate_id: str, error: str, next_attempt_at: datetime | None) -> None:
    """It did not work; None: and will not be tried again."""
    connection.execute(
        table.update()
        .where(table.c.certificate_id == certificate_id)
        .values(attempts=table.c.attempts + 1, last_error=error, next_attempt_at=next_attempt_at)
    )
