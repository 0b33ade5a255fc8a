# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan for many mailboxes rests on, each fact in one query over all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.kinds import covers
from acme_milter.enrollment.model import BACKGROUND_CAUSES, OPEN_STATES, Cause, State
from acme_milter.enrollment.staging import is_staging
from acme_milter.store.schema import certificate, enrollment

AT_ONCE = 2000
"""Rows that are fetched at once from a result of any length."""

_OPEN = [state.value for state in OPEN_STATES]


@dataclass(frozen=True, slots=True)
class Held:
    """An active certificate; ``serial`` is lower-case hex."""

    certificate_id: str
    address: str
    authority: str
    principal: str
    serial: str
    not_before: datetime
    not_after: datetime
    usage: KeyUsageKind = KeyUsageKind.DUAL


@dataclass(frozen=True, slots=True)
class Certified:
    """Who has what: ``covered`` by address whose certificates sign and encrypt, ``partly`` by address and principal
    what there is where one of two is missing.
    """

    covered: Mapping[str, frozenset[str]]
    partly: Mapping[tuple[str, str], frozenset[KeyUsageKind]]


_HELD = (
    sa.select(
        certificate.c.id,
        enrollment.c.address,
        enrollment.c.authority,
        enrollment.c.principal,
        certificate.c.serial,
        certificate.c.not_before,
        certificate.c.not_after,
        certificate.c.usage,
    )
    .select_from(enrollment.join(certificate, certificate.c.id == enrollment.c.certificate_id))
    .where(enrollment.c.state == State.ACTIVE.value)
)


def active_certificates(connection: sa.Connection, wanted: sa.ColumnElement[bool] | None = None) -> Iterator[Held]:
    """Every active certificate, read as it is consumed."""
    chosen = _HELD if wanted is None else _HELD.where(wanted)
    for row in connection.execute(chosen.execution_options(yield_per=AT_ONCE)):
        yield Held(*row[:-1], KeyUsageKind(row.usage))


def active_of(connection: sa.Connection, addresses: list[str]) -> dict[str, list[Held]]:
    """The active certificates of some mailboxes, some hundreds at most."""
    found: dict[str, list[Held]] = {}
    for held in active_certificates(connection, enrollment.c.address.in_(addresses)):
        found.setdefault(held.address, []).append(held)
    return found


def certified(connection: sa.Connection, now: datetime) -> Certified:
    """Mailboxes with active certificates that are valid still, and whose they are."""
    rows = connection.execute(
        sa.select(enrollment.c.address, enrollment.c.principal, enrollment.c.usage, enrollment.c.authority)
        .where(enrollment.c.state == State.ACTIVE.value, enrollment.c.not_after > now)
        .execution_options(yield_per=AT_ONCE)
    )
    covered: dict[str, frozenset[str]] = {}
    partly: dict[tuple[str, str], frozenset[KeyUsageKind]] = {}
    for address, principal, word, authority in rows:
        if is_staging(authority):
            continue
        usage = KeyUsageKind(word)
        if usage is not KeyUsageKind.DUAL:
            there = partly.get((address, principal), frozenset()) | {usage}
            partly[address, principal] = there
            if not covers(there):
                continue
        partly.pop((address, principal), None)
        known = covered.get(address)
        covered[address] = frozenset({principal}) if known is None else known | {principal}
    return Certified(covered, partly)


def open_orders(connection: sa.Connection) -> set[tuple[str, str]]:
    """(address, authority) of every open enrollment."""
    return _open_ones(connection, sa.true())


def open_orders_of(connection: sa.Connection, addresses: list[str]) -> set[tuple[str, str]]:
    """(address, authority) of the open enrollments of some mailboxes, some hundreds at most."""
    return _open_ones(connection, enrollment.c.address.in_(addresses))


def _open_ones(connection: sa.Connection, wanted: sa.ColumnElement[bool]) -> set[tuple[str, str]]:
    rows = connection.execute(
        sa.select(enrollment.c.address, enrollment.c.authority).where(enrollment.c.state.in_(_OPEN), wanted)
    )
    return {(row.address, row.authority) for row in rows}


def last_durations(connection: sa.Connection, authority: str, number: int) -> list[timedelta]:
    """How long the authority's newest active enrollments took, from the begin of ordering to the certificate."""
    rows = connection.execute(
        sa.select(enrollment.c.began_ordering_at, enrollment.c.state_since)
        .where(
            enrollment.c.authority == authority,
            enrollment.c.state == State.ACTIVE.value,
            enrollment.c.began_ordering_at.is_not(None),
        )
        .order_by(enrollment.c.state_since.desc())
        .limit(number)
    )
    return [row.state_since - row.began_ordering_at for row in rows]


_PLANNED = sa.select(sa.func.count()).where(
    enrollment.c.authority == sa.bindparam("authority"),
    enrollment.c.state == State.PLANNED.value,
    enrollment.c.cause.in_([cause.value for cause in Cause if cause not in BACKGROUND_CAUSES]),
    enrollment.c.next_attempt_at <= sa.bindparam("soon"),
    enrollment.c.lease_until.is_(None),  # a leased one is counted by whoever counts what is under way
)


def planned(connection: sa.Connection, authority: str, soon: datetime) -> int:
    """How many of the authority's enrollments are due until ``soon`` and have not begun to order.

    Not those that nobody waits for: however many of them their own pace holds back, whatever else there is goes on.
    """
    return int(connection.execute(_PLANNED, {"authority": authority, "soon": soon}).scalar_one())
