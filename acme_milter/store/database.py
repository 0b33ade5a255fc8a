# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening the database, and the two kinds of transaction."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from acme_milter.store import postgresql

BUSY_TIMEOUT_MS = 2000
"""How long a statement waits for another process's write lock; the gate then puts the mail off (rule T)."""

_MIGRATIONS = Path(__file__).with_name("migrations")
_VERSION = sa.table("alembic_version", sa.column("version_num"))


class StoreUnusable(Exception):
    """The database cannot be opened or is damaged. The text says which file and what to do."""

    safe_text = True


def in_words(error: Exception) -> Exception:
    """The same, as StoreUnusable with the database's own words where it is the database's trouble.

    A full disk, a lock, a connection that was lost, a login that is refused: such texts name no values, and people need
    them. Any other error is returned as it is.
    """
    words = _operational_words(error.orig) if isinstance(error, sa.exc.OperationalError) else None
    return error if words is None else StoreUnusable(words).with_traceback(error.__traceback__)


def _operational_words(said: BaseException | None) -> str | None:
    """PostgreSQL's first line alone: what follows it may quote rows."""
    if isinstance(said, sqlite3.OperationalError):
        return str(said)
    words = postgresql.first_line(said)
    return None if words is None else " ".join(words.split())


class Database:
    """One database. Share it between threads; it hands out connections of its own.

    ``url`` is SQLAlchemy's: ``sqlite:////path`` or ``postgresql://…``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = sa.make_url(url)
        self._is_sqlite = parsed.get_backend_name() == "sqlite"
        # SQLite lets one writer in at a time, and its busy handler sleeps: threads of one process queue here instead.
        self._writers = threading.Lock() if self._is_sqlite else None
        if self._is_sqlite:
            self._engine = _engine(parsed, connect_args={"check_same_thread": False})
            sa.event.listen(self._engine, "connect", _set_pragmas)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        else:
            # Asked before use, since a server may have been restarted while nobody worked.
            known = parsed.set(drivername=postgresql.DRIVER)
            self._engine = _engine(known, connect_args=postgresql.CONNECT_ARGUMENTS, pool_pre_ping=True)
            sa.event.listen(self._engine, "connect", partial(postgresql.prepare_session, BUSY_TIMEOUT_MS))

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that commits durably when the block ends, and rolls back when it raises.

        It is the only one that writes, in both databases: what it has read stays true until its end.
        """
        if self._writers is None:
            with self._engine.begin() as connection:
                postgresql.become_the_writer(connection)
                yield connection
        else:
            writer = self._engine.connect().execution_options(writes=True)
            with self._writers, writer, writer.begin():
                yield writer

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one consistent state and changes nothing."""
        with self._engine.connect() as connection:
            if not self._is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    def make_place(self) -> None:
        """Make the directory of a new SQLite file, for its user alone. Raises StoreUnusable."""
        path = sa.make_url(self.url).database
        if self._is_sqlite and path and not Path(path).parent.exists():
            try:
                Path(path).parent.mkdir(mode=0o700, parents=True)
            except OSError as error:
                raise StoreUnusable(f"{self._place()}: its directory cannot be made: {error.strerror}") from None

    def upgrade(self) -> None:
        """Create the schema, or bring an older one up to date. Raises StoreUnusable."""
        try:
            self._check_fitness()
            if not self._is_up_to_date():
                self._migrate()
        except sa.exc.DBAPIError as error:
            raise self._unusable(error) from None

    def _is_up_to_date(self) -> bool:
        newest = max(file.name for file in _MIGRATIONS.glob("versions/[0-9]*.py")).partition("_")[0]
        with self.read() as connection:
            if not sa.inspect(connection).has_table(_VERSION.name):
                return False
            return connection.execute(sa.select(_VERSION.c.version_num)).scalars().all() == [newest]

    def _migrate(self) -> None:
        # A tenth of a second of imports, which commands and most starts of a worker can do without.
        from alembic import command
        from alembic.config import Config as AlembicConfig
        from alembic.util.exc import CommandError

        config = AlembicConfig()
        config.set_main_option("script_location", str(_MIGRATIONS))
        try:
            with self._upgrading() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError:
            text = "another version of acme-milter made this store; run that one, or restore a backup"
            raise StoreUnusable(f"{self._place()}: {text}") from None

    def require_schema(self) -> None:
        """For readers that must not create anything. Raises StoreUnusable when there is no store yet."""
        try:
            database = sa.make_url(self.url).database
            if self._is_sqlite and not Path(database or "").exists():
                raise StoreUnusable(f"{self._place()}: there is no store yet; a worker makes it when it first starts")
            with self.read() as connection:
                present = sa.inspect(connection).has_table(_VERSION.name)
        except sa.exc.DBAPIError as error:
            raise self._unusable(error) from None
        if not present:
            raise StoreUnusable(f"{self._place()}: there is no schema yet; a worker makes it when it first starts")

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _upgrading(self) -> Iterator[sa.Connection]:
        """As `write`, but with time for another worker that is at the same."""
        if self._is_sqlite:
            with self.write() as connection:
                yield connection
        else:
            with self._engine.begin() as connection:
                postgresql.be_patient(connection)
                postgresql.become_the_writer(connection)
                yield connection

    def _check_fitness(self) -> None:
        with self.read() as connection:
            if not self._is_sqlite:
                verdict = postgresql.unfit(connection)
            elif (said := connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()) != "ok":
                verdict = f"the database is damaged ({said}); restore it from a backup"
            else:
                return
        if verdict is not None:
            raise StoreUnusable(f"{self._place()}: {verdict}")

    def _unusable(self, error: sa.exc.DBAPIError) -> StoreUnusable:
        known = in_words(error)
        return StoreUnusable(f"{self._place()}: {known if isinstance(known, StoreUnusable) else error.orig}")

    def _place(self) -> str:
        return sa.make_url(self.url).set(query={}).render_as_string(hide_password=True)


def _engine(url: sa.URL, **options: Any) -> sa.Engine:
    return sa.create_engine(url, pool_size=16, max_overflow=16, hide_parameters=True, **options)


def _set_pragmas(connection: sa.engine.interfaces.DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_sqlite
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # with WAL, NORMAL would lose committed work on power loss
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that turns into a writer half-way can fail at once, without waiting its busy timeout.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
