# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on the health of authorities: one row for each that has failed, the same for all hosts and after any restart.

What a row means, and when it changes, is `worker.breaker`'s. Whoever changes one reads it in the same writing
transaction: there is one at a time.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import authority_health as table


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an authority has been lately.

    Closed while ``open_since`` is None: it is used, with ``failures`` in a row so far. Else open: not used where
    another one is, and asked again at ``probe_at``. Open with ``probe_at`` None: it has answered, and the next order is
    a trial. With ``trial_id``: that one may begin with it, and until ``probe_at`` is to show whether it takes orders.
    """

    authority: str
    failures: int = 0
    failed_at: datetime | None = None
    last_error: str | None = None
    open_since: datetime | None = None
    probe_at: datetime | None = None
    openings: int = 0
    trial_id: str | None = None

    @property
    def is_open(self) -> bool:
        return self.open_since is not None

    @property
    def wants_trial(self) -> bool:
        """It answers, and nobody has tried yet whether it takes orders."""
        return self.is_open and self.probe_at is None


def get(connection: sa.Connection, authority: str) -> Health:
    """Its row, or that of one which is well."""
    row = connection.execute(sa.select(table).where(table.c.authority == authority)).first()
    return Health(authority=authority) if row is None else Health(**row._asdict())


def of_all(connection: sa.Connection) -> dict[str, Health]:
    """By authority, those that have failed since their last order."""
    return {row.authority: Health(**row._asdict()) for row in connection.execute(sa.select(table))}


def put(connection: sa.Connection, health: Health) -> None:
    """Write the row in place of what there was; one that is well needs none."""
    forget(connection, health.authority)
    if health.failures or health.is_open:
        connection.execute(table.insert().values(asdict(health)))


def forget(connection: sa.Connection, authority: str) -> bool:
    """It is well. False: it was so before."""
    return connection.execute(table.delete().where(table.c.authority == authority)).rowcount == 1


def forget_others(connection: sa.Connection, configured: Collection[str]) -> None:
    """Rows of authorities that are not configured any more tell nobody anything."""
    connection.execute(table.delete().where(table.c.authority.not_in(list(configured))))
