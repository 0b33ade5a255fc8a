# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit trail: what was done, when, to whose enrollment. Never a secret."""

import json
from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import audit as table


def record(
    connection: sa.Connection,
    event: str,
    *,
    at: datetime,
    enrollment_id: str | None = None,
    address: str | None = None,
    details: Mapping[str, object] | None = None,
) -> None:
    connection.execute(
        table.insert().values(
            at=at,
            event=event,
            enrollment_id=enrollment_id,
            address=address,
            details=json.dumps(dict(details or {})),
        )
    )


def moments(connection: sa.Connection, enrollment_id: str) -> dict[str, datetime]:
    """When each thing happened to an enrollment first, by its word."""
    wanted = sa.select(table.c.event, table.c.at).where(table.c.enrollment_id == enrollment_id)
    return {row.event: row.at for row in connection.execute(wanted.order_by(table.c.number.desc()))}


def latest(connection: sa.Connection) -> datetime | None:
    """When anything was last recorded: a sign of life."""
    return connection.execute(sa.select(table.c.at).order_by(table.c.number.desc()).limit(1)).scalar()
