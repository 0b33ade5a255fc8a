# SPDX-License-Identifier: GPL-3.0-or-later
"""What several workers on one PostgreSQL rely on, and what is said when it cannot be used."""

import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from acme_milter.lab.postgresql import PASSWORD, PostgresLab
from acme_milter.lab.processes import free_port
from acme_milter.store import audit, enrollments
from acme_milter.store.database import Database, StoreUnusable, in_words
from acme_milter.store.schema import metadata

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
SOON = NOW + timedelta(minutes=5)
ADDRESS = "alice@org.example"
HOSTS = 4


@pytest.fixture
def empty_url(postgresql: PostgresLab) -> Iterator[str]:
    url = postgresql.make_database()
    yield url
    postgresql.drop_database(url)


@pytest.fixture
def hosts(copied_url: str) -> Iterator[list[Database]]:
    """The same store, as several machines have it."""
    with ExitStack() as stack:
        databases = [Database(copied_url) for _ in range(HOSTS)]
        for database in databases:
            stack.callback(database.close)
        yield databases


def at_once(databases: list[Database], work: Callable[[Database], object]) -> list[object]:
    """What `work` returns or raises on each, begun together."""
    barrier = threading.Barrier(len(databases))

    def begin(database: Database) -> object:
        barrier.wait()
        try:
            return work(database)
        except Exception as error:  # noqa: BLE001 -- the result of it
            return error

    with ThreadPoolExecutor(len(databases)) as threads:
        return list(threads.map(begin, databases))


def open_one(database: Database) -> str:
    with database.write() as connection:
        return enrollments.open_new(connection, address=ADDRESS, authority="ca", now=NOW).id


def test_workers_that_start_at_once_make_the_schema_once(empty_url: str) -> None:
    databases = [Database(empty_url) for _ in range(HOSTS)]
    assert at_once(databases, Database.upgrade) == [None] * HOSTS
    with databases[0].read() as connection:
        assert set(sa.inspect(connection).get_table_names()) == {*metadata.tables, "alembic_version"}
    for database in databases:
        database.close()


def test_of_hosts_that_open_the_same_enrollment_one_does(hosts: list[Database]) -> None:
    results = at_once(hosts, open_one)
    assert sorted(type(result).__name__ for result in results) == ["AlreadyOpen"] * (HOSTS - 1) + ["str"]


def test_of_hosts_that_claim_the_same_enrollment_one_has_it(hosts: list[Database]) -> None:
    opened = open_one(hosts[0])

    def claim(database: Database) -> bool:
        with database.write() as connection:
            owner = str(id(database))
            return enrollments.claim(connection, opened, owner=owner, now=NOW, until=SOON) is not None

    assert sorted(map(str, at_once(hosts, claim))) == ["False"] * (HOSTS - 1) + ["True"]


def test_audit_records_of_all_hosts_have_numbers_of_their_own(hosts: list[Database]) -> None:
    def record(database: Database) -> None:
        with database.write() as connection:
            audit.record(connection, "x", at=NOW)
            audit.record(connection, "y", at=NOW)

    assert at_once(hosts, record) == [None] * HOSTS
    with hosts[0].read() as connection:
        numbers = connection.execute(sa.select(metadata.tables["audit"].c.number)).scalars().all()
    assert len(set(numbers)) == 2 * HOSTS


def test_a_writer_has_the_store_for_itself_and_the_next_one_gives_up_in_time(
    copied_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acme_milter.store.database.BUSY_TIMEOUT_MS", 50)
    first, second = Database(copied_url), Database(copied_url)
    with first.write():
        with pytest.raises(sa.exc.OperationalError) as caught, second.write():
            pass
        assert "lock timeout" in str(in_words(caught.value))
        with second.read() as reader:  # who only reads never waits
            assert enrollments.of_mailbox(reader, ADDRESS) == []
    open_one(second)
    first.close()
    second.close()


def test_a_reader_sees_one_state_and_changes_nothing(hosts: list[Database]) -> None:
    with hosts[0].read() as reader:
        assert enrollments.of_mailbox(reader, ADDRESS) == []
        open_one(hosts[1])
        assert enrollments.of_mailbox(reader, ADDRESS) == []
        with pytest.raises(sa.exc.DBAPIError, match="read-only"):
            audit.record(reader, "x", at=NOW)
    with hosts[0].read() as reader:
        assert len(enrollments.of_mailbox(reader, ADDRESS)) == 1


def test_a_lost_connection_undoes_its_transaction_is_named_and_the_next_one_works(
    postgresql: PostgresLab, on_postgresql: Database
) -> None:
    def break_half_way() -> None:
        with on_postgresql.write() as connection:
            enrollments.open_new(connection, address=ADDRESS, authority="ca", now=NOW)
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            postgresql.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
            audit.record(connection, "x", at=NOW)

    with pytest.raises(sa.exc.OperationalError) as caught:
        break_half_way()
    said = in_words(caught.value)
    assert isinstance(said, StoreUnusable)
    assert "terminating connection" in str(said)
    open_one(on_postgresql)


def test_a_server_that_went_away_and_came_back_is_used_again(
    postgresql: PostgresLab, on_postgresql: Database, copied_url: str
) -> None:
    with on_postgresql.read():
        pass
    everybody = """
        SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """
    postgresql.execute(everybody, copied_url)
    open_one(on_postgresql)


def test_what_is_committed_is_durable_whatever_the_server_s_default(postgresql: PostgresLab, copied_url: str) -> None:
    for set_to, expected in (("off", "on"), ("remote_apply", "remote_apply")):
        postgresql.execute(f"ALTER DATABASE {copied_url.rpartition('/')[2]} SET synchronous_commit = {set_to}")
        database = Database(copied_url)
        with database.write() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == expected
        database.close()


@pytest.mark.parametrize("call", [Database.upgrade, Database.require_schema])
def test_a_server_that_is_away_or_refuses_is_named_without_the_password(
    postgresql: PostgresLab, call: Callable[[Database], None]
) -> None:
    wrong = "wr0ng-passw0rd"
    absent = postgresql.url().replace(f":{postgresql.port}/", f":{free_port()}/")
    cases = {
        postgresql.url(password=wrong): "authentication failed",
        postgresql.url("nowhere"): "does not exist",
        absent: "refused",
        postgresql.url().replace(f":{PASSWORD}@", "@") + f"?password={wrong}": "authentication failed",
    }
    for url, reason in cases.items():
        database = Database(url)
        with pytest.raises(StoreUnusable, match=reason) as caught:
            call(database)
        shown = "".join(traceback.format_exception(caught.value))
        assert "127.0.0.1" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert wrong not in shown
        assert PASSWORD not in shown
        database.close()


def test_a_database_without_a_schema_is_told_from_one_with(empty_url: str, copied_url: str) -> None:
    plain = Database(empty_url.replace("+psycopg", ""))
    with pytest.raises(StoreUnusable, match="no schema yet"):
        plain.require_schema()
    plain.close()
    full = Database(copied_url.replace("+psycopg", ""))
    full.require_schema()
    full.close()


def test_a_database_in_another_encoding_is_refused(postgresql: PostgresLab) -> None:
    postgresql.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    database = Database(postgresql.url("latin"))
    with pytest.raises(StoreUnusable, match="its encoding is LATIN1"):
        database.upgrade()
    database.close()
    postgresql.execute("DROP DATABASE latin")
