# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on the outbox: replies that we owe, written in the same transaction as the challenge mail's acceptance."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import outbox as table

_COLUMNS = [column for column in table.columns if column.name not in {"lease_owner", "lease_until"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """One reply. ``handover_began_at`` is set while it is unknown whether Postfix already has it (F-25).

    One that is kept until its address's turn comes is not due, not sent and not given up.
    """

    id: str
    enrollment_id: str
    challenge_mail_id: str
    envelope_sender: str
    envelope_recipient: str
    message_id: str
    sealed_reply: bytes = field(repr=False)
    attempts: int = 0
    created_at: datetime
    next_attempt_at: datetime | None
    handover_began_at: datetime | None = None
    handovers: int = 0
    sent_at: datetime | None = None
    queue_id: str | None = None
    last_error: str | None = None
    departure: str | None = None
    departure_at: datetime | None = None
    departure_words: str | None = None
    place: str | None = None
    followed_since: datetime | None = None

    @property
    def is_kept(self) -> bool:
        return self.next_attempt_at is None and self.sent_at is None and self.last_error is None


def insert(connection: sa.Connection, entry: OutboxEntry) -> None:
    connection.execute(table.insert().values({column.name: getattr(entry, column.name) for column in _COLUMNS}))


_DUE = (
    sa.select(table.c.id)
    .where(
        table.c.next_attempt_at <= sa.bindparam("now"),
        sa.or_(table.c.lease_until.is_(None), table.c.lease_until < sa.bindparam("now")),
    )
    .order_by(table.c.next_attempt_at)
    .limit(sa.bindparam("limit"))
)


def due(connection: sa.Connection, *, now: datetime, limit: int) -> list[str]:
    """Ids of entries that are due and not leased, the longest waiting first."""
    return [row.id for row in connection.execute(_DUE, {"now": now, "limit": limit})]


def claim(
    connection: sa.Connection, entry_id: str, *, owner: str, now: datetime, until: datetime
) -> OutboxEntry | None:
    """Lease the entry to ``owner``; ``None`` when another one holds it or it is not due any more."""
    taken = connection.execute(
        table.update()
        .where(
            table.c.id == entry_id,
            table.c.next_attempt_at <= now,
            sa.or_(table.c.lease_until.is_(None), table.c.lease_until < now),
        )
        .values(lease_owner=owner, lease_until=until)
    )
    if taken.rowcount != 1:
        return None
    return OutboxEntry(**connection.execute(sa.select(*_COLUMNS).where(table.c.id == entry_id)).one()._asdict())


def begin_handover(connection: sa.Connection, entry_id: str, *, owner: str, at: datetime, most: int) -> bool:
    """From now on, until an outcome is recorded, Postfix may have the reply (K11).

    False, and nothing may be sent, when ``owner`` was asleep for so long that its lease ran out (F-37), or when the
    reply was handed over ``most`` times already.
    """
    begun = connection.execute(
        table.update()
        .where(
            table.c.id == entry_id,
            table.c.lease_owner == owner,
            table.c.lease_until > at,
            table.c.sent_at.is_(None),
            table.c.handovers < most,
        )
        .values(handover_began_at=at, handovers=table.c.handovers + 1)
    )
    return begun.rowcount == 1


def mark_sent(
    connection: sa.Connection, entry_id: str, *, owner: str, at: datetime, queue_id: str | None, followed: bool = False
) -> bool:
    """Postfix has it; with ``followed``, the owner looks where it goes. False when the lease was lost meanwhile."""
    following = {"place": place_of(owner), "followed_since": at} if followed else {}
    return _finish(
        connection, entry_id, owner, sent_at=at, queue_id=queue_id, next_attempt_at=None, last_error=None, **following
    )


def mark_deferred(
    connection: sa.Connection, entry_id: str, *, owner: str, until: datetime, error: str, certain: bool
) -> bool:
    """Try again at ``until``. ``certain``: Postfix surely did not take it this time; an earlier doubt remains (N2)."""
    values: dict[str, object] = {
        "next_attempt_at": until,
        "last_error": error,
        "attempts": table.c.attempts + 1,
    }
    if certain:
        doubt_remains = sa.case((table.c.handovers > 1, table.c.handover_began_at))
        values |= {"handover_began_at": doubt_remains, "handovers": table.c.handovers - 1}
    return _finish(connection, entry_id, owner, **values)


def mark_given_up(connection: sa.Connection, entry_id: str, *, owner: str, error: str) -> bool:
    return _finish(connection, entry_id, owner, next_attempt_at=None, last_error=error)


def of_enrollment(connection: sa.Connection, enrollment_id: str) -> list[OutboxEntry]:
    rows = connection.execute(
        sa.select(*_COLUMNS).where(table.c.enrollment_id == enrollment_id).order_by(table.c.created_at)
    )
    return [OutboxEntry(**row._asdict()) for row in rows]


def let_go(connection: sa.Connection, entry_ids: Collection[str], now: datetime) -> None:
    """Replies that were kept are owed to Postfix from now on."""
    connection.execute(
        table.update()
        .where(table.c.id.in_(entry_ids), table.c.sent_at.is_(None), table.c.next_attempt_at.is_(None))
        .values(created_at=now, next_attempt_at=now)
    )


def place_of(owner: str) -> str:
    """Where a worker is at home: what of its name stays the same when it is started again."""
    return owner.rpartition("#")[0]


def release_all(connection: sa.Connection, *, place: str, but: str) -> None:
    """At start: leases of predecessors at this ``place`` are void, all ``but`` our own.

    What they began stays ambiguous.
    """
    connection.execute(
        table.update()
        .where(table.c.lease_owner.startswith(place + "#", autoescape=True), table.c.lease_owner != but)
        .values(lease_owner=None, lease_until=None)
    )


def _finish(connection: sa.Connection, entry_id: str, owner: str, **values: object) -> bool:
    written = connection.execute(
        table.update()
        .where(table.c.id == entry_id, table.c.lease_owner == owner)
        .values(lease_owner=None, lease_until=None, **values)
    )
    return written.rowcount == 1
