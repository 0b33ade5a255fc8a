# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line shows: an enrollment with its certificate and the queue ids of its mails, in one row."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import State
from acme_milter.store.first_mails import first_challenge, first_reply
from acme_milter.store.schema import certificate, enrollment


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One enrollment as people see it; the queue ids are those of its first challenge mail and first reply.

    ``issued_at``: since when its certificate is here.
    """

    id: str
    address: str
    authority: str
    state: State
    opened_at: datetime
    state_since: datetime
    next_attempt_at: datetime | None
    attempts: int
    last_error: str | None
    successor_id: str | None
    serial: str | None
    not_after: datetime | None
    challenge_queue_id: str | None
    reply_queue_id: str | None
    usage: KeyUsageKind = KeyUsageKind.DUAL
    issued_at: datetime | None = None


AT_ONCE = 500
"""Ids or addresses in one statement; databases have limits, 32 766 at the lowest."""


def of_enrollments(connection: sa.Connection, ids: Sequence[str]) -> list[Overview]:
    """The enrollments with these ids, however many, in no particular order."""
    rows: list[Overview] = []
    for start in range(0, len(ids), AT_ONCE):
        rows += _rows(connection, enrollment.c.id.in_(ids[start : start + AT_ONCE]))
    return rows


def after(connection: sa.Connection, rows: Sequence[Overview]) -> list[str]:
    """Ids of the enrollments for the other of a mailbox's two certificates that were opened since these were."""
    found: list[str] = []
    for row in rows:
        if row.usage is KeyUsageKind.DUAL:
            continue
        query = sa.select(enrollment.c.id).where(
            enrollment.c.address == row.address,
            enrollment.c.authority == row.authority,
            enrollment.c.usage != row.usage.value,
            enrollment.c.opened_at > row.opened_at,
        )
        found += connection.execute(query).scalars()
    return found


def latest_of_each_mailbox(connection: sa.Connection, addresses: Sequence[str] | None = None) -> list[Overview]:
    """The newest enrollment of each mailbox (of these, or of all), by address."""
    newer = enrollment.alias()
    later = sa.or_(
        newer.c.opened_at > enrollment.c.opened_at,
        sa.and_(newer.c.opened_at == enrollment.c.opened_at, newer.c.id > enrollment.c.id),
    )
    newest = ~sa.exists().where(newer.c.address == enrollment.c.address, later)
    if addresses is None:
        return sorted(_rows(connection, newest), key=lambda row: row.address)
    rows: list[Overview] = []
    for start in range(0, len(addresses), AT_ONCE):
        some = enrollment.c.address.in_(addresses[start : start + AT_ONCE])
        rows += _rows(connection, sa.and_(newest, some))
    return sorted(rows, key=lambda row: row.address)


def _rows(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Overview]:
    rows = connection.execute(
        sa.select(
            enrollment.c.id,
            enrollment.c.address,
            enrollment.c.authority,
            enrollment.c.state,
            enrollment.c.opened_at,
            enrollment.c.state_since,
            enrollment.c.next_attempt_at,
            enrollment.c.attempts,
            enrollment.c.last_error,
            enrollment.c.successor_id,
            certificate.c.serial,
            certificate.c.not_after,
            certificate.c.stored_at.label("issued_at"),
            first_challenge(enrollment.c.id).label("challenge_queue_id"),
            first_reply(enrollment.c.id).label("reply_queue_id"),
            enrollment.c.usage,
        )
        .select_from(enrollment.outerjoin(certificate, certificate.c.id == enrollment.c.certificate_id))
        .where(condition)
    )
    return [Overview(**(row._asdict() | {"state": State(row.state), "usage": KeyUsageKind(row.usage)})) for row in rows]
