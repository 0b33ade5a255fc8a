# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on many deliveries at once: lists and counts for people, and what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.store.deliveries import COLUMNS, UNDONE, Delivery, DeliveryState, from_row
from acme_milter.store.rehearsals import in_earnest
from acme_milter.store.schema import certificate, enrollment
from acme_milter.store.schema import delivery as table
from acme_milter.store.tallies import ACTIVE

AT_ONCE = 500
"""Ids in one statement."""

TROUBLE = 10
"""Attempts after which one that is still tried is told to a person: about a quarter of an hour of failing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """A certificate in use, as a plan for everybody needs it."""

    id: str
    address: str
    principal: str
    authority: str
    usage: KeyUsageKind
    stored_at: datetime


def undone(connection: sa.Connection, *, withdrawals: bool = False) -> dict[DeliveryState, int]:
    """How many wait, are tried again, and wait for a person: of what is to be there, or of what is to be taken back."""
    kind = table.c.withdraw_why.is_not(None) if withdrawals else table.c.withdraw_why.is_(None)
    state = sa.case(
        (table.c.next_attempt_at.is_(None), DeliveryState.FAILED.value),
        (table.c.last_error.is_(None), DeliveryState.WAITING.value),
        else_=DeliveryState.RETRYING.value,
    )
    rows = connection.execute(sa.select(state, sa.func.count()).where(UNDONE, kind).group_by(state)).all()
    counts = {DeliveryState(word): int(number) for word, number in rows}
    return {one: counts.get(one, 0) for one in (DeliveryState.WAITING, DeliveryState.RETRYING, DeliveryState.FAILED)}


def in_trouble(connection: sa.Connection) -> int:
    """How many have failed TROUBLE times and more, and are still tried."""
    query = sa.select(sa.func.count()).select_from(table)
    tried = sa.and_(table.c.next_attempt_at.is_not(None), table.c.attempts >= TROUBLE)
    return connection.execute(query.where(UNDONE, tried)).scalar_one()


def all_in_use(connection: sa.Connection) -> list[InUse]:
    """Of everybody what `deliveries.in_use` has of one."""
    columns = [certificate.c[name] for name in InUse.__dataclass_fields__]
    rows = connection.execute(
        sa.select(*columns)
        .join(enrollment, enrollment.c.certificate_id == certificate.c.id)
        .where(ACTIVE, in_earnest(certificate.c.authority))
        .order_by(certificate.c.stored_at, certificate.c.id)
    )
    found = (InUse(**(row._asdict() | {"usage": KeyUsageKind(row.usage)})) for row in rows)
    return list({(one.address, one.principal, one.usage): one for one in found}.values())


def wanted_at(connection: sa.Connection) -> set[tuple[str, str]]:
    """(certificate, target) of every delivery that has not ended."""
    standing = sa.or_(table.c.done_at.is_(None), table.c.outcome.is_not(None))
    rows = connection.execute(sa.select(table.c.certificate_id, table.c.target).where(standing))
    return {(row.certificate_id, row.target) for row in rows}


def where(connection: sa.Connection, *, addresses: Sequence[str], everything: bool) -> list[Delivery]:
    """Of these mailboxes, or of all; what is done or has ended only with `everything`. The longest waiting first."""
    query = sa.select(*COLUMNS).order_by(table.c.asked_at, table.c.address, table.c.target)
    if not everything:
        query = query.where(UNDONE)
    if addresses:
        query = query.where(table.c.address.in_(addresses))
    return [from_row(row) for row in connection.execute(query)]


def serials(connection: sa.Connection, certificate_ids: Sequence[str]) -> dict[str, str]:
    """By certificate id, however many."""
    found: dict[str, str] = {}
    ids = list(dict.fromkeys(certificate_ids))
    for start in range(0, len(ids), AT_ONCE):
        some = certificate.c.id.in_(ids[start : start + AT_ONCE])
        found |= {
            row.id: row.serial
            for row in connection.execute(sa.select(certificate.c.id, certificate.c.serial).where(some))
        }
    return found
