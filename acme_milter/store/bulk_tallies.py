# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts of a bulk run, and its report row by row."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import State
from acme_milter.store.bulk_items import UNDER_WAY, UNENDED_OUTCOMES, Outcome
from acme_milter.store.first_mails import first_challenge, first_reply
from acme_milter.store.schema import bulk_item as items
from acme_milter.store.schema import certificate, enrollment

AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class DomainTally:
    """``active_lately``: how many became active since the moment that was asked for."""

    domain: str
    outcomes: Mapping[Outcome, int]
    active_lately: int


@dataclass(frozen=True, slots=True)
class RunTally:
    """``domains`` in the order of the plan; ``left``: items without an end, by every authority of the run."""

    domains: tuple[DomainTally, ...]
    left: Mapping[str, int]


def of_run(connection: sa.Connection, run_id: str, since: datetime) -> RunTally:
    """The whole run, in one look at its items."""
    lately = sa.and_(items.c.outcome == Outcome.ACTIVE.value, items.c.ended_at > since)
    rows = connection.execute(
        sa.select(
            items.c.domain,
            items.c.authority,
            items.c.outcome,
            sa.func.count().label("number"),
            sa.func.sum(sa.case((lately, 1), else_=0)).label("lately"),
            sa.func.min(items.c.position).label("first"),
        )
        .where(items.c.run_id == run_id)
        .group_by(items.c.domain, items.c.authority, items.c.outcome)
    )
    numbers: dict[str, Counter[Outcome]] = {}
    active: Counter[str] = Counter()
    left: Counter[str] = Counter()
    first: dict[str, int] = {}
    for row in rows:
        outcome = Outcome(row.outcome)
        numbers.setdefault(row.domain, Counter())[outcome] += row.number
        active[row.domain] += int(row.lately)
        left[row.authority] += row.number if outcome in UNENDED_OUTCOMES else 0
        first[row.domain] = min(first.get(row.domain, row.first), row.first)
    order = sorted(numbers, key=lambda domain: first[domain])
    return RunTally(tuple(DomainTally(domain, numbers[domain], active[domain]) for domain in order), left)


def outcomes(connection: sa.Connection, run_id: str) -> dict[Outcome, int]:
    """Items by outcome."""
    rows = connection.execute(
        sa.select(items.c.outcome, sa.func.count().label("number"))
        .where(items.c.run_id == run_id)
        .group_by(items.c.outcome)
    )
    return {Outcome(row.outcome): row.number for row in rows}


def some_left(
    connection: sa.Connection, run_id: str, authority: str, limit: int
) -> list[tuple[str, str | None, str | None]]:
    """(address, replaces_id, also_replaces_id) of items without an end, by address: of every domain some."""
    rows = connection.execute(
        sa.select(items.c.address, items.c.replaces_id, items.c.also_replaces_id)
        .where(
            items.c.run_id == run_id,
            items.c.authority == authority,
            items.c.outcome.in_([outcome.value for outcome in UNENDED_OUTCOMES]),
        )
        .order_by(items.c.address)
        .limit(limit)
    )
    return [(row.address, row.replaces_id, row.also_replaces_id) for row in rows]


def stages(connection: sa.Connection, run_id: str) -> dict[State, int]:
    """Where the enrollments stand that are under way."""
    rows = connection.execute(
        sa.select(enrollment.c.state, sa.func.count().label("number"))
        .select_from(items.join(enrollment, enrollment.c.id == items.c.enrollment_id))
        .where(items.c.run_id == run_id, items.c.outcome.in_([outcome.value for outcome in UNDER_WAY]))
        .group_by(enrollment.c.state)
    )
    return {State(row.state): row.number for row in rows}


def reasons(connection: sa.Connection, run_id: str, outcome: Outcome) -> list[tuple[str, int]]:
    """(reason, number) of the items with this outcome."""
    rows = connection.execute(
        sa.select(items.c.reason, sa.func.count().label("number"))
        .where(items.c.run_id == run_id, items.c.outcome == outcome.value, items.c.reason.is_not(None))
        .group_by(items.c.reason)
    )
    return [(row.reason, row.number) for row in rows]


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One item with what came of it; the queue ids are of its first challenge mail and first reply."""

    address: str
    domain: str
    authority: str
    outcome: str
    reason: str | None
    serial: str | None
    not_after: datetime | None
    challenge_queue_id: str | None
    reply_queue_id: str | None


def report(connection: sa.Connection, run_id: str) -> Iterator[ReportRow]:
    """Every item in the order of the plan, read as it is consumed."""
    rows = connection.execute(
        sa.select(
            items.c.address,
            items.c.domain,
            items.c.authority,
            items.c.outcome,
            items.c.reason,
            certificate.c.serial,
            certificate.c.not_after,
            first_challenge(items.c.enrollment_id),
            first_reply(items.c.enrollment_id),
        )
        .select_from(
            items.outerjoin(enrollment, enrollment.c.id == items.c.enrollment_id).outerjoin(
                certificate, certificate.c.id == enrollment.c.certificate_id
            )
        )
        .where(items.c.run_id == run_id)
        .order_by(items.c.position)
        .execution_options(yield_per=AT_ONCE)
    )
    for row in rows:
        yield ReportRow(*row)
