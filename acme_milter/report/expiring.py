# SPDX-License-Identifier: GPL-3.0-or-later
"""The view `expiring`: certificates in use that end soon, with what is planned for each."""

from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.report.rows import Row, instant
from acme_milter.store import holders

SCHEMA = "acme-milter/expiring/1"


def expiring(connection: sa.Connection, config: Config, now: datetime, *, within_seconds: float) -> Row:
    """What ends within so many seconds from now, the soonest first; also what no managed mailbox has any more."""
    until = now + timedelta(seconds=within_seconds)
    rows: list[Row] = [
        {
            "address": holder.address,
            "domain": holder.address.rpartition("@")[2],
            "authority": holder.authority,
            "serial": holder.serial,
            "not_after": instant(holder.not_after),
            "days_left": round((holder.not_after - now) / timedelta(days=1), 1),
            "renewal_due_at": instant(holder.renewal_due_at),
            "successor_open": holder.successor_open,
            "managed": config.member(holder.address) is not None,
        }
        for holder in holders.expiring(connection, now, until)
    ]
    return {"schema": SCHEMA, "at": now.isoformat(), "until": until.isoformat(), "certificates": rows}
