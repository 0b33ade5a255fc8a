# SPDX-License-Identifier: GPL-3.0-or-later
"""The view `mailbox-list`: managed mailboxes, each with how it stands and until when its certificate lasts."""

from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.report.coverage import Standing, standings
from acme_milter.report.rows import Row, instant
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import holders

SCHEMA = "acme-milter/mailbox-list/1"


def mailbox_list(
    connection: sa.Connection,
    config: Config,
    now: datetime,
    *,
    domain: str | None = None,
    state: str | None = None,
    without_certificate: bool = False,
    gone: bool = False,
    expiring_seconds: float | None = None,
) -> Row:
    """Those that meet every condition given, by domain and address; ``expiring_seconds`` from now."""
    if domain is not None and domain not in config.domains:
        raise Unanswerable(f"no domain {domain} is configured; there are: {', '.join(config.domains)}")
    found = standings(connection, config, now)
    ends = holders.ends(connection, now)
    until = None if expiring_seconds is None else now + timedelta(seconds=expiring_seconds)
    rows: list[Row] = []
    for member in config.members.values():
        standing = found.of(member.address)
        end = ends.get(member.address)
        if (
            domain in {None, member.domain}
            and state in {None, standing.value}
            and not (without_certificate and standing is Standing.CERTIFICATE)
            and (not gone or member.address in found.gone)
            and (until is None or (end is not None and end.not_after <= until))
        ):
            rows.append(
                {
                    "address": member.address,
                    "domain": member.domain,
                    "source": member.source,
                    "state": standing.value,
                    "authority": None if end is None else end.authority,
                    "not_after": None if end is None else instant(end.not_after),
                    "gone": member.address in found.gone,
                }
            )
    rows.sort(key=lambda row: (str(row["domain"]), str(row["address"])))
    return {"schema": SCHEMA, "at": now.isoformat(), "mailboxes": rows}
