# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of authorities as it is kept: the same for every host, nothing for one that is well."""

from datetime import UTC, datetime, timedelta

import pytest

from acme_milter.enrollment.model import State
from acme_milter.store import authority_health, enrollments, movable
from acme_milter.store.authority_health import Health
from acme_milter.store.database import Database
from acme_milter.store.schema import enrollment

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
BROKEN = Health(
    authority="ca",
    failures=5,
    failed_at=NOW,
    last_error="ca.example: Connection refused",
    open_since=NOW,
    probe_at=NOW + timedelta(minutes=1),
    openings=1,
)


def put(database: Database, *rows: Health) -> None:
    with database.write() as connection:
        for row in rows:
            authority_health.put(connection, row)


def known(database: Database) -> dict[str, Health]:
    with database.read() as connection:
        return authority_health.of_all(connection)


def test_what_is_written_is_read_by_every_host(database: Database) -> None:
    put(database, BROKEN, Health(authority="other", failures=1, failed_at=NOW, last_error="timeout"))
    other_host = Database(database.url)
    assert known(other_host)["ca"] == BROKEN
    assert known(other_host)["other"].failures == 1
    other_host.close()


def test_one_that_is_well_has_no_row(database: Database) -> None:
    put(database, BROKEN)
    put(database, Health(authority="ca"))
    assert known(database) == {}
    with database.write() as connection:
        assert authority_health.get(connection, "ca") == Health(authority="ca")
        assert not authority_health.forget(connection, "ca")


def test_rows_of_authorities_that_are_gone_are_forgotten(database: Database) -> None:
    put(database, BROKEN)
    with database.write() as connection:
        authority_health.forget_others(connection, ["other"])
    assert known(database) == {}


@pytest.mark.parametrize(
    ("state", "changes", "movable_still"),
    [
        (State.PLANNED, {}, True),
        (State.ORDERING, {}, True),
        (State.ORDERING, {"order_url": "https://ca.example/order/1"}, False),
        (State.AWAITING_MAIL, {"order_url": "https://ca.example/order/1"}, False),
        (State.PLANNED, {"lease_owner": "host#1", "lease_until": NOW + timedelta(minutes=1)}, False),
        (State.PLANNED, {"lease_owner": "host#1", "lease_until": NOW - timedelta(minutes=1)}, True),
        (State.FAILED, {}, False),
    ],
    ids=["planned", "ordering", "placed", "awaiting-mail", "leased", "lease-over", "failed"],
)
def test_only_what_has_no_order_and_nobody_works_on_can_be_moved(
    sqlite: Database, state: State, changes: dict[str, object], movable_still: bool
) -> None:
    with sqlite.write() as connection:
        opened = enrollments.open_new(connection, address="alice@org.example", authority="ca", now=NOW)
        connection.execute(enrollment.update().values(state=state.value, **changes))
        found = movable.page(connection, "ca", after="", now=NOW, limit=10)
        assert [one.id for one in found] == ([opened.id] if movable_still else [])
        assert (movable.again(connection, opened.id, NOW) is not None) is movable_still
        assert movable.page(connection, "other", after="", now=NOW, limit=10) == []


def test_pages_of_what_can_be_moved_follow_each_other_without_a_gap(sqlite: Database) -> None:
    with sqlite.write() as connection:
        ids = {
            enrollments.open_new(connection, address=f"user{number}@org.example", authority="ca", now=NOW).id
            for number in range(7)
        }
        seen: list[str] = []
        while page := movable.page(connection, "ca", after=seen[-1] if seen else "", now=NOW, limit=3):
            seen += [one.id for one in page]
    assert seen == sorted(ids)
