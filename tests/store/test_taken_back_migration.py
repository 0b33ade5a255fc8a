# SPDX-License-Identifier: GPL-3.0-or-later
"""What a store knew of its deliveries before anything could be taken back: what may be there is remembered as such."""

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config

import acme_milter.store
from acme_milter.store.database import Database

MIGRATIONS = Path(acme_milter.store.__file__).parent / "migrations"
INSERT = """
INSERT INTO delivery
    (id, certificate_id, address, target, kind, asked_at, attempts, next_attempt_at, done_at, outcome, last_error)
VALUES (?, 'c', 'a@org.example', ?, 'hook', 1000000, 0, ?, ?, ?, ?)
"""
ROWS = {
    "done": (None, 2_000_000, "there", None),
    "ended": (None, 2_000_000, None, "superseded"),
    "retried": (1_000_000, None, None, None),
    "failed": (None, None, None, "no such user"),
}


def test_of_what_was_delivered_before_it_is_known_what_may_be_there(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    database = Database(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
    with closing(sqlite3.connect(path)) as store, store:
        for name, values in ROWS.items():
            store.execute(INSERT, (name, name, *values))
    database.upgrade()
    database.close()
    with closing(sqlite3.connect(path)) as store:
        query = "SELECT id, begun_at, delivered_at, withdraw_why FROM delivery"
        found = {name: tuple(rest) for name, *rest in store.execute(query)}
    assert found == {
        "done": (2_000_000, 2_000_000, None),
        "ended": (None, None, None),
        "retried": (1_000_000, None, None),
        "failed": (1_000_000, None, None),
    }
