# SPDX-License-Identifier: GPL-3.0-or-later
"""Two certificates a mailbox and several addresses a certificate: plan and simulation count them, and agree."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
import yaml

from acme_milter.config.loader import load_text
from acme_milter.config.schema import Config
from acme_milter.report.bulk_progress import bulk_status
from acme_milter.report.plan import Plan, Selection, make_plan
from acme_milter.report.simulation import bulk_simulate
from acme_milter.store import bulk_items, bulk_runs
from acme_milter.store.bulk_items import BulkItem
from acme_milter.store.bulk_runs import BulkRun, RunState
from acme_milter.store.database import Database

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALIASES = {"ann@org.example": ["a@org.example", "berg@org.example"]}


def configured(directory: Path, limits: dict[str, int], certificate: dict[str, str]) -> Config:
    """Two mailboxes, of which the first has two aliases."""
    authority = {"directory": "https://ca.example/dir", "contact": ["pm@org.example"], "agree_tos": True}
    mailboxes = {"list": ["ann@org.example", "ben@org.example"], "aliases": ALIASES}
    document = {
        "version": 1,
        "authorities": {"ca": {**authority, "limits": limits}},
        "defaults": {"authorities": ["ca"], "certificate": certificate},
        "domains": {"org.example": {"mailboxes": mailboxes}},
    }
    return load_text(yaml.safe_dump(document), directory / "acme-milter.yaml")


def begin(connection: sa.Connection, plan: Plan) -> None:
    """A run of the plan of which nothing was ordered yet."""
    run = BulkRun(
        id="run-1", kind=plan.kind, state=RunState.RUNNING, description="", created_at=NOW, counted_from=NOW,
        stopped={}, revoke_reason=None,
    )  # fmt: skip
    bulk_runs.insert(connection, run)
    bulk_items.add_items(
        connection,
        [
            BulkItem(
                run_id="run-1", address=item.address, position=at, domain=item.domain, authority=item.authority,
                principal=item.principal, replaces_id=item.replaces_id,
            )
            for at, item in enumerate(plan.items)
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "certificate", "orders", "mails", "takes"),
    [
        ({"orders_per_hour": 1}, {}, 2, 2, 2 * HOUR),
        ({"orders_per_hour": 1}, {"layout": "dual"}, 4, 4, 4 * HOUR),
        ({"orders_per_hour": 1}, {"aliases": "own_certificate"}, 4, 4, 4 * HOUR),
        ({"orders_per_hour": 1}, {"aliases": "own_certificate", "layout": "dual"}, 8, 8, 8 * HOUR),
        ({"orders_per_hour": 1}, {"aliases": "same_certificate"}, 2, 4, 2 * HOUR),
        ({"mails_per_hour": 1}, {"aliases": "same_certificate"}, 2, 4, 4 * HOUR),
        ({"mails_per_hour": 2}, {"aliases": "same_certificate", "layout": "dual"}, 4, 8, 4 * HOUR),
        ({"mails_per_hour": 1, "identifiers": 2}, {"aliases": "same_certificate"}, 2, 3, 3 * HOUR),
    ],
)
def test_the_plan_the_simulation_and_the_run_say_the_same_of_orders_mails_and_time(
    tmp_path: Path, limits: dict[str, int], certificate: dict[str, str], orders: int, mails: int, takes: timedelta
) -> None:
    config = configured(tmp_path, limits, certificate)
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    database.upgrade()
    with database.read() as connection:
        plan = make_plan(connection, config, NOW, Selection())
    with database.write() as connection:
        begin(connection, plan)
    with database.read() as connection:
        run = bulk_status(connection, config, NOW)
        document = bulk_simulate(connection, config, NOW, when=(NOW + timedelta(days=30)).isoformat())
    database.close()
    (simulated,) = cast("list[dict[str, Any]]", document["authorities"])
    (share,) = plan.authorities
    assert run["eta_seconds"] == takes.total_seconds()
    assert (share.orders, share.mails, share.estimate.takes) == (orders, mails, takes)
    assert (simulated["to_replace"], simulated["mails"]) == (orders, mails)
    assert simulated["takes_seconds"] == takes.total_seconds()
    assert simulated["mailboxes"] == share.number
    within_a_day = simulated["needed"][0]
    assert (within_a_day["per_hour"], within_a_day["mails_per_hour"]) == (1, 1)
    assert simulated["hours"][-1]["replaced"] == orders
