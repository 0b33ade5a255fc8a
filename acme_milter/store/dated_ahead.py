# SPDX-License-Identifier: GPL-3.0-or-later
"""What a clock that was ahead has dated: exchanges of keys, deliveries and revocations that wait for its time.

Each function has those be due ``now`` that wait until later than ``future``, which no clock that is right would have
them do, and returns how many, ``limit`` at most.
"""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import account, delivery, revocation


def exchanges(connection: sa.Connection, authority: str, now: datetime, future: datetime, limit: int) -> int:
    """Of the keys of the authority's accounts."""
    late = account.c.authority == authority, account.c.next_sealed_key.is_not(None), account.c.next_attempt_at > future
    found = list(connection.execute(sa.select(account.c.id).where(*late).limit(limit)).scalars())
    connection.execute(account.update().where(account.c.id.in_(found)).values(next_attempt_at=now))
    return len(found)


def deliveries(connection: sa.Connection, _authority: str, now: datetime, future: datetime, limit: int) -> int:
    """All that wait or are leased: what was imported is of no authority that is asked, and one's word is enough."""
    due_at, leased_until = delivery.c.next_attempt_at, delivery.c.lease_until
    late = delivery.c.done_at.is_(None), sa.or_(due_at > future, leased_until > future)
    found = list(connection.execute(sa.select(delivery.c.id).where(*late).limit(limit)).scalars())
    due = sa.case((due_at > future, sa.literal(now, due_at.type)), else_=due_at)  # what was given up stays so
    lease = sa.case((leased_until > future, sa.null()), else_=leased_until)
    dated = delivery.update().where(delivery.c.id.in_(found)).values(next_attempt_at=due, lease_until=lease)
    connection.execute(dated)
    return len(found)


def revocations(connection: sa.Connection, authority: str, now: datetime, future: datetime, limit: int) -> int:
    """Of the authority's certificates."""
    late = revocation.c.authority == authority, revocation.c.next_attempt_at > future
    found = list(connection.execute(sa.select(revocation.c.certificate_id).where(*late).limit(limit)).scalars())
    connection.execute(revocation.update().where(revocation.c.certificate_id.in_(found)).values(next_attempt_at=now))
    return len(found)
