# SPDX-License-Identifier: GPL-3.0-or-later
"""A reading connection to somebody else's database, and in our own words what went wrong with it.

SQLAlchemy's texts quote statements, parameters and sometimes URLs, so none of them is passed on. A server's own words
are, on one line, after the password has been looked for in them.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import quote

import sqlalchemy as sa

from acme_milter.mailboxes.source import SourceFault
from acme_milter.quoting import quoted

_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
_EXTRAS = {"psycopg": "acme-milter[postgresql]", "pymysql": "acme-milter[mysql]"}

# SQLSTATEs of PostgreSQL and error numbers of MySQL and MariaDB, as their manuals list them.
_NO_TABLE = {"42P01", 1146}
_NO_COLUMN = {"42703", 1054}
_DENIED = {"42501", 1142, 1143}
_WRITES = {"25006", 1792}
_TOO_SLOW = {"57014", "55P03", 1969, 3024}
_LOGIN = {"28000", "28P01", 1044, 1045, 1698}
_WATCH_GRACE = 2.0  # seconds beyond the timeout after which a server that says nothing at all is cut off


@contextmanager
def reading(source: str, url_text: str, timeout: timedelta, hint: str) -> Iterator[sa.Connection]:
    """A connection inside one read-only transaction; nothing on it takes longer than ``timeout`` altogether.

    ``hint`` is what to say of a missing table or column. Raises SourceFault for everything a database may do, in the
    block as well.
    """
    url = _parsed(source, url_text)
    limit = timeout.total_seconds()
    deadline = time.monotonic() + limit
    try:
        engine = sa.create_engine(
            url, poolclass=sa.NullPool, hide_parameters=True, connect_args=_connect_arguments(url, limit)
        )
        sa.event.listen(engine, "handle_error", _close_cursor)
        with _connected(engine) as connection, _cut_off_at(connection, deadline + _WATCH_GRACE):
            _read_only(connection, max(deadline - time.monotonic(), 0.1))
            yield connection
    except ModuleNotFoundError as missing:
        extra = _EXTRAS.get(missing.name or "", missing.name)
        what = f"{url.get_backend_name()}:// needs its driver; run: pip install '{extra}'"
        raise SourceFault(source, what) from None
    except sa.exc.NoSuchModuleError:
        raise SourceFault(source, f"{url.drivername}:// is no database that is known here") from None
    except sa.exc.DBAPIError as error:
        too_late = time.monotonic() >= deadline
        raise SourceFault(source, _too_slow(url, limit) if too_late else _explained(error, url, limit, hint)) from None
    except sa.exc.SQLAlchemyError as error:
        raise SourceFault(source, f"{_place(url)}: {type(error).__name__}") from None
    except (OSError, UnicodeError) as error:
        raise SourceFault(source, f"{_place(url)}: {_scrubbed(str(error), url)}") from None


def _parsed(source: str, text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise SourceFault(source, "url is no database URL; it looks like postgresql://reader@host/database") from None
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith("file:"):
        # Otherwise SQLite would make the file that is not there.
        return url.set(database=f"file:{quote(url.database)}", query={"mode": "ro", "uri": "true"})
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def _connected(engine: sa.Engine) -> sa.Connection:
    try:
        return engine.connect()
    except (TypeError, ValueError) as error:  # a driver's answer to an option in the URL that it does not know
        raise OSError(str(error)) from None


def _close_cursor(context: sa.engine.ExceptionContext) -> None:
    """SQLAlchemy leaves the cursor of a lost connection open, and psycopg complains of that when it is collected."""
    execution = context.execution_context
    if execution is not None:
        execution.cursor.close()


def _connect_arguments(url: sa.URL, limit: float) -> Mapping[str, object]:
    patience = max(2, min(10, int(limit)))
    backend = url.get_backend_name()
    if backend == "postgresql":
        dead_after = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
        return {"connect_timeout": patience, "application_name": "acme-milter", **dead_after}
    if backend in {"mysql", "mariadb"}:
        return {"connect_timeout": patience, "read_timeout": max(1, int(limit)), "charset": "utf8mb4"}
    if backend == "sqlite":
        return {"timeout": patience}
    return {}


def _read_only(connection: sa.Connection, limit: float) -> None:
    """Nothing is written, whatever the query is, and the server itself stops what takes too long."""
    milliseconds = max(100, int(limit * 1000))
    backend = connection.dialect.name
    if backend == "postgresql":
        connection.execution_options(postgresql_readonly=True)
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
    elif backend in {"mysql", "mariadb"}:
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)
        variable = f"max_statement_time = {limit:.1f}" if is_mariadb else f"max_execution_time = {milliseconds}"
        connection.exec_driver_sql(f"SET SESSION {variable}")
        connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
        connection.commit()  # the setting is for the transactions that begin after it
    elif backend == "sqlite":
        connection.exec_driver_sql("PRAGMA query_only = ON")
        give_up = time.monotonic() + limit
        raw = connection.connection.driver_connection
        if raw is not None:
            raw.set_progress_handler(lambda: int(time.monotonic() > give_up), 10_000)


@contextmanager
def _cut_off_at(connection: sa.Connection, deadline: float) -> Iterator[None]:
    """Ends the connection to a PostgreSQL that stopped answering in the middle: libpq itself would wait for ever."""
    raw = connection.connection.driver_connection
    if connection.dialect.name != "postgresql" or raw is None:
        yield
        return
    descriptor = os.dup(raw.fileno())

    def cut() -> None:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as ours:
            ours.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(deadline - time.monotonic(), cut)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        watch.join()
        os.close(descriptor)


def _explained(error: sa.exc.DBAPIError, url: sa.URL, limit: float, hint: str) -> str:
    code = _code(error)
    place, words = _place(url), _words(error, url)
    lowered = words.lower()
    if code in _LOGIN or "authentication failed" in lowered:
        return f"{place}: the login was refused ({words}); correct the user or the password in url"
    if code in _NO_TABLE or "no such table" in lowered:
        return f"{place}: a table is missing ({words}); {hint}"
    if code in _NO_COLUMN or "no such column" in lowered:
        return f"{place}: a column is missing ({words}); {hint}"
    if code in _DENIED:
        return f"{place}: {words}; the user needs SELECT on these tables: {hint}"
    if code in _WRITES or "readonly database" in lowered:
        return f"{place}: the query tries to write; a list of mailboxes is only read"
    if code in _TOO_SLOW or lowered == "interrupted":
        return _too_slow(url, limit)
    if error.connection_invalidated or code is None:
        return f"{place}: cannot be reached, or the connection was lost ({words})"
    return f"{place}: the query failed ({words}); {hint}"


def _too_slow(url: sa.URL, limit: float) -> str:
    return f"{_place(url)}: no complete answer within {limit:g} s; raise timeout, or have the query's columns indexed"


def _code(error: sa.exc.DBAPIError) -> object:
    """PostgreSQL's SQLSTATE or MySQL's number; None where the server itself did not speak, and for SQLite."""
    said = error.orig
    number = said.args[0] if said is not None and said.args else None
    if isinstance(number, int):
        return None if number in {2003, 2006, 2013} else number
    state: object = getattr(said, "sqlstate", None)
    return state


def _words(error: sa.exc.DBAPIError, url: sa.URL) -> str:
    diagnosis = getattr(error.orig, "diag", None)
    primary = getattr(diagnosis, "message_primary", None)
    arguments = error.orig.args if error.orig is not None else ()
    return _scrubbed(primary or (str(arguments[-1]) if arguments else type(error).__name__), url)


def _scrubbed(text: str, url: sa.URL) -> str:
    for secret in (url.password, url.query.get("password"), url.query.get("passwd")):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return quoted(text)


def _place(url: sa.URL) -> str:
    """The database without user or password: who reads the log need not know either."""
    where = url.host or url.query.get("host") or ""
    port = f":{url.port}" if url.port else ""
    database = (url.database or "").removeprefix("file:")
    return f"{url.get_backend_name()}://{where}{port}/{database}"
