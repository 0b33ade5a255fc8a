# SPDX-License-Identifier: GPL-3.0-or-later
"""The view `member`: whose mailbox an address is, for `config explain`."""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.report.member import look_up
from acme_milter.report.rows import Row

SCHEMA = "acme-milter/member/1"


def member(connection: sa.Connection, config: Config, now: datetime, *, address: str) -> Row:
    """``member`` is None where no list and no source has the address, or it has left. Raises Unanswerable."""
    found = look_up(connection, config, address).member
    if found is None:
        return {"schema": SCHEMA, "member": None}
    return {
        "schema": SCHEMA,
        "member": {
            "address": found.address,
            "principal": found.principal,
            "source": found.source,
            "groups": sorted(found.groups),
            "person_name": found.person_name,
        },
    }
