# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on the items of bulk runs. Each takes the connection of a transaction that the caller opened."""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import OPEN_STATES, State
from acme_milter.store.bulk_runs import UNENDED, RunState
from acme_milter.store.schema import bulk_item as items
from acme_milter.store.schema import bulk_run as runs
from acme_milter.store.schema import enrollment

AT_ONCE = 500
"""Items that one transaction writes at most: a challenge mail's commit must not wait for a run of thousands."""


class Outcome(enum.StrEnum):
    """What has become of an item."""

    WAITING = "waiting"  # its enrollment is opened when there is room
    OPEN = "open"
    RETRYING = "retrying"  # an order failed, and the next one is planned or under way
    ACTIVE = "active"
    FAILED = "failed"
    SKIPPED = "skipped"  # it was not wanted, or not possible, any more when its turn came


UNENDED_OUTCOMES = frozenset({Outcome.WAITING, Outcome.OPEN, Outcome.RETRYING})
UNDER_WAY = frozenset({Outcome.OPEN, Outcome.RETRYING})


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkItem:
    """One mailbox of a run. ``position`` is its place in the plan, ``principal`` whose it was then.

    ``also_replaces_id`` is the second certificate to be replaced, where it has one to sign and one to encrypt.
    """

    run_id: str
    address: str
    position: int
    domain: str
    authority: str
    principal: str
    replaces_id: str | None
    also_replaces_id: str | None = None
    enrollment_id: str | None = None
    outcome: Outcome = Outcome.WAITING
    reason: str | None = None
    ended_at: datetime | None = None


def add_items(connection: sa.Connection, added: Sequence[BulkItem]) -> None:
    """Insert items that the run does not have yet: a request that was sent twice adds them once."""
    if not added:
        return
    known = set(
        connection.execute(
            sa.select(items.c.address).where(
                items.c.run_id == added[0].run_id, items.c.address.in_([item.address for item in added])
            )
        ).scalars()
    )
    values = [
        {
            "run_id": item.run_id,
            "address": item.address,
            "position": item.position,
            "domain": item.domain,
            "authority": item.authority,
            "principal": item.principal,
            "replaces_id": item.replaces_id,
            "also_replaces_id": item.also_replaces_id,
            "enrollment_id": item.enrollment_id,
            "outcome": item.outcome.value,
            "reason": item.reason,
            "ended_at": item.ended_at,
        }
        for item in added
        if item.address not in known
    ]
    if values:
        connection.execute(items.insert(), values)


def count_items(connection: sa.Connection, run_id: str) -> int:
    return connection.execute(
        sa.select(sa.func.count()).select_from(items).where(items.c.run_id == run_id)
    ).scalar_one()


def taken_by_others(connection: sa.Connection, run_id: str, addresses: Collection[str]) -> dict[str, str]:
    """Those of ``addresses`` (at most some hundreds) that another run is about to see to, with that run's id."""
    others = connection.execute(
        sa.select(runs.c.id).where(runs.c.id != run_id, runs.c.state.in_([state.value for state in UNENDED]))
    ).scalars()
    rows = connection.execute(
        sa.select(items.c.address, items.c.run_id).where(
            items.c.run_id.in_(list(others)), items.c.address.in_(addresses), _outcome_in(UNENDED_OUTCOMES)
        )
    )
    return {row.address: row.run_id for row in rows}


def _outcome_in(outcomes: Collection[Outcome]) -> sa.ColumnElement[bool]:
    return items.c.outcome.in_([outcome.value for outcome in outcomes])


_NAMES = [column.name for column in items.columns]

_WAITING = (
    sa.select(items)
    .where(
        items.c.run_id == sa.bindparam("wanted"),
        items.c.outcome == Outcome.WAITING.value,
        items.c.authority == sa.bindparam("with_authority"),
        items.c.position > sa.bindparam("after"),
    )
    .order_by(items.c.position)
    .limit(sa.bindparam("limit"))
)


def waiting(connection: sa.Connection, run_id: str, authority: str, limit: int, *, after: int = -1) -> list[BulkItem]:
    """Items whose turn has not come yet, in the order of the plan, from the first one ``after`` that position."""
    asked = {"wanted": run_id, "with_authority": authority, "limit": limit, "after": after}
    rows = connection.execute(_WAITING, asked)
    return [BulkItem(**(row._asdict() | {"outcome": Outcome(row.outcome)})) for row in rows]


