# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on mailbox keys: sealed, and kept for as long as any mail may have been encrypted to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import certificate
from acme_milter.store.schema import mailbox_key as table

AT_ONCE = 500
"""Ids in one statement."""


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

    @property
    def why_not_here(self) -> str | None:
        """Why there is no private key to this, and never will be, for people; None where there is one."""
        if self.destroyed_at is not None:
            return (
                f"the key was destroyed on {self.destroyed_at:%Y-%m-%d}, once it was given out (custody: deliver_once)"
            )
        if not self.sealed_key:
            return "the key was never here: the mailbox brought a request of its own (custody: csr)"
        return None


def insert(connection: sa.Connection, key: StoredMailboxKey) -> None:
    connection.execute(table.insert().values({column.name: getattr(key, column.name) for column in table.columns}))


def get(connection: sa.Connection, key_id: str) -> StoredMailboxKey:
    """Raises sqlalchemy.exc.NoResultFound: a referenced key that is not there is a damaged store."""
    return StoredMailboxKey(**connection.execute(sa.select(table).where(table.c.id == key_id)).one()._asdict())


def with_public_key(connection: sa.Connection, spki: bytes) -> list[StoredMailboxKey]:
    """Every row with this public key (DER), whosever it is; the newest first."""
    rows = connection.execute(sa.select(table).where(table.c.spki == spki).order_by(table.c.created_at.desc()))
    return [StoredMailboxKey(**row._asdict()) for row in rows]


def not_here(connection: sa.Connection, certificate_ids: Sequence[str]) -> set[str]:
    """Those of the certificates, however many, whose private key is not here, and never will be."""
    found: set[str] = set()
    for start in range(0, len(certificate_ids), AT_ONCE):
        some = certificate.c.id.in_(certificate_ids[start : start + AT_ONCE])
        gone = sa.or_(table.c.destroyed_at.is_not(None), sa.func.length(table.c.sealed_key) == 0)
        query = sa.select(certificate.c.id).join(table, table.c.id == certificate.c.key_id).where(some, gone)
        found |= set(connection.execute(query).scalars())
    return found


def destroy(connection: sa.Connection, key_id: str, now: datetime) -> bool:
    """Overwrite the sealed key. False: it was not here, or is destroyed already."""
    key = get(connection, key_id)
    if not key.sealed_key or key.destroyed_at is not None:
        return False
    row = table.update().where(table.c.id == key_id)
    # First with as many zeros: SQLite writes them over the old octets, where a shorter value would leave those lying.
    connection.execute(row.values(sealed_key=bytes(len(key.sealed_key))))
    connection.execute(row.values(sealed_key=b"", destroyed_at=now))
    return True
