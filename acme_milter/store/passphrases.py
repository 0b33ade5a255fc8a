# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on passphrases: of files that a delivery has made, sealed, until somebody asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import State
from acme_milter.store.schema import certificate, delivery, enrollment
from acme_milter.store.schema import passphrase as table


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPassphrase:
    """`format` is that of the file which it opens; sealed by the worker's vault. `shown_at`: last."""

    delivery_id: str
    format: str
    sealed: bytes = field(repr=False)
    made_at: datetime
    shown_at: datetime | None


def replace(connection: sa.Connection, delivery_id: str, sealed: Mapping[str, bytes], now: datetime) -> None:
    """What the delivery has made now, by format; what it had made before opens nothing any more."""
    forget(connection, delivery_id)
    rows = [
        {"delivery_id": delivery_id, "format": form, "sealed": one, "made_at": now, "shown_at": None}
        for form, one in sealed.items()
    ]
    if rows:
        connection.execute(table.insert(), rows)


def forget(connection: sa.Connection, *delivery_ids: str) -> None:
    """What these deliveries have made is there no more, or shown to nobody any more."""
    connection.execute(table.delete().where(table.c.delivery_id.in_(delivery_ids)))


def unused(connection: sa.Connection, before: datetime, limit: int = 500) -> list[str]:
    """Deliveries with passphrases of certificates that went out of use ``before`` that, some at a time. It reads all
    that are kept: not in a transaction that somebody waits for.
    """
    found = connection.execute(
        sa.select(table.c.delivery_id)
        .distinct()
        .join(delivery, delivery.c.id == table.c.delivery_id)
        .join(certificate, certificate.c.id == delivery.c.certificate_id)
        .join(enrollment, enrollment.c.id == certificate.c.enrollment_id)
        .where(enrollment.c.state != State.ACTIVE.value, enrollment.c.state_since < before)
        .limit(limit)
    )
    return list(found.scalars())


def of_delivery(connection: sa.Connection, delivery_id: str) -> list[StoredPassphrase]:
    rows = connection.execute(sa.select(table).where(table.c.delivery_id == delivery_id).order_by(table.c.format))
    return [StoredPassphrase(**row._asdict()) for row in rows]


def shown(connection: sa.Connection, delivery_id: str, form: str, now: datetime) -> None:
    """Somebody has seen it."""
    of_format = sa.and_(table.c.delivery_id == delivery_id, table.c.format == form)
    connection.execute(table.update().where(of_format).values(shown_at=now))
