# SPDX-License-Identifier: GPL-3.0-or-later
"""A mailbox that is to have a certificate to sign and one to encrypt, and what its tests ask of it."""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import Cause, Enrollment, State
from acme_milter.store import bulk_items, bulk_runs, enrollments, renewals
from acme_milter.store.bulk_items import BulkItem
from acme_milter.store.bulk_runs import BulkRun, Kind, RunState
from acme_milter.worker.bulk_feeder import BulkFeeder
from acme_milter.worker.choice import Choosing
from acme_milter.worker.enrolling import Enrolling
from acme_milter.worker.renewer import open_renewal
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench

DUAL, SIGN, ENCRYPT = KeyUsageKind.DUAL, KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT
PAIR = {"certificate": {"layout": "dual"}}


def make_pair(make_orders: MakeOrderBench, **changes: object) -> OrderBench:
    return make_orders(policy=PAIR, **changes)


def ask(bench: OrderBench, *, again: bool = False) -> dict[str, object]:
    call = Enrolling(config=lambda: bench.config, database=bench.database, clock=bench.clock, work_is_due=lambda: None)
    answer: dict[str, Any] = call.answer({"addresses": bench.addresses[:1], "again": again})
    return dict(answer["results"][0])


def the_open_one(bench: OrderBench) -> Enrollment | None:
    with bench.database.read() as connection:
        return enrollments.find_open(connection, bench.addresses[0], "ca")


def finish(bench: OrderBench, enrollment: Enrollment) -> Enrollment:
    awaiting = bench.step_until(enrollment, State.AWAITING_MAIL)
    return bench.step_until(bench.answer_mail(awaiting), State.ACTIVE, State.FAILED)


def finish_all(bench: OrderBench) -> list[Enrollment]:
    """Every order there is and that follows from it."""
    done = []
    while (one := the_open_one(bench)) is not None:
        done.append(finish(bench, one))
    return done


def renew_one(bench: OrderBench, usage: KeyUsageKind) -> None:
    """As if its time had come."""
    old = next(stored for stored in bench.certificates() if stored.usage is usage)
    with bench.database.write() as connection:
        (due,) = [
            one
            for one in renewals.due(connection, "ca", bench.clock() + timedelta(days=400), 9)
            if one.certificate_id == old.id
        ]
        choosing = Choosing(lambda: bench.config)
        assert open_renewal(connection, bench.config, due, Cause.RENEWAL, set(), bench.clock(), choosing)


def states(bench: OrderBench) -> dict[KeyUsageKind, list[State]]:
    """By kind, the oldest first."""
    with bench.database.read() as connection:
        known = enrollments.of_mailbox(connection, bench.addresses[0])
    found: dict[KeyUsageKind, list[State]] = {}
    for one in reversed(known):
        found.setdefault(one.usage, []).append(one.state)
    return found


def run_of(bench: OrderBench, kind: Kind, **item: object) -> BulkFeeder:
    with bench.database.write() as connection:
        bulk_runs.insert(
            connection,
            BulkRun(
                id="run-1", kind=kind, state=RunState.RUNNING, description="", created_at=bench.clock(),
                counted_from=bench.clock(), stopped={}, revoke_reason=4 if kind is Kind.REPLACE else None,
            ),
        )  # fmt: skip
        address = bench.addresses[0]
        whole = {"replaces_id": None, **item}
        bulk_items.add_items(
            connection,
            [
                BulkItem(
                    run_id="run-1", address=address, position=0, domain="org.example", authority="ca",
                    principal=address, **whole,  # type: ignore[arg-type]  # a test's keywords
                )
            ],
        )  # fmt: skip
    return BulkFeeder(
        config=lambda: bench.config,
        database=bench.database,
        clock=bench.clock,
        places=lambda _connection, _now: {"ca": 5},
        work_is_due=lambda: None,
    )


def outcome(bench: OrderBench) -> str:
    with bench.database.read() as connection:
        found: str = connection.execute(sa.text("SELECT outcome FROM bulk_item")).scalar_one()
    return found
