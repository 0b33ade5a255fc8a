# SPDX-License-Identifier: GPL-3.0-or-later
"""New stores for tests: the migrations make the first one of a process, and the others begin as its copies."""

import functools
import tempfile
from pathlib import Path

import sqlalchemy as sa

from acme_milter.store.database import Database


def open_store(url: str) -> Database:
    """An SQLite store with its schema, as a worker opens it, made when it is not there; close it at the end."""
    path = Path(sa.make_url(url).database or "")
    if not path.exists():
        path.write_bytes(_as_the_migrations_make_it())
    database = Database(url)
    database.upgrade()
    return database


@functools.cache
def _as_the_migrations_make_it() -> bytes:
    with tempfile.TemporaryDirectory(prefix="store-") as directory:
        path = Path(directory, "store.db")
        database = Database(f"sqlite:///{path}")
        database.upgrade()
        database.close()
        assert [file.name for file in path.parent.iterdir()] == [path.name], "no journal beside it"
        return path.read_bytes()