def named(connection: sa.Connection, run_id: str, addresses: Collection[str]) -> list[BulkItem]:
    """Those of ``addresses`` (some hundreds at most) whose turn has not come yet, in the order of the plan."""
    query = (
        sa.select(items)
        .where(items.c.run_id == run_id, items.c.address.in_(addresses), items.c.outcome == Outcome.WAITING.value)
        .order_by(items.c.position)
    )
    rows = connection.execute(query)
    return [BulkItem(**(row._asdict() | {"outcome": Outcome(row.outcome)})) for row in rows]


def authorities_with(connection: sa.Connection, run_id: str, outcomes: Collection[Outcome]) -> set[str]:
    """The authorities that items with one of these outcomes want their certificates from."""
    found = connection.execute(
        sa.select(items.c.authority).where(items.c.run_id == run_id, _outcome_in(outcomes)).distinct()
    )
    return set(found.scalars())


def also_replaced(connection: sa.Connection, run_id: str, address: str) -> str | None:
    """The second certificate that the run is to replace for the mailbox."""
    wanted = sa.select(items.c.also_replaces_id).where(items.c.run_id == run_id, items.c.address == address)
    return connection.execute(wanted).scalar()


def has(connection: sa.Connection, run_id: str, outcomes: Collection[Outcome]) -> bool:
    """Whether any item has one of these outcomes."""
    some = sa.select(items.c.address).where(items.c.run_id == run_id, _outcome_in(outcomes)).limit(1)
    return connection.execute(some).first() is not None


def set_outcome(
    connection: sa.Connection,
    item: BulkItem,
    outcome: Outcome,
    *,
    now: datetime,
    reason: str | None = None,
    enrollment_id: str | None = None,
) -> bool:
    """Compare-and-swap: False, and nothing is changed, when the item is not any more what was read."""
    changed = connection.execute(
        items.update()
        .where(
            items.c.run_id == item.run_id,
            items.c.address == item.address,
            items.c.outcome == item.outcome.value,
            items.c.enrollment_id.is_not_distinct_from(item.enrollment_id),
        )
        .values(
            outcome=outcome.value,
            reason=reason,
            enrollment_id=enrollment_id or item.enrollment_id,
            ended_at=None if outcome in UNENDED_OUTCOMES else now,
        )
    )
    return changed.rowcount == 1


def wait_again(connection: sa.Connection, run_id: str, *, cause: str | None, limit: int) -> int:
    """Have failed items wait for a new order, those whose reason holds ``cause`` if given; returns how many."""
    wanted = sa.select(items.c.address).where(items.c.run_id == run_id, items.c.outcome == Outcome.FAILED.value)
    if cause:
        wanted = wanted.where(sa.func.lower(items.c.reason).contains(cause.lower(), autoescape=True))
    addresses = list(connection.execute(wanted.limit(limit)).scalars())
    connection.execute(
        items.update()
        .where(items.c.run_id == run_id, items.c.address.in_(addresses))
        .values(outcome=Outcome.WAITING.value, reason=None, enrollment_id=None, ended_at=None)
    )
    return len(addresses)


@dataclass(frozen=True, slots=True)
class Ended:
    """An item that is under way, and the end of the enrollment it waited for."""

    item: BulkItem
    state: State
    last_error: str | None
    successor_id: str | None
    certificate_id: str | None


_OPEN_STATES = [state.value for state in OPEN_STATES]


def with_ended_enrollment(connection: sa.Connection, limit: int) -> list[Ended]:
    """Items under way whose enrollment has ended, of whichever run: a paused one too has some on their way."""
    begun = sa.select(runs.c.id).where(runs.c.state.not_in([RunState.RECEIVING.value, RunState.DONE.value]))
    rows = connection.execute(
        sa.select(
            items,
            enrollment.c.state.label("enrollment_state"),
            enrollment.c.last_error,
            enrollment.c.successor_id,
            enrollment.c.certificate_id,
        )
        .select_from(items.join(enrollment, enrollment.c.id == items.c.enrollment_id))
        .where(items.c.run_id.in_(begun), _outcome_in(UNDER_WAY), enrollment.c.state.not_in(_OPEN_STATES))
        .limit(limit)
    )
    return [
        Ended(
            item=BulkItem(**{name: getattr(row, name) for name in _NAMES} | {"outcome": Outcome(row.outcome)}),
            state=State(row.enrollment_state),
            last_error=row.last_error,
            successor_id=row.successor_id,
            certificate_id=row.certificate_id,
        )
        for row in rows
    ]
