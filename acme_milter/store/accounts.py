# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on ACME accounts. An account's key is stored before the authority first hears of it."""

from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import account as table


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAccount:
    """``jwk`` is the public key as JSON text; ``url`` is None until newAccount was answered.

    ``scope`` is whose it is: a domain, a mailbox, or nothing, and then it is everybody's. The ``next_`` three are of
    the key that is to replace this one (RFC 8555 §7.3.5).
    """

    id: str
    authority: str
    directory_url: str
    sealed_key: bytes = field(repr=False)
    jwk: str
    thumbprint: str
    url: str | None
    terms_url: str | None
    created_at: datetime
    scope: str = ""
    terms_agreed_at: datetime | None = None
    deactivated_at: datetime | None = None
    next_sealed_key: bytes | None = field(default=None, repr=False)
    next_jwk: str | None = None
    next_thumbprint: str | None = None


def find(connection: sa.Connection, authority: str, directory_url: str, scope: str = "") -> StoredAccount | None:
    """The account in use, whether the authority has heard of it or not."""
    row = connection.execute(
        sa.select(table).where(
            table.c.authority == authority,
            table.c.directory_url == directory_url,
            table.c.scope == scope,
            table.c.deactivated_at.is_(None),
        )
    ).first()
    return None if row is None else StoredAccount(**row._asdict())


def every(connection: sa.Connection) -> list[StoredAccount]:
    return [StoredAccount(**row._asdict()) for row in connection.execute(sa.select(table))]


def insert(connection: sa.Connection, account: StoredAccount) -> None:
    connection.execute(table.insert().values({column.name: getattr(account, column.name) for column in table.columns}))


def set_url(connection: sa.Connection, account_id: str, *, url: str, terms_url: str | None) -> None:
    """RFC 8555 §7.3: remember where the account lives and which terms were agreed to."""
    connection.execute(table.update().where(table.c.id == account_id).values(url=url, terms_url=terms_url))
