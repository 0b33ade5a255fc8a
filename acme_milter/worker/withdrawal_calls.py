# SPDX-License-Identifier: GPL-3.0-or-later
"""What `deliver withdraw` wants of a running worker."""

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.eventlog import Event
from acme_milter.report.delivery_list import gives_back
from acme_milter.store import audit, certificates, deliveries, mailboxes, passphrases, withdrawals
from acme_milter.store.database import Database
from acme_milter.store.deliveries import Delivery
from acme_milter.worker.withdrawing import BY_A_PERSON, plan_withdrawals

AT_ONCE = 20
"""Addresses in one transaction: each may have certificates of years, and each of these several targets."""

BY_HAND = "removed by hand, as a person said"


class WithdrawalCalls:
    """Answers the control socket's call ``withdraw``."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Callable[[], datetime],
        work_is_due: Callable[[], None],
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._work_is_due = work_is_due

    def run(self, header: dict[str, object]) -> dict[str, object]:
        """``addresses``, and perhaps ``target``, a title. Everything that may be there of these mailboxes; with
        ``gone`` only what nobody uses any more, and without ``target`` only where it is given back. ``by_hand``:
        somebody has removed that, or what was to be taken back already. A result for each address, with the titles of
        the ``targets`` that this concerns and an ``outcome``: withdrawing, withdrawing-already, nothing-there; by-hand,
        nothing-to-go.
        """
        given, target = header.get("addresses"), header.get("target")
        addresses = [str(one) for one in given] if isinstance(given, list) else []
        title = None if target is None else str(target)
        results: list[dict[str, object]] = []
        for start in range(0, len(addresses), AT_ONCE):
            with self._database.write() as connection:
                some = addresses[start : start + AT_ONCE]
                results += [self._withdraw(connection, wanted, title, header) for wanted in some]
        self._work_is_due()
        return {"results": results}

    def _withdraw(
        self, connection: sa.Connection, wanted: str, title: str | None, header: dict[str, object]
    ) -> dict[str, object]:
        address = self._spelled(connection, wanted)
        # What somebody has removed by hand is what was to go: what is in use is still there.
        only_gone = header.get("gone") or header.get("by_hand")
        changed = (self._gone if only_gone else self._all)(connection, address, title)
        pending = [one for one in deliveries.of_mailbox(connection, address) if _is_pending(one, title)]
        if header.get("by_hand") and (removed := [one for one in pending if self._settled(connection, one)]):
            return _result(address, "by-hand", {one.target for one in removed})
        if header.get("by_hand") and not pending:
            return _result(address, "nothing-to-go", set())
        if changed:
            return _result(address, "withdrawing", changed)
        return _result(address, "withdrawing-already" if pending else "nothing-there", {one.target for one in pending})

    def _spelled(self, connection: sa.Connection, wanted: str) -> str:
        """As the deliveries have it, managed or left."""
        known = mailboxes.find(connection, wanted)
        return self._config().canonical(wanted) or (wanted if known is None else known.address)

    def _all(self, connection: sa.Connection, address: str, title: str | None) -> set[str]:
        changed: set[str] = set()
        titles = {one.target for one in deliveries.of_mailbox(connection, address)} if title is None else {title}
        for certificate_id in withdrawals.certificates_at(connection, address):
            changed |= self._planned(connection, certificate_id, BY_A_PERSON, titles)
        return changed

    def _gone(self, connection: sa.Connection, address: str, title: str | None) -> set[str]:
        changed: set[str] = set()
        for one in withdrawals.unused(connection, address):
            if title == one.target or (title is None and gives_back(connection, self._config(), one)):
                changed |= self._planned(connection, one.certificate_id, one.why, {one.target})
        return changed

    def _planned(self, connection: sa.Connection, certificate_id: str, why: str, titles: set[str]) -> set[str]:
        certificate = certificates.get(connection, certificate_id)
        return set(plan_withdrawals(connection, self._config(), certificate, why, self._clock(), titles=titles))

    def _settled(self, connection: sa.Connection, one: Delivery) -> bool:
        now = self._clock()
        if not withdrawals.settle(connection, one.id, BY_HAND, now):
            return False
        passphrases.forget(connection, one.id)
        certificate = certificates.get(connection, one.certificate_id)
        audit.record(
            connection,
            Event.DELIVERY_WITHDRAWN,
            at=now,
            enrollment_id=certificate.enrollment_id,
            address=one.address,
            details={"target": one.target, "serial": certificate.serial, "by": "hand"},
        )
        return True


def _is_pending(one: Delivery, title: str | None) -> bool:
    return one.withdraw_why is not None and one.done_at is None and title in {None, one.target}


def _result(address: str, outcome: str, targets: set[str]) -> dict[str, object]:
    return {"address": address, "outcome": outcome, "targets": sorted(targets)}
