# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on enrollments. Each takes the connection of a transaction that the caller opened."""

import dataclasses
import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import OPEN_STATES, Cause, Enrollment, Proof, State
from acme_milter.store import renewals
from acme_milter.store.schema import enrollment as table

_FIELDS = [field.name for field in dataclasses.fields(Enrollment)]
_COLUMNS = [table.c[name] for name in _FIELDS]


class StaleVersion(Exception):
    """Somebody else moved the enrollment on since it was read; whatever was computed from it is void."""


class AlreadyOpen(Exception):
    """The mailbox has an open enrollment with this authority already."""


def _from_row(row: sa.Row[tuple[Any, ...]]) -> Enrollment:
    values: dict[str, Any] = dict(zip(_FIELDS, row, strict=True))
    values["state"] = State(values["state"])
    values["cause"] = Cause(values["cause"])
    values["usage"] = KeyUsageKind(values["usage"])
    values["aliases"] = () if values["aliases"] == "[]" else tuple(json.loads(values["aliases"]))
    values["proofs"] = () if values["proofs"] == "[]" else tuple(Proof(*one) for one in json.loads(values["proofs"]))
    return Enrollment(**values)


def _to_values(enrollment: Enrollment) -> dict[str, object]:
    values = {name: getattr(enrollment, name) for name in _FIELDS}
    values["state"] = enrollment.state.value
    values["cause"] = enrollment.cause.value
    values["usage"] = enrollment.usage.value
    values["aliases"] = json.dumps(enrollment.aliases, ensure_ascii=False)
    values["proofs"] = json.dumps([dataclasses.astuple(proof) for proof in enrollment.proofs], ensure_ascii=False)
    return values


def open_new(
    connection: sa.Connection,
    *,
    address: str,
    authority: str,
    now: datetime,
    principal: str | None = None,
    cause: Cause = Cause.ASKED,
    replaces_id: str | None = None,
    bulk_run_id: str | None = None,
    generation: int = 1,
    next_attempt_at: datetime | None = None,
    enrollment_id: str | None = None,
    last_error: str | None = None,
    usage: KeyUsageKind = KeyUsageKind.DUAL,
    key_id: str | None = None,
) -> Enrollment:
    """Insert and return a PLANNED enrollment, due at ``next_attempt_at`` (default: now). Raises AlreadyOpen.

    ``principal``: whose certificate it is to be, the address itself when nobody is known. ``replaces_id``: the
    certificate it is to take the place of.
    ``last_error``: what became of the order before it, where this is a successor. ``key_id``: of a request that its
    mailbox has brought.
    """
    fresh = Enrollment(
        id=enrollment_id or uuid.uuid4().hex,
        address=address,
        principal=principal or address,
        authority=authority,
        cause=cause,
        replaces_id=replaces_id,
        bulk_run_id=bulk_run_id,
        state=State.PLANNED,
        version=1,
        generation=generation,
        opened_at=now,
        state_since=now,
        next_attempt_at=next_attempt_at or now,
        last_error=last_error,
        usage=usage,
        key_id=key_id,
    )
    if find_open(connection, address, authority) is not None:
        raise AlreadyOpen(address)
    connection.execute(table.insert().values(_to_values(fresh)))
    return fresh


_GET = sa.select(*_COLUMNS).where(table.c.id == sa.bindparam("wanted"))


def get(connection: sa.Connection, enrollment_id: str) -> Enrollment | None:
    row = connection.execute(_GET, {"wanted": enrollment_id}).first()
    return None if row is None else _from_row(row)


def find_open(connection: sa.Connection, address: str, authority: str) -> Enrollment | None:
    """The one open enrollment of the mailbox with the authority."""
    row = connection.execute(
        sa.select(*_COLUMNS).where(
            table.c.address == address, table.c.authority == authority, table.c.state.in_(OPEN_STATES)
        )
    ).first()
    return None if row is None else _from_row(row)


def of_mailbox(connection: sa.Connection, address: str) -> list[Enrollment]:
    """Every enrollment of the mailbox, the newest first."""
    rows = connection.execute(
        sa.select(*_COLUMNS).where(table.c.address == address).order_by(table.c.opened_at.desc(), table.c.id)
    )
    return [_from_row(row) for row in rows]


_BEGUN = [state.value for state in sorted(OPEN_STATES - {State.PLANNED})]


def address_in_another_order(connection: sa.Connection, mine: Enrollment, aliases: Sequence[str]) -> str | None:
    """An address, of the enrollment's and these, that another order of the same authority is for that has begun."""
    wanted = {address.lower() for address in (mine.address, *aliases)}
    begun = sa.and_(table.c.authority == mine.authority, table.c.state.in_(_BEGUN), table.c.id != mine.id)
    with_aliases = sa.select(table.c.aliases).where(begun, table.c.aliases != "[]")
    taken = [address for text in connection.execute(with_aliases).scalars() for address in json.loads(text)]
    if aliases:
        taken += connection.execute(sa.select(table.c.address).where(begun, table.c.address.in_(aliases))).scalars()
    return next((address for address in taken if address.lower() in wanted), None)


