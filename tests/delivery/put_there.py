# SPDX-License-Identifier: GPL-3.0-or-later
"""A delivery that was done, without anybody having delivered anything."""

from datetime import datetime

from acme_milter.store import deliveries
from acme_milter.store.database import Database

TARGET = "signing-milter"


def put_there(database: Database, certificate_id: str, address: str, now: datetime) -> None:
    """The certificate is in a signing milter's directory, as far as the store knows."""
    with database.write() as connection:
        deliveries.ask(connection, certificate_id, address, {TARGET: TARGET}, now)
        one = deliveries.claim(connection, TARGET, owner="test#1.0", now=now, until=now)
        assert one is not None
        assert deliveries.done(connection, one.id, "there", now, owner="test#1.0")


def why_withdrawn(database: Database, certificate_id: str) -> str | None:
    """Why it is to be there no more; None where it is to stay."""
    with database.read() as connection:
        return deliveries.get_of(connection, certificate_id, TARGET).withdraw_why
