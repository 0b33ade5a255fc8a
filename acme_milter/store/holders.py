# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on certificates in use by the mailboxes that have them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.store.schema import certificate, enrollment, renewal
from acme_milter.store.tallies import ACTIVE, OPEN


@dataclass(frozen=True, slots=True)
class End:
    """Until when a mailbox has a certificate, and of which authority."""

    not_after: datetime
    authority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiring:
    """An active certificate that ends soon. ``successor_open``: the next one is under way already."""

    address: str
    authority: str
    serial: str
    not_after: datetime
    renewal_due_at: datetime | None
    successor_open: bool


def ends(connection: sa.Connection, now: datetime) -> dict[str, End]:
    """By address, the valid certificate in use that lasts longest; of two for one use each, the one that ends first."""
    rows = connection.execute(
        sa.select(enrollment.c.address, enrollment.c.not_after, enrollment.c.authority, enrollment.c.usage)
        .where(ACTIVE, enrollment.c.not_after > now)
        .order_by(enrollment.c.not_after)
    )
    whole: dict[str, End] = {}
    halves: dict[str, dict[str, End]] = {}
    for row in rows:
        end = End(row.not_after, row.authority)
        if row.usage == KeyUsageKind.DUAL:
            whole[row.address] = end
        else:
            halves.setdefault(row.address, {})[row.usage] = end
    for address, of_usage in halves.items():
        first = min(of_usage.values(), key=lambda end: end.not_after)
        if address not in whole or (len(of_usage) > 1 and first.not_after > whole[address].not_after):
            whole[address] = first
    return whole


def expiring(connection: sa.Connection, after: datetime, until: datetime) -> Iterator[Expiring]:
    """Active certificates whose end lies in this time, the soonest first."""
    successor = enrollment.alias("successor")
    open_one = sa.exists().where(
        successor.c.address == enrollment.c.address,
        sa.text(OPEN.text.replace("enrollment.", "successor.")),
        sa.or_(
            successor.c.usage == enrollment.c.usage,
            successor.c.usage == KeyUsageKind.DUAL.value,
            enrollment.c.usage == KeyUsageKind.DUAL.value,
        ),
    )
    rows = connection.execute(
        sa.select(
            enrollment.c.address,
            enrollment.c.authority,
            certificate.c.serial,
            enrollment.c.not_after,
            renewal.c.due_at.label("renewal_due_at"),
            open_one.label("successor_open"),
        )
        .select_from(
            enrollment.join(certificate, certificate.c.id == enrollment.c.certificate_id).outerjoin(
                renewal, renewal.c.certificate_id == certificate.c.id
            )
        )
        .where(ACTIVE, enrollment.c.not_after > after, enrollment.c.not_after <= until)
        .order_by(enrollment.c.not_after, enrollment.c.address)
    )
    for row in rows:
        yield Expiring(**(row._asdict() | {"successor_open": bool(row.successor_open)}))
