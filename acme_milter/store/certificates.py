# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on issued certificates."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import State
from acme_milter.store.rehearsals import in_earnest
from acme_milter.store.schema import certificate as table
from acme_milter.store.schema import enrollment


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCertificate:
    """``chain_pem`` begins with the mailbox's certificate; ``serial`` is lower-case hex."""

    id: str
    enrollment_id: str
    address: str
    principal: str
    authority: str
    key_id: str
    serial: str
    issuer: str
    not_before: datetime
    not_after: datetime
    chain_pem: bytes
    stored_at: datetime
    usage: KeyUsageKind = KeyUsageKind.DUAL


# By the enrollment's primary key: its certificate_id alone has no index, and all that is active would be read.
ITS_ENROLLMENT = sa.and_(enrollment.c.id == table.c.enrollment_id, enrollment.c.certificate_id == table.c.id)


def _from_row(row: sa.Row[Any]) -> StoredCertificate:
    values = row._asdict()
    return StoredCertificate(**(values | {"usage": KeyUsageKind(values["usage"])}))


def insert(connection: sa.Connection, stored: StoredCertificate) -> None:
    """Store a certificate, and tell its enrollment until when it lasts."""
    connection.execute(table.insert().values({column.name: getattr(stored, column.name) for column in table.columns}))
    connection.execute(
        enrollment.update().where(enrollment.c.id == stored.enrollment_id).values(not_after=stored.not_after)
    )


def get(connection: sa.Connection, certificate_id: str) -> StoredCertificate:
    """Raises sqlalchemy.exc.NoResultFound."""
    return _from_row(connection.execute(sa.select(table).where(table.c.id == certificate_id)).one())


def find(connection: sa.Connection, certificate_id: str) -> StoredCertificate | None:
    """As `get`, None where there is none."""
    row = connection.execute(sa.select(table).where(table.c.id == certificate_id)).first()
    return None if row is None else _from_row(row)


def current(connection: sa.Connection, address: str, principal: str) -> StoredCertificate | None:
    """The active certificate that lasts longest of those that this person has for the mailbox (T30)."""
    row = connection.execute(
        sa.select(table)
        .join(enrollment, ITS_ENROLLMENT)
        .where(table.c.address == address, table.c.principal == principal, enrollment.c.state == State.ACTIVE.value)
        .order_by(table.c.not_after.desc())
        .limit(1)
    ).first()
    return None if row is None else _from_row(row)


def in_use(connection: sa.Connection, address: str, principal: str) -> list[StoredCertificate]:
    """The active certificates that this person has for the mailbox, of each kind the one that lasts longest; none of
    an authority for trials.
    """
    rows = connection.execute(
        sa.select(table)
        .join(enrollment, ITS_ENROLLMENT)
        .where(table.c.address == address, table.c.principal == principal, enrollment.c.state == State.ACTIVE.value)
        .where(in_earnest(table.c.authority))
        .order_by(table.c.not_after)
    )
    kinds = {stored.usage: stored for stored in map(_from_row, rows)}
    return [kinds[usage] for usage in KeyUsageKind if usage in kinds]


def valid_of(connection: sa.Connection, address: str, principal: str, now: datetime) -> list[StoredCertificate]:
    """Everything that this person has for the mailbox and that has not expired, in use or not, the newest first."""
    rows = connection.execute(
        sa.select(table)
        .where(table.c.address == address, table.c.principal == principal, table.c.not_after > now)
        .order_by(table.c.not_after.desc(), table.c.id)
    )
    return [_from_row(row) for row in rows]


def with_serial(connection: sa.Connection, serial: str) -> list[StoredCertificate]:
    """Lower-case hex; two authorities may have chosen the same one."""
    rows = connection.execute(sa.select(table).where(table.c.serial == serial).order_by(table.c.id))
    return [_from_row(row) for row in rows]
