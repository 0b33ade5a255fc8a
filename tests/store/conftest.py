# SPDX-License-Identifier: GPL-3.0-or-later
"""One store for each test, in each kind of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.lab.postgresql import PostgresLab
from acme_milter.store.database import Database
from tests.fresh_store import open_store


@pytest.fixture(scope="session")
def postgresql_with_schema(postgresql: PostgresLab) -> str:
    """The name of a database that the migrations were run in once, to be copied."""
    url = postgresql.make_database()
    database = Database(url)
    database.upgrade()
    database.close()
    return url.rpartition("/")[2]


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield database
    database.close()


@pytest.fixture
def copied_url(postgresql: PostgresLab, postgresql_with_schema: str) -> Iterator[str]:
    """A PostgreSQL database that has the schema already."""
    url = postgresql.make_database(template=postgresql_with_schema)
    yield url
    postgresql.drop_database(url)


@pytest.fixture
def on_postgresql(copied_url: str) -> Iterator[Database]:
    database = Database(copied_url)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "on_postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """A store with its schema: SQLite's file, and a database of PostgreSQL."""
    found: Database = request.getfixturevalue(request.param)
    return found
