# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk runs and their items, on SQLite and on a real PostgreSQL."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from acme_milter.store import bulk_items, bulk_runs, bulk_tallies
from acme_milter.store.bulk_items import BulkItem, Outcome
from acme_milter.store.bulk_runs import BulkRun, Kind, RunState
from acme_milter.store.database import Database

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
RUN = BulkRun(
    id="first",
    kind=Kind.ISSUE,
    state=RunState.RUNNING,
    description="",
    created_at=NOW,
    counted_from=NOW,
    stopped={},
)


def item(number: int, run_id: str = "first", authority: str = "ca") -> BulkItem:
    address = f"user{number}@org.example"
    return BulkItem(
        run_id=run_id,
        address=address,
        position=number,
        domain="org.example",
        authority=authority,
        principal=address,
        replaces_id=None,
    )


def begun(database: Database, number: int = 3, run: BulkRun = RUN) -> None:
    with database.write() as connection:
        bulk_runs.insert(connection, run)
        bulk_items.add_items(connection, [item(place, run.id) for place in range(number)])


def test_a_run_is_read_as_it_was_written(database: Database) -> None:
    run = replace(RUN, kind=Kind.REPLACE, stopped={"ca": "why"}, revoke_reason=4, ended_at=NOW)
    begun(database, run=run)
    with database.read() as connection:
        assert bulk_runs.get(connection, "first") == run
        assert bulk_runs.get(connection, "other") is None


def test_items_that_are_sent_twice_are_there_once(database: Database) -> None:
    begun(database)
    with database.write() as connection:
        bulk_items.add_items(connection, [item(2), item(3)])
        assert bulk_items.count_items(connection, "first") == 4


def test_an_item_changes_only_from_what_was_read(database: Database) -> None:
    begun(database)
    with database.write() as connection:
        assert bulk_items.set_outcome(connection, item(0), Outcome.OPEN, now=NOW, enrollment_id="one")
        assert not bulk_items.set_outcome(connection, item(0), Outcome.OPEN, now=NOW, enrollment_id="two")
        waiting = bulk_items.waiting(connection, "first", "ca", 10)
    assert [one.position for one in waiting] == [1, 2]


def test_waiting_items_come_in_the_order_of_the_plan_and_by_authority(database: Database) -> None:
    begun(database, 0)
    with database.write() as connection:
        bulk_items.add_items(connection, [item(5), item(1, authority="other"), item(3)])
        assert [one.position for one in bulk_items.waiting(connection, "first", "ca", 10)] == [3, 5]
        assert [one.position for one in bulk_items.waiting(connection, "first", "ca", 1)] == [3]
        assert bulk_items.authorities_with(connection, "first", {Outcome.WAITING}) == {"ca", "other"}


def test_a_mailbox_is_taken_while_its_run_has_not_ended(database: Database) -> None:
    begun(database)
    wanted = ["user0@org.example", "user9@org.example"]
    with database.write() as connection:
        assert bulk_items.taken_by_others(connection, "second", wanted) == {"user0@org.example": "first"}
        assert bulk_items.taken_by_others(connection, "first", wanted) == {}
        bulk_runs.move(connection, "first", to=RunState.CANCELLED, of={RunState.RUNNING}, now=NOW)
        assert bulk_items.taken_by_others(connection, "second", wanted) == {}


def test_replacements_come_first_and_then_the_oldest(database: Database) -> None:
    for number, kind in enumerate([Kind.ISSUE, Kind.ISSUE, Kind.REPLACE]):
        begun(database, 0, replace(RUN, id=str(number), kind=kind, created_at=NOW + timedelta(seconds=number)))
    with database.read() as connection:
        assert [run.id for run in bulk_runs.in_state(connection, RunState.RUNNING)] == ["2", "0", "1"]
        newest = bulk_runs.newest(connection)
    assert newest is not None
    assert newest.id == "2"


def test_a_run_that_goes_on_again_forgets_why_it_stopped(database: Database) -> None:
    begun(database, run=replace(RUN, state=RunState.STOPPED, stopped={"ca": "why"}))
    later = NOW + timedelta(hours=1)
    with database.write() as connection:
        bulk_runs.begin_again(connection, "first", later)
        run = bulk_runs.get(connection, "first")
    assert run == replace(RUN, counted_from=later)


@pytest.mark.parametrize(("cause", "again"), [(None, 2), ("OVER quota", 1), ("100%", 0)])
def test_failed_items_wait_again_all_or_those_of_a_cause(database: Database, cause: str | None, again: int) -> None:
    begun(database)
    with database.write() as connection:
        for number, reason in enumerate(["mailbox over quota", "1000 others"]):
            bulk_items.set_outcome(connection, item(number), Outcome.FAILED, now=NOW, reason=reason)
        assert bulk_items.wait_again(connection, "first", cause=cause, limit=500) == again
        assert bulk_tallies.outcomes(connection, "first").get(Outcome.FAILED, 0) == 2 - again


def test_a_run_that_never_began_leaves_nothing(database: Database) -> None:
    begun(database)
    with database.write() as connection:
        bulk_runs.forget(connection, "first")
        assert bulk_items.count_items(connection, "first") == 0
        assert bulk_runs.get(connection, "first") is None
