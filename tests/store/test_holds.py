# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds: what is released goes through once, and only as much as was shown."""

from datetime import UTC, datetime, timedelta

from acme_milter.store import holds
from acme_milter.store.database import Database

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
NAME = "leavers:hr"


def ask(database: Database, size: int = 0, reason: str = "30 are gone", now: datetime = NOW) -> bool:
    with database.write() as connection:
        return holds.ask(connection, NAME, reason, now, size)


def release(database: Database) -> bool:
    with database.write() as connection:
        return holds.release(connection, NAME, NOW)


def waiting(database: Database) -> list[holds.Hold]:
    with database.read() as connection:
        return holds.waiting(connection)


def test_a_hold_stands_since_it_was_first_asked_for_with_its_latest_reason(database: Database) -> None:
    assert not ask(database, 30)
    assert not ask(database, 31, "31 are gone", NOW + timedelta(hours=1))
    (hold,) = waiting(database)
    assert (hold.since, hold.reason, hold.size, hold.released_at) == (NOW, "31 are gone", 31, None)


def test_a_released_hold_lets_one_thing_through(database: Database) -> None:
    ask(database, 30)
    assert release(database)
    assert [hold.released_at for hold in waiting(database)] == [NOW]
    assert ask(database, 33)
    assert waiting(database) == []
    assert not ask(database, 30)


def test_a_release_is_for_what_was_shown(database: Database) -> None:
    ask(database, 30)
    release(database)
    assert not ask(database, 34, "34 are gone")
    assert [(hold.size, hold.released_at) for hold in waiting(database)] == [(34, None)]


def test_a_hold_that_nobody_asked_for_cannot_be_released(database: Database) -> None:
    assert not release(database)
