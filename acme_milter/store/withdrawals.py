# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on what is to be at a target no more: deliveries that have a `withdraw_why`."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import State
from acme_milter.store import certificates, deliveries, delivery_leases
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import UNDONE
from acme_milter.store.delivery_rivals import BESIDE, MINE, MY_AGE, OTHER, THEIR_AGE, THEIRS
from acme_milter.store.rehearsals import in_earnest
from acme_milter.store.schema import certificate, enrollment, mailbox, revocation
from acme_milter.store.schema import delivery as table

_MAY_BE_THERE = sa.and_(table.c.begun_at.is_not(None), table.c.withdraw_why.is_(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """A delivery that may be there although nobody uses the certificate any more, for the reason `why`."""

    certificate_id: str
    address: str
    principal: str
    target: str
    kind: str
    location: str | None
    why: str


def withdraw(
    connection: sa.Connection, certificate_id: str, titles: Collection[str], why: str, now: datetime
) -> list[str]:
    """Have the certificate be at the targets of these titles no more; returns the titles that this changed.

    What may be there is due to be taken back, and what has not begun ends. Where somebody is just bringing it, he is
    waited for, and it does not count.
    """
    changed = []
    for one in deliveries.of_certificate(connection, certificate_id):
        if one.target not in titles or one.withdraw_why is not None:
            continue
        if one.begun_at is not None:
            values = {"withdraw_why": why, "asked_at": now, "next_attempt_at": now, "attempts": 0, "last_error": None}
            values |= {"done_at": None}
            values |= delivery_leases.disturbed(one.lease_owner, now, done=one.done_at is not None)
        elif one.done_at is None:
            values = {"done_at": now, "next_attempt_at": None, "last_error": why}
        else:
            continue
        connection.execute(table.update().where(table.c.id == one.id).values(**values))
        changed.append(one.target)
    return changed


def withdrawn(connection: sa.Connection, delivery_id: str, outcome: str, now: datetime, *, owner: str) -> bool:
    """It is there no more, and `outcome` says what was done. False, and nothing is changed, when the lease is another's
    by now, or nobody's, or it is to be there after all.
    """
    values = {"done_at": now, "outcome": outcome, "next_attempt_at": None, "last_error": None, "begun_at": None}
    values |= {"attempts": table.c.attempts + 1}
    return delivery_leases.end(connection, delivery_id, [owner], values, withdrawal=True)


def settle(connection: sa.Connection, delivery_id: str, outcome: str, now: datetime) -> bool:
    """It is there no more, whoever did that; False where somebody is at it just now, or it is not to be taken back."""
    values = {"done_at": now, "outcome": outcome, "next_attempt_at": None, "last_error": None, "begun_at": None}
    free = sa.or_(table.c.lease_until.is_(None), table.c.lease_until < now)
    going = sa.and_(table.c.id == delivery_id, table.c.withdraw_why.is_not(None), table.c.done_at.is_(None), free)
    values |= {"lease_owner": None, "lease_until": None}
    return connection.execute(table.update().where(going).values(**values)).rowcount == 1


def turn_back(connection: sa.Connection, delivery_id: str, why: str, now: datetime, *, owner: str) -> bool:
    """`owner` was to bring it, and it turns out that it is to be there no more: it is due to be taken back."""
    values = {"withdraw_why": why, "asked_at": now, "next_attempt_at": now, "attempts": 0, "last_error": None}
    return delivery_leases.end(connection, delivery_id, delivery_leases.names(owner), values, withdrawal=False)


def is_replaced(connection: sa.Connection, delivery_id: str) -> bool:
    """Whether another certificate for the same use was put there later: what has the mailbox's name there is its own.

    Where nobody knows whether this one was put there at all, any is believed to have been later but an older one that
    was there before this one began: that may lie beneath it.
    """
    later = sa.tuple_(OTHER.c.delivered_at, THEIRS.c.stored_at, THEIRS.c.id) > sa.tuple_(
        table.c.delivered_at, MINE.c.stored_at, MINE.c.id
    )
    since = sa.or_(table.c.begun_at.is_(None), OTHER.c.delivered_at >= table.c.begun_at, THEIR_AGE > MY_AGE)
    query = (
        sa.select(OTHER.c.id)
        .select_from(BESIDE)
        .where(
            table.c.id == delivery_id,
            OTHER.c.id != table.c.id,
            THEIRS.c.usage == MINE.c.usage,
            OTHER.c.delivered_at.is_not(None),
            sa.or_(OTHER.c.done_at.is_(None), OTHER.c.withdraw_why.is_(None)),
            sa.or_(sa.and_(table.c.delivered_at.is_(None), since), later),
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def staying(connection: sa.Connection, address: str, principal: str, target: str) -> list[StoredCertificate]:
    """Of this person's certificates for the mailbox that are in use and were put at the target, and whose revocation
    nobody has asked for, the newest for each kind of use, the oldest first.
    """
    rows = connection.execute(
        sa.select(certificate.c.id)
        .join(enrollment, certificates.ITS_ENROLLMENT)
        .join(table, table.c.certificate_id == certificate.c.id)
        .where(
            certificate.c.address == address,
            certificate.c.principal == principal,
            enrollment.c.state == State.ACTIVE.value,
            in_earnest(certificate.c.authority),
            table.c.target == target,
            table.c.withdraw_why.is_(None),
            table.c.delivered_at.is_not(None),
            ~sa.exists().where(revocation.c.certificate_id == certificate.c.id),
        )
        .order_by(certificate.c.stored_at, certificate.c.id)
    )
    newest = {found.usage: found for found in (certificates.get(connection, row.id) for row in rows)}
    return sorted(newest.values(), key=lambda one: (one.stored_at, one.id))


def going(connection: sa.Connection, certificate_ids: Collection[str], target: str) -> set[str]:
    """Those of the certificates that are to be at the target no more."""
    some = table.c.certificate_id.in_(certificate_ids)
    query = sa.select(table.c.certificate_id).where(some, table.c.target == target, table.c.withdraw_why.is_not(None))
    return set(connection.execute(query).scalars())


def certificates_at(connection: sa.Connection, address: str, principal: str | None = None) -> list[str]:
    """Ids of certificates of the mailbox that may be at a target; with `principal`, this person's only."""
    query = sa.select(table.c.certificate_id).distinct().where(table.c.address == address)
    query = query.where(
        table.c.withdraw_why.is_(None), sa.or_(table.c.begun_at.is_not(None), table.c.done_at.is_(None))
    )
    if principal is not None:
        query = query.join(certificate, certificate.c.id == table.c.certificate_id)
        query = query.where(certificate.c.principal == principal)
    return sorted(connection.execute(query).scalars())


def take_over(connection: sa.Connection, now: datetime) -> None:
    """At start: set right what a worker of an older version has written, which may have gone on beside the first of
    this one. It knows neither what may be there nor what is to go, and takes that for something to bring. Reads all.
    """
    put_there = sa.and_(table.c.done_at.is_not(None), table.c.outcome.is_not(None), table.c.withdraw_why.is_(None))
    moments = {"begun_at": sa.func.coalesce(table.c.begun_at, table.c.done_at), "delivered_at": table.c.done_at}
    unnoticed = table.c.delivered_at.is_distinct_from(table.c.done_at)
    connection.execute(table.update().where(put_there, unnoticed).values(**moments))
    tried = sa.and_(UNDONE, sa.or_(table.c.attempts > 0, table.c.lease_owner.is_not(None)))
    connection.execute(table.update().where(tried, table.c.begun_at.is_(None)).values(begun_at=table.c.asked_at))
    ended = sa.and_(table.c.done_at.is_not(None), table.c.withdraw_why.is_not(None), table.c.begun_at.is_not(None))
    values = {"done_at": None, "next_attempt_at": now, "attempts": 0, "last_error": None}
    connection.execute(table.update().where(ended).values(**values))


LEFT, REASSIGNED, REVOKED = (
    "the mailbox has left",
    "the mailbox is another person's now",
    "its revocation was asked for",
)


def unused(connection: sa.Connection, address: str | None = None) -> list[Unused]:
    """Everything that may be there although nobody uses it any more, of one mailbox or of all, by address and title."""
    why = sa.case(
        (mailbox.c.left_at.is_not(None), LEFT),
        (mailbox.c.principal != certificate.c.principal, REASSIGNED),
        (revocation.c.certificate_id.is_not(None), REVOKED),
        else_=None,
    )
    query = (
        sa.select(
            table.c.certificate_id,
            table.c.address,
            certificate.c.principal,
            table.c.target,
            table.c.kind,
            table.c.location,
            why.label("why"),
        )
        .select_from(
            table.join(certificate, certificate.c.id == table.c.certificate_id)
            .outerjoin(mailbox, mailbox.c.address == table.c.address)
            .outerjoin(revocation, revocation.c.certificate_id == table.c.certificate_id)
        )
        .where(_MAY_BE_THERE, why.is_not(None))
        .order_by(table.c.address, table.c.target, table.c.certificate_id)
    )
    if address is not None:
        query = query.where(table.c.address == address)
    return [Unused(**row._asdict()) for row in connection.execute(query)]
