# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on joiners: mailboxes that came after the first day and have had no order in earnest yet, or one in vain."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.enrollment.model import OPEN_STATES, Enrollment, State
from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.store.rehearsals import in_earnest
from acme_milter.store.schema import enrollment, mailbox

AGAIN_AFTER = timedelta(days=1)
"""Pause after an order that failed for good, before the mailbox gets another one by itself."""

_IN_USE = [state.value for state in OPEN_STATES | {State.ACTIVE}]
_NEVER_ENROLLED = ~(
    sa.select(sa.literal(1))
    .where(
        enrollment.c.address == mailbox.c.address,
        enrollment.c.principal == mailbox.c.principal,
        enrollment.c.state != State.CANCELLED.value,
        in_earnest(enrollment.c.authority),
        # Who had left and is there again is seen for the first time again; what they had before is out of use.
        sa.or_(enrollment.c.opened_at >= mailbox.c.first_seen_at, enrollment.c.state.in_(_IN_USE)),
    )
    .exists()
)


def unserved(connection: sa.Connection, *, came_as: str, since: datetime | None = None) -> list[str]:
    """Addresses of present joiners for whose person nothing was ordered since they came, or only what was cancelled.

    ``since``: only those first seen since then, which is a short look; without it every joiner is looked at.
    """
    query = sa.select(mailbox.c.address).where(
        mailbox.c.came_as == came_as, mailbox.c.missing_since.is_(None), mailbox.c.left_at.is_(None), _NEVER_ENROLLED
    )
    if since is not None:
        query = query.where(mailbox.c.first_seen_at >= since)
    return list(connection.execute(query.order_by(mailbox.c.first_seen_at, mailbox.c.address)).scalars())


def is_unserved(connection: sa.Connection, address: str, came_as: str) -> bool:
    """Whether `unserved` would still name it."""
    query = sa.select(sa.literal(1)).where(
        mailbox.c.address == address,
        mailbox.c.came_as == came_as,
        mailbox.c.missing_since.is_(None),
        mailbox.c.left_at.is_(None),
        _NEVER_ENROLLED,
    )
    return connection.execute(query).first() is not None


_latest = enrollment.alias("latest")
_other = enrollment.alias("other")
_SAME = sa.and_(_other.c.address == _latest.c.address, _other.c.principal == _latest.c.principal)
_FAILED_LAST = (
    _latest.c.address == mailbox.c.address,
    _latest.c.principal == mailbox.c.principal,
    _latest.c.state == State.FAILED.value,
    _latest.c.successor_id.is_(None),
    in_earnest(_latest.c.authority),
    _latest.c.opened_at >= mailbox.c.first_seen_at,
    ~sa.exists().where(
        _SAME,
        _other.c.id != _latest.c.id,
        _other.c.state != State.CANCELLED.value,
        in_earnest(_other.c.authority),
        sa.or_(_other.c.opened_at > _latest.c.opened_at, _other.c.state.in_(_IN_USE)),
    ),
    mailbox.c.missing_since.is_(None),
    mailbox.c.left_at.is_(None),
)


def failed(connection: sa.Connection, *, joiner: str, others: Sequence[str], now: datetime) -> list[str]:
    """Addresses of present mailboxes without a certificate whose last order failed for good a day ago, oldest first.

    Of those that came as ``joiner`` whatever it failed for; of those that came as one of ``others`` only where nothing
    was ordered, because Postfix did not know the mailbox: somebody has asked for these, and nothing was tried.
    """
    # By authority, also one that is not configured any more: their index leads to what failed, and to nothing else.
    query = sa.select(mailbox.c.address).where(
        _latest.c.authority.in_(_authorities(connection)), *_FAILED_LAST, *_due(joiner, others, now)
    )
    return list(connection.execute(query.order_by(_latest.c.state_since)).scalars())


def is_opened_again(last: Enrollment, row: StoredMailbox, *, joiner: str, others: Sequence[str]) -> bool:
    """Whether `failed` will name a present mailbox whose last order this is, a day after that failed."""
    is_theirs = last.principal == row.principal and last.opened_at >= row.first_seen_at and row.is_present
    nothing_ordered = row.came_as in others and last.began_ordering_at is None
    return last.state is State.FAILED and is_theirs and (row.came_as == joiner or nothing_ordered)


def has_failed(connection: sa.Connection, address: str, *, joiner: str, others: Sequence[str], now: datetime) -> bool:
    """Whether `failed` would still name it."""
    query = sa.select(sa.literal(1)).where(mailbox.c.address == address, *_FAILED_LAST, *_due(joiner, others, now))
    return connection.execute(query).first() is not None


def _authorities(connection: sa.Connection) -> list[str]:
    found: list[str] = []
    while True:  # from one to the next in the index: there are few of them, and many rows of each
        query = sa.select(sa.func.min(enrollment.c.authority)).where(enrollment.c.authority > "".join(found[-1:]))
        name = connection.execute(query).scalar()
        if name is None:
            return found
        found.append(name)


def _due(joiner: str, others: Sequence[str], now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    nothing_ordered = sa.and_(mailbox.c.came_as.in_(others), _latest.c.began_ordering_at.is_(None))
    return _latest.c.state_since <= now - AGAIN_AFTER, sa.or_(mailbox.c.came_as == joiner, nothing_ordered)
