# SPDX-License-Identifier: GPL-3.0-or-later
"""A feeder and the calls of `bulk` on a store of twenty mailboxes, without a CA."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from acme_milter.config.loader import load_text
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import Cause, Enrollment, State
from acme_milter.enrollment.state_machine import Failed, advance
from acme_milter.mailboxes.record import members
from acme_milter.store import budgets, bulk_runs, enrollments
from acme_milter.store.bulk_items import Outcome
from acme_milter.store.bulk_runs import RunState
from acme_milter.store.database import Database
from acme_milter.store.plan_facts import active_of
from acme_milter.store.schema import bulk_item, enrollment, mailbox
from acme_milter.worker.bulk_calls import BulkCalls
from acme_milter.worker.bulk_feeder import BulkFeeder

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
DOMAINS = ("org.example", "branch.example")


class TickingClock:
    """Goes on by a millisecond whenever it is looked at, and further when told to."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time


class Desk:
    """A feeder and the calls of `bulk`, on a store; ``places`` are what each authority has room for."""

    def __init__(self, database: Database, config: Callable[[], Config], clock: Callable[[], datetime]) -> None:
        self.database = database
        self.config = config
        self.places = {"ca": 3, "other": 3}
        self.now = clock
        self.feeder = BulkFeeder(
            config=config, database=database, clock=clock, places=self._left, work_is_due=lambda: None
        )
        self._calls = BulkCalls(config=config, database=database, clock=clock, feed_soon=lambda: None).calls

    def _left(self, connection: sa.Connection, now: datetime) -> Mapping[str, int]:
        begun = budgets.beginning(connection, now)
        return {
            name: number - budgets.moving(connection, name) - sum(begun.get(name, {}).values())
            for name, number in self.places.items()
        }

    def call(self, name: str, **arguments: object) -> dict[str, object]:
        return self._calls[f"bulk-{name}"](arguments)

    def open(self, addresses: Sequence[str], *, run: str = "run-1", **more: Any) -> dict[str, object]:
        """Send a plan for these mailboxes; ``replaces`` has their active certificates replaced."""
        replaces = more.pop("replaces", False)
        items = []
        with self.database.read() as connection:
            held = active_of(connection, list(addresses))
        for address in addresses:
            member = self.config().member(address)
            policy = self.config().policy_for(address)
            authority = more.get("authority") or (policy.authorities[0] if policy else "ca")
            principal = member.principal if member else address
            items.append([address, authority, principal, held[address][0].certificate_id if replaces else None])
        return self.call("open", **{"run": run, "kind": "issue", "items": items, "start": 0, "last": True, **more})

    def feed(self) -> dict[str, str]:
        """One round; the outcomes by address."""
        self.feeder.feed()
        return self.outcomes()

    def outcomes(self, run: str = "run-1") -> dict[str, str]:
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(bulk_item.c.address, bulk_item.c.outcome).where(bulk_item.c.run_id == run)
            )
            return {row.address: row.outcome for row in rows}

    def reason(self, address: str, run: str = "run-1") -> str | None:
        with self.database.read() as connection:
            found: str | None = connection.execute(
                sa.select(bulk_item.c.reason).where(bulk_item.c.run_id == run, bulk_item.c.address == address)
            ).scalar_one()
        return found

    def state(self, run: str = "run-1") -> RunState | None:
        with self.database.read() as connection:
            found = bulk_runs.get(connection, run)
        return None if found is None else found.state

    def advance(self, by: timedelta) -> None:
        assert isinstance(self.now, TickingClock)
        self.now.time += by

    def enrollment_of(self, address: str) -> Enrollment:
        """The open one, or the newest."""
        with self.database.read() as connection:
            found = enrollments.of_mailbox(connection, address)
        return next((one for one in found if one.is_open), found[0])

    def move(self, address: str, state: State) -> None:
        """As if the order had come to this."""
        with self.database.write() as connection:
            connection.execute(
                enrollment.update()
                .where(enrollment.c.address == address, enrollment.c.id == self.enrollment_of(address).id)
                .values(state=state.value, state_since=self.now(), next_attempt_at=None)
            )

    def fail(self, address: str, error: str = "no", *, again: bool = False) -> None:
        """The open order fails, with or without a successor."""
        before = self.enrollment_of(address)
        with self.database.write() as connection:
            successor = "next" + before.id if again else None
            enrollments.save(connection, advance(before, Failed(last_error=error, successor_id=successor), self.now()))
            if successor is not None:
                enrollments.open_new(
                    connection,
                    enrollment_id=successor,
                    address=address,
                    authority=before.authority,
                    now=self.now(),
                    cause=Cause.BULK,
                    bulk_run_id=before.bulk_run_id,
                )


ORG = [f"user{number}@org.example" for number in range(2, 20, 2)]
BRANCH = [f"user{number}@branch.example" for number in range(3, 20, 2)]


def configured(directory: Path, database: Database, *, started: bool = True, **branch: object) -> Config:
    """As the worker has it: until it has ``started`` it knows what the file says only."""
    authority = {"directory": "https://ca.example/dir", "contact": ["pm@org.example"], "agree_tos": True}
    (directory / "staff.csv").touch()
    document = {
        "version": 1,
        "authorities": {name: {**authority, "limits": {"failed_per_hour": 3}} for name in ("ca", "other")},
        "sources": {"staff": {"type": "csv", "path": str(directory / "staff.csv")}},
        "defaults": {"authorities": ["ca"]},
        "domains": {
            "org.example": {"source": "staff"},
            "branch.example": {"source": "staff", "authorities": ["other"], **branch},
        },
    }
    config = load_text(yaml.safe_dump(document), directory / "acme-milter.yaml")
    if not started:
        return config
    with database.read() as connection:
        return config.with_members(members(connection, config))


def count(outcomes: Mapping[str, str], outcome: Outcome) -> int:
    return sum(found == outcome.value for found in outcomes.values())


def set_mailbox(desk: Desk, address: str, **values: object) -> None:
    with desk.database.write() as connection:
        connection.execute(mailbox.update().where(mailbox.c.address == address).values(values))
