# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of years looks at between two steps of its clock: what is under way, and what is due next."""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

EPOCH = datetime.fromtimestamp(0, UTC)
MICROSECOND = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
_BACKGROUND = "('joiner', 'renewal')"
_OPEN = "('planned', 'ordering', 'awaiting-mail', 'replying', 'replied', 'validating', 'finalizing', 'issued')"


@dataclass(frozen=True, slots=True)
class Motion:
    """`planned` may begin, `starting` have begun and no order at the authority yet, `moving` have one; none of them
    waits for time to pass. `revocations` have been due for an hour and more.

    `state` differs whenever something has moved; `oldest` is when the first of the moving ones began.
    """

    planned: int
    starting: int
    moving: int
    revocations: int
    oldest: datetime | None
    state: tuple[tuple[str, int], ...]

    @property
    def is_any(self) -> bool:
        return bool(self.planned or self.starting or self.moving or self.revocations)


@dataclass(frozen=True, slots=True)
class Progress:
    """Totals so far."""

    orders: int
    certificates: int
    open: int


class StoreWatch:
    """Reads the worker's SQLite file by a connection of its own; for one thread.

    `pace` and `bulk_pace` are what the configuration allows an hour, of the background and of all.
    """

    def __init__(self, store: Path, *, pace: int, bulk_pace: int) -> None:
        self._pace, self._bulk_pace = pace, bulk_pace
        self._connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True, isolation_level=None)

    def close(self) -> None:
        self._connection.close()

    def motion(self, now: datetime) -> Motion:
        """What the worker has in its hands. Who waits for a mail or for Postfix waits for no clock; who is planned
        and has no place in this hour waits for the next one.
        """
        microseconds = (now - EPOCH) // MICROSECOND
        rows = self._connection.execute(
            "SELECT id, version, began_ordering_at, order_url IS NULL FROM enrollment"  # noqa: S608 -- constants
            f" WHERE state IN {_OPEN} AND (next_attempt_at <= ? OR state IN ('awaiting-mail', 'replying'))"
            f" AND NOT (state = 'planned' AND (NOT ? OR cause IN {_BACKGROUND} AND NOT ?))",
            (microseconds, *self._room(microseconds)),
        ).fetchall()
        planned = sum(began is None for _, _, began, _ in rows)
        began = [began for _, _, began, has_no_order in rows if not has_no_order]
        oldest = EPOCH + min(began) * MICROSECOND if began else None
        revocations = self._overdue_revocations(microseconds)
        state = (*((row[0], row[1]) for row in rows), ("revocations", revocations))
        return Motion(planned, len(rows) - planned - len(began), len(began), revocations, oldest, state)

    def _overdue_revocations(self, now: int) -> int:
        """They go out one after the other, and take as long as ever while hours pass."""
        (number,) = self._connection.execute(
            "SELECT count(*) FROM revocation WHERE next_attempt_at <= ?", (now - HOUR // MICROSECOND,)
        ).fetchone()
        return int(number)

    def _room(self, now: int) -> tuple[bool, bool]:
        """Whether any order has a place in this hour, and whether one of the background has."""
        number, background = self._connection.execute(
            f"SELECT count(*), total(cause IN {_BACKGROUND}) FROM enrollment"  # noqa: S608 -- a constant
            " WHERE authority = 'testca' AND counted_at > ?",
            (now - HOUR // MICROSECOND,),
        ).fetchone()
        return number < self._bulk_pace, background < self._pace

    def next_due(self) -> datetime | None:
        """The next renewal or the next attempt of what is open, as planned now."""
        (found,) = self._connection.execute(
            "SELECT min(at) FROM (SELECT min(due_at) AS at FROM renewal WHERE opened_at IS NULL"  # noqa: S608 -- a constant
            f" UNION ALL SELECT min(next_attempt_at) FROM enrollment WHERE state IN {_OPEN}"
            " UNION ALL SELECT min(next_attempt_at) FROM revocation)"
        ).fetchone()
        return None if found is None else EPOCH + found * MICROSECOND

    def progress(self) -> Progress:
        """Totals, for whoever watches the run."""
        orders, open_ones = self._connection.execute(
            f"SELECT count(began_ordering_at), total(state IN {_OPEN}) FROM enrollment"  # noqa: S608 -- a constant
        ).fetchone()
        (certificates,) = self._connection.execute("SELECT count(*) FROM certificate").fetchone()
        return Progress(orders, certificates, int(open_ones))

    def members(self) -> int:
        """Mailboxes that a source has brought and that have not left."""
        return int(self._connection.execute("SELECT count(*) FROM mailbox WHERE left_at IS NULL").fetchone()[0])

    def bulk_is_open(self) -> bool:
        """Whether a bulk run has not come to its end."""
        (number,) = self._connection.execute("SELECT count(*) FROM bulk_run WHERE state <> 'done'").fetchone()
        return bool(number)

    def holds(self) -> list[str]:
        """What a guard has stopped."""
        return [f"{name}: {reason}" for name, reason in self._connection.execute("SELECT name, reason FROM hold")]
