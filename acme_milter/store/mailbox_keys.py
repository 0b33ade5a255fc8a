# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on mailbox keys: sealed, and kept for as long as any mail may have been encrypted to them."""

from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import mailbox_key as table


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMailboxKey:
    """``principal`` is whose key it is, ``spki`` and ``csr`` are DER. ``sealed_key`` is empty where the key was never
    here, and where it is here no more, which is since ``destroyed_at``.
    """

    id: str
    principal: str
    algorithm: str
    sealed_key: bytes = field(repr=False)
    spki: bytes
    csr: bytes
    created_at: datetime
    destroyed_at: datetime | None = None


def insert(connection: sa.Connection, key: StoredMailboxKey) -> None:
    connection.execute(table.insert().values({column.name: getattr(key, column.name) for column in table.columns}))


def get(connection: sa.Connection, key_id: str) -> StoredMailboxKey:
    """Raises sqlalchemy.exc.NoResultFound: a referenced key that is not there is a damaged store."""
    return StoredMailboxKey(**connection.execute(sa.select(table).where(table.c.id == key_id)).one()._asdict())