# Built once: putting a statement together costs more than running it.
_CLAIM = (
    table.update()
    .where(
        table.c.id == sa.bindparam("wanted"),
        table.c.next_attempt_at <= sa.bindparam("now"),
        sa.or_(table.c.lease_until.is_(None), table.c.lease_until < sa.bindparam("now")),
    )
    .values(lease_owner=sa.bindparam("owner"), lease_until=sa.bindparam("until"))
)


def claim(
    connection: sa.Connection, enrollment_id: str, *, owner: str, now: datetime, until: datetime
) -> Enrollment | None:
    """Lease the enrollment to ``owner``; ``None`` when another one holds it or it is not due any more."""
    taken = connection.execute(_CLAIM, {"wanted": enrollment_id, "now": now, "owner": owner, "until": until})
    return get(connection, enrollment_id) if taken.rowcount == 1 else None


_OVER = frozenset({State.SUPERSEDED, State.REVOKED})
_SAVE = (
    table.update()
    .where(table.c.id == sa.bindparam("wanted"), table.c.version == sa.bindparam("version_before"))
    .values({name: sa.bindparam(name) for name in _FIELDS})
)
_SAVE_AND_RELEASE = _SAVE.values(lease_owner=None, lease_until=None)


def save(connection: sa.Connection, moved: Enrollment, *, release: bool = True) -> None:
    """Write the enrollment as ``advance`` returned it, and end the lease unless told to keep it.

    A certificate that is over is not renewed any more, whatever ended it; one that has expired still is.

    Compare-and-swap: raises StaleVersion when the stored version is not the one before.
    """
    statement = _SAVE_AND_RELEASE if release else _SAVE
    written = connection.execute(
        statement, _to_values(moved) | {"wanted": moved.id, "version_before": moved.version - 1}
    )
    if written.rowcount != 1:
        raise StaleVersion(moved.id)
    if moved.state in _OVER and moved.certificate_id is not None:
        renewals.forget(connection, moved.certificate_id)


def release(connection: sa.Connection, enrollment_id: str, *, owner: str) -> None:
    """Give a lease back without having done anything."""
    connection.execute(
        table.update()
        .where(table.c.id == enrollment_id, table.c.lease_owner == owner)
        .values(lease_owner=None, lease_until=None)
    )


def count_again(connection: sa.Connection, enrollment_id: str, at: datetime) -> None:
    """Its order is asked for once more: from now on it counts from here. Its lease keeps others from it."""
    connection.execute(table.update().where(table.c.id == enrollment_id).values(counted_at=at))


def bring_key(
    connection: sa.Connection,
    waiting: Enrollment,
    key_id: str,
    *,
    usage: KeyUsageKind,
    replaces_id: str | None,
    now: datetime,
) -> bool:
    """Give a planned one the key of a brought request, and have it due. False: it has moved on since it was read.

    The request decides for which use it is, and so what it is to take the place of.
    """
    written = connection.execute(
        table.update()
        .where(table.c.id == waiting.id, table.c.version == waiting.version, table.c.state == State.PLANNED.value)
        .values(
            key_id=key_id,
            usage=usage.value,
            replaces_id=replaces_id,
            version=waiting.version + 1,
            next_attempt_at=now,
            attempts=0,
            last_error=None,
        )
    )
    return written.rowcount == 1


def put_off(connection: sa.Connection, enrollment_id: str, *, owner: str, until: datetime) -> None:
    """Give a lease back without having done anything, and be asked again at ``until``."""
    release(connection, enrollment_id, owner=owner)
    connection.execute(table.update().where(table.c.id == enrollment_id).values(next_attempt_at=until))


def call_back(connection: sa.Connection, authority: str, now: datetime, future: datetime, limit: int) -> int:
    """Have open ones that got into their state later than in ``future``, and wait for later still, be due now.

    Returns how many, ``limit`` at most: no clock that is right has dated them.
    """
    wanted = (
        sa.select(table.c.id)
        .where(
            table.c.authority == authority,
            table.c.state.in_([state.value for state in OPEN_STATES]),
            table.c.state_since > future,
            table.c.next_attempt_at >= table.c.state_since,
        )
        .limit(limit)
    )
    found = list(connection.execute(wanted).scalars())
    connection.execute(table.update().where(table.c.id.in_(found)).values(next_attempt_at=now))
    return len(found)


def release_all(connection: sa.Connection, *, place: str, but: str) -> None:
    """At start: leases of predecessors at this ``place`` are void, all ``but`` our own."""
    connection.execute(
        table.update()
        .where(table.c.lease_owner.startswith(place + "#", autoescape=True), table.c.lease_owner != but)
        .values(lease_owner=None, lease_until=None)
    )
