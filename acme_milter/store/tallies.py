# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts for a screen: each is answered from an index, however many mailboxes there are and years they have behind.

Sets of mailboxes come as one long string: fetching 100 000 rows would take several times as long as finding them.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import OPEN_STATES, State
from acme_milter.store.schema import (
    bulk_item,
    bulk_run,
    certificate,
    challenge_mail,
    enrollment,
    mailbox,
    outbox,
    renewal,
    revocation,
)

# Written out, not bound: a partial index serves only a condition that can be seen to be its own.
ACTIVE = sa.text(f"enrollment.state = '{State.ACTIVE}'")
_ONE_PURPOSE = sa.text(f"enrollment.state = '{State.ACTIVE}' AND enrollment.usage <> '{KeyUsageKind.DUAL}'")
OPEN = sa.text("enrollment.state IN ({})".format(", ".join(f"'{state}'" for state in sorted(OPEN_STATES))))


def with_certificate(connection: sa.Connection, now: datetime) -> set[str]:
    """Addresses with a valid certificate in use, or with two where it takes two to sign and be written to.

    What another person had there is out of use (worker.leaving).
    """
    found = _one_string(connection, enrollment.c.address, ACTIVE, enrollment.c.not_after > now)
    return found - _with_one_of_two(connection, now)


def _with_one_of_two(connection: sa.Connection, now: datetime) -> set[str]:
    """By the index of those that do one thing only: nothing to look at where a certificate does both."""
    whole = enrollment.alias("whole")
    halves = (
        sa.select(enrollment.c.address)
        .where(_ONE_PURPOSE, enrollment.c.not_after > now)
        .where(
            ~sa.exists().where(
                whole.c.address == enrollment.c.address,
                sa.text(f"whole.state = '{State.ACTIVE}'"),
                whole.c.usage == KeyUsageKind.DUAL.value,
                whole.c.not_after > now,
            )
        )
        .group_by(enrollment.c.address)
        .having(sa.func.count(sa.distinct(enrollment.c.usage)) == 1)
    )
    return set(connection.execute(halves).scalars())


def with_open_enrollment(connection: sa.Connection) -> set[str]:
    """Addresses for which something is under way."""
    return _one_string(connection, enrollment.c.address, OPEN)


def with_failure(connection: sa.Connection, authorities: Sequence[str]) -> set[str]:
    """Addresses with an order at one of the ``authorities`` that failed and was not ordered again by itself.

    A later success is not looked at: take away those who have a certificate.
    """
    failed = enrollment.c.state == State.FAILED.value
    return _one_string(
        connection,
        enrollment.c.address,
        enrollment.c.authority.in_(authorities),
        failed,
        enrollment.c.successor_id.is_(None),
    )


def missing(connection: sa.Connection) -> set[str]:
    """Managed addresses that their source does not have any more."""
    # Not "is not null": SQLite would walk the whole table.
    since_ever = mailbox.c.missing_since > datetime(1970, 1, 1, tzinfo=UTC)
    return _one_string(connection, mailbox.c.address, since_ever, mailbox.c.left_at.is_(None))


def _one_string(
    connection: sa.Connection, what: sa.ColumnElement[str], *conditions: sa.ColumnElement[bool] | sa.TextClause
) -> set[str]:
    joined: str | None = connection.execute(
        sa.select(sa.func.aggregate_strings(what, "\n")).where(*conditions)
    ).scalar_one()
    return set() if joined is None else set(joined.split("\n"))


def open_states(connection: sa.Connection) -> dict[State, int]:
    """Enrollments under way, by state."""
    rows = connection.execute(
        sa.select(enrollment.c.state, sa.func.count().label("number")).where(OPEN).group_by(enrollment.c.state)
    )
    return {State(row.state): row.number for row in rows}


def since(connection: sa.Connection, start: datetime, authorities: Sequence[str]) -> dict[str, int]:
    """The funnel from ``start`` on: orders begun, challenge mails let in, replies handed over, issued, failed."""
    return {
        "ordered": sum(ordered(connection, start, authorities).values()),
        "challenge_mails": _count(connection, challenge_mail.c.accepted_at >= start),
        "replies": _count(connection, outbox.c.sent_at >= start),
        "issued": _count(connection, certificate.c.stored_at >= start),
        "failed": sum(failed(connection, start, authorities).values()),
    }


def ordered(connection: sa.Connection, start: datetime, authorities: Sequence[str]) -> dict[str, int]:
    """Orders begun from ``start`` on, by authority."""
    return _by_authority(connection, authorities, enrollment.c.began_ordering_at >= start)


def failed(connection: sa.Connection, start: datetime, authorities: Sequence[str]) -> dict[str, int]:
    """Orders that failed from ``start`` on, by authority."""
    return _by_authority(
        connection, authorities, enrollment.c.state == State.FAILED.value, enrollment.c.state_since >= start
    )


def _by_authority(
    connection: sa.Connection, authorities: Sequence[str], *conditions: sa.ColumnElement[bool]
) -> dict[str, int]:
    found = connection.execute(
        sa.select(enrollment.c.authority, sa.func.count().label("number"))
        .where(enrollment.c.authority.in_(authorities), *conditions)
        .group_by(enrollment.c.authority)
    )
    return dict.fromkeys(authorities, 0) | {row.authority: row.number for row in found}


def expiring(connection: sa.Connection, after: datetime, until: datetime) -> int:
    """Active certificates whose end lies in this time."""
    return _count(connection, ACTIVE, enrollment.c.not_after > after, enrollment.c.not_after <= until)


def renewals_due(connection: sa.Connection, until: datetime, authorities: Sequence[str]) -> int:
    """Renewals planned for a time up to ``until`` that have not been opened yet."""
    mine = renewal.c.authority.in_(authorities)
    return _count(connection, mine, renewal.c.due_at <= until, renewal.c.opened_at.is_(None))


def revocations(connection: sa.Connection) -> tuple[int, int]:
    """(still to be done, given up)."""
    return (
        _count(connection, revocation.c.next_attempt_at.is_not(None)),
        _count(connection, revocation.c.next_attempt_at.is_(None), revocation.c.done_at.is_(None)),
    )


def _count(connection: sa.Connection, *conditions: sa.ColumnElement[bool] | sa.TextClause) -> int:
    number: int = connection.execute(sa.select(sa.func.count()).where(*conditions)).scalar_one()
    return number


def unended_runs(connection: sa.Connection) -> list[Mapping[str, object]]:
    """Bulk runs that have not ended, each with ``outcomes``: how many of its mailboxes are how far."""
    found: list[Mapping[str, object]] = []
    for row in connection.execute(
        sa.select(bulk_run).where(bulk_run.c.ended_at.is_(None)).order_by(bulk_run.c.created_at)
    ):
        outcomes = connection.execute(
            sa.select(bulk_item.c.outcome, sa.func.count().label("number"))
            .where(bulk_item.c.run_id == row.id)
            .group_by(bulk_item.c.outcome)
        )
        found.append({**row._asdict(), "outcomes": {each.outcome: each.number for each in outcomes}})
    return found
