# SPDX-License-Identifier: GPL-3.0-or-later
"""How several workers share one PostgreSQL: the session's settings, and one writer at a time."""

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

DRIVER = "postgresql+psycopg"
_ONE_WRITER = 0x61636D65  # "acme": the advisory lock that a writing transaction holds
_PATIENCE_OF_AN_UPGRADE = "60s"

# A host that falls asleep or is cut off in the middle of a transaction must not hold the others up for long.
_SETTINGS = (
    "SET lock_timeout = {busy}; "
    "SET idle_in_transaction_session_timeout = 30000; "
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; "
    # Whatever the server does by default: a challenge is discarded on the strength of what was committed (G23).
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
CONNECT_ARGUMENTS: dict[str, object] = {
    "connect_timeout": 3,  # seconds; a mail waits for the gate's answer, so that an absent server must show soon
    "application_name": "acme-milter",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}


def prepare_session(
    busy_ms: int, connection: sa.engine.interfaces.DBAPIConnection, _entry: ConnectionPoolEntry
) -> None:
    """Set a new session up. ``busy_ms``: how long to wait for a lock."""
    cursor = connection.cursor()
    cursor.execute(_SETTINGS.format(busy=busy_ms))
    cursor.close()
    connection.commit()


def become_the_writer(connection: sa.Connection) -> None:
    """Wait until no other transaction writes; raises OperationalError when that takes too long.

    As in SQLite: whoever reads and then writes what follows from it is alone with the store, on whatever host. The lock
    ends with the transaction, also when its host dies.
    """
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_WRITER})")


def be_patient(connection: sa.Connection) -> None:
    """For an upgrade: another worker may be at it, or at work."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE_OF_AN_UPGRADE}'")


def first_line(said: BaseException | None) -> str | None:
    """The message of a psycopg error without the details below it; None for anything else."""
    if said is None or not type(said).__module__.startswith("psycopg"):
        return None
    told: str | None = getattr(getattr(said, "diag", None), "message_primary", None)
    return told or str(said)  # of a connection that was never made, libpq tells in its own words


def unfit(connection: sa.Connection) -> str | None:
    """Why this database cannot hold a store, None when it can."""
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        return f"its encoding is {encoding}; make one with: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
    return None
