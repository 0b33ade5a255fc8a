# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on passphrases: of files that a delivery has made, sealed, until somebody asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

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
    connection.execute(table.delete().where(table.c.delivery_id == delivery_id))
    rows = [
        {"delivery_id": delivery_id, "format": form, "sealed": one, "made_at": now, "shown_at": None}
        for form, one in sealed.items()
    ]
    if rows:
        connection.execute(table.insert(), rows)


def of_delivery(connection: sa.Connection, delivery_id: str) -> list[StoredPassphrase]:
    rows = connection.execute(sa.select(table).where(table.c.delivery_id == delivery_id).order_by(table.c.format))
    return [StoredPassphrase(**row._asdict()) for row in rows]


def shown(connection: sa.Connection, delivery_id: str, form: str, now: datetime) -> None:
    """Somebody has seen it."""
    of_format = sa.and_(table.c.delivery_id == delivery_id, table.c.format == form)
    connection.execute(table.update().where(of_format).values(shown_at=now))
