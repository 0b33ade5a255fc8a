# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a bulk run's enrollments, and what follows for the certificates that were replaced."""

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.schema import Config
from acme_milter.enrollment.kinds import in_use, supersedes
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import Superseded, advance
from acme_milter.store import bulk_items, bulk_runs, certificates, enrollments
from acme_milter.store.bulk_items import BulkItem, Ended, Outcome
from acme_milter.store.bulk_runs import BulkRun
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.worker.withdrawing import revoke

AT_ONCE = 100
"""Items in one transaction: a challenge mail's commit must not wait longer than a fraction of a second."""


class BulkSettler:
    """Holds no state of its own."""

    def __init__(self, config: Callable[[], Config], database: Database, clock: Callable[[], datetime]) -> None:
        self._config = config
        self._database = database
        self._clock = clock

    def settle(self) -> None:
        """Give every item whose enrollment has ended its outcome."""
        while True:
            with self._database.read() as connection:
                ended = bulk_items.with_ended_enrollment(connection, AT_ONCE)
            if not ended:
                return
            with self._database.write() as connection:
                for one in ended:
                    run = bulk_runs.get(connection, one.item.run_id)
                    assert run is not None
                    self._settle_one(connection, run, one)
            if len(ended) < AT_ONCE:
                return

    def _settle_one(self, connection: sa.Connection, run: BulkRun, ended: Ended) -> None:
        """Of two certificates the item waits for both, and has failed when either has."""
        now, item = self._clock(), ended.item
        orders = _orders_of(connection, run, item)
        going_on = next((one for one in orders if one.is_open), None)
        broken = next((one for one in orders if _has_failed(one)), None)
        if going_on is not None and not (ended.state is State.FAILED and ended.successor_id == going_on.id):
            bulk_items.set_outcome(connection, item, Outcome.OPEN, now=now, enrollment_id=going_on.id)
        elif ended.state is State.FAILED and ended.successor_id is not None:
            bulk_items.set_outcome(
                connection, item, Outcome.RETRYING, now=now, reason=ended.last_error, enrollment_id=ended.successor_id
            )
        elif ended.state in {State.FAILED, State.CANCELLED}:
            reason = ended.last_error or ended.state.value
            bulk_items.set_outcome(connection, item, Outcome.FAILED, now=now, reason=reason)
            self.revoke_superseded(connection, run, item)
        elif broken is not None:
            bulk_items.set_outcome(connection, item, Outcome.FAILED, now=now, reason=broken.last_error)
            self.revoke_superseded(connection, run, item)
        else:
            self._settle_issued(connection, run, item)

    def _settle_issued(self, connection: sa.Connection, run: BulkRun, item: BulkItem) -> None:
        """The policy may have changed while the first was under way: nothing goes whose place nothing has taken."""
        now, old = self._clock(), _replaced(connection, item)
        kept = _still_needed(connection, run, item, old)
        reason = f"the second was not ordered: nothing has replaced {kept[0].serial}" if kept else None
        outcome = Outcome.FAILED if kept else Outcome.ACTIVE
        if bulk_items.set_outcome(connection, item, outcome, now=now, reason=reason):
            for one in old:
                if one not in kept:
                    self._put_away(connection, run, one)

    def _put_away(self, connection: sa.Connection, run: BulkRun, old: StoredCertificate) -> None:
        """What was replaced is superseded, by whichever authority it was; then, and never before, revoked."""
        now = self._clock()
        enrollment = enrollments.get(connection, old.enrollment_id)
        if enrollment is not None and enrollment.state is State.ACTIVE:
            enrollments.save(connection, advance(enrollment, Superseded(), now))
        if run.revoke_reason is not None:
            revoke(connection, self._config(), old, run.revoke_reason, now, f"bulk run {run.id}")

    def revoke_superseded(self, connection: sa.Connection, run: BulkRun, item: BulkItem) -> None:
        """A renewal may have come first: the old certificate is to be revoked all the same."""
        for old in _replaced(connection, item):
            enrollment = enrollments.get(connection, old.enrollment_id)
            superseded = enrollment is not None and enrollment.state is State.SUPERSEDED
            if superseded and run.revoke_reason is not None:
                revoke(connection, self._config(), old, run.revoke_reason, self._clock(), f"bulk run {run.id}")


def _replaced(connection: sa.Connection, item: BulkItem) -> list[StoredCertificate]:
    """What is to be replaced. A plan may be another store's, or name a certificate of others: those are left out."""
    ids = [one for one in (item.replaces_id, item.also_replaces_id) if one is not None]
    found = [certificates.find(connection, one) for one in ids]
    return [old for old in found if old is not None and old.address == item.address]


def _still_needed(
    connection: sa.Connection, run: BulkRun, item: BulkItem, old: list[StoredCertificate]
) -> list[StoredCertificate]:
    """Those of the ``old`` ones in use whose place no order of the run has taken."""
    known = enrollments.of_mailbox(connection, item.address)
    # A superseded one has a successor in its place by now.
    new = [one for one in known if one.bulk_run_id == run.id and one.state in {State.ACTIVE, State.SUPERSEDED}]
    others = [one for one in known if one.certificate_id not in {stored.id for stored in old}]
    beside = in_use(others, {one.principal for one in new})
    active = {one.id for one in known if one.state is State.ACTIVE}
    return [
        stored
        for stored in old
        if stored.enrollment_id in active and not any(supersedes(one.usage, stored.usage, beside) for one in new)
    ]


def _orders_of(connection: sa.Connection, run: BulkRun, item: BulkItem) -> list[Enrollment]:
    """The run's newest order of each kind for the mailbox; where one certificate does both, there is nothing to ask."""
    if item.enrollment_id is None:
        return []
    waited_for = enrollments.get(connection, item.enrollment_id)
    if waited_for is None or waited_for.usage is KeyUsageKind.DUAL:
        return []
    newest: dict[KeyUsageKind, Enrollment] = {}
    for one in enrollments.of_mailbox(connection, item.address):
        if one.bulk_run_id == run.id:
            newest.setdefault(one.usage, one)
    return list(newest.values())


def _has_failed(enrollment: Enrollment) -> bool:
    return enrollment.state in {State.FAILED, State.CANCELLED} and enrollment.successor_id is None
