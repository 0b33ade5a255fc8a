# SPDX-License-Identifier: GPL-3.0-or-later
"""The store of an organization, for the figures; the tests use the same one."""

from acme_milter.lab.organization import address_of, fill
from acme_milter.store import source_runs
from acme_milter.store.database import Database

__all__ = ["address_of", "fill", "has_been_read"]


def has_been_read(database: Database, source: str) -> bool:
    """Whether a worker is through with its first look at the source: what it costs is not what is measured."""
    with database.read() as connection:
        run = source_runs.get(connection, source)
    return run is not None and run.succeeded_at is not None
