# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command gets at the store, and what it says when it cannot: which store, why, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Error as SqliteError

import click
import sqlalchemy as sa

from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.owner import as_owner
from acme_milter.config.database_url import without_password
from acme_milter.config.schema import Config
from acme_milter.store.database import Database, StoreUnusable, in_words

__all__ = ["DRIVER_MISSING", "STORE_FAULTS", "as_owner", "forbidden_file", "reading_store", "store_fault"]

STORE_FAULTS = (StoreUnusable, sa.exc.DBAPIError)


@contextmanager
def reading_store(config: Config) -> Iterator[Database]:
    """The store, when it is there and has a schema; otherwise one line of standard error and the command's end."""
    with _ending_on_faults(config):
        database = Database(config.store.url)
        try:
            database.require_schema()
            yield database
        finally:
            database.close()


@contextmanager
def _ending_on_faults(config: Config) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name != "psycopg":
            raise
        click.echo(f"store.url: {DRIVER_MISSING}", err=True)
        raise click.exceptions.Exit(ExitCode.CONFIGURATION) from None
    except STORE_FAULTS as error:
        if (place := forbidden_file(config)) is not None:
            click.echo(f"{place}: permission denied; {as_owner(place)}", err=True)
            raise click.exceptions.Exit(ExitCode.PERMISSION) from None
        click.echo(store_fault(config, error), err=True)
        raise click.exceptions.Exit(ExitCode.TRY_LATER) from None
    except PermissionError as error:
        place = Path(error.filename or config.path)
        click.echo(f"{place}: permission denied; {as_owner(place)}", err=True)
        raise click.exceptions.Exit(ExitCode.PERMISSION) from None


DRIVER_MISSING = "postgresql:// needs its driver; run: pip install 'acme-milter[postgresql]'"


def store_fault(config: Config, error: Exception) -> str:
    """`error`, one of STORE_FAULTS, for people: the store's place without its password, and what the store said."""
    if isinstance(error, StoreUnusable):
        return str(error)
    place = without_password(config.store.url)
    if isinstance(known := in_words(error), StoreUnusable):
        return f"{place}: {known}"
    said = getattr(error, "orig", None)
    # A server's text may quote values; SQLite's names tables and columns only.
    words = str(said) if isinstance(said, SqliteError) else type(said or error).__name__
    return f"{place}: {words}"


def forbidden_file(config: Config) -> Path | None:
    """SQLite's file or its directory when the caller may not write there, which readers of a WAL must."""
    url = sa.make_url(config.store.url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    try:
        with Path(url.database).open("r+b"):
            return None
    except PermissionError:
        return Path(url.database)
    except OSError:
        return None
