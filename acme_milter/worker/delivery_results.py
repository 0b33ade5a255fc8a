# SPDX-License-Identifier: GPL-3.0-or-later
"""What came of a job, of bringing or taking back, and what follows when whoever was given it was late."""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from acme_milter.delivery.target import Delivered, DeliveryFailed
from acme_milter.enrollment.backoff import step_delay
from acme_milter.eventlog import Event
from acme_milter.store import deliveries, delivery_leases, passphrases, withdrawals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.worker.delivery_job import LEASE, Job, log_job, note_delivery
from acme_milter.worker.vault import Vault

LONGEST_WORDS = 1000

WhenDone = Callable[[sa.Connection, StoredCertificate], None]


class DeliveryResults:
    """Each method ends a job. `when_done` is called in the transaction in which a certificate has reached a target."""

    def __init__(self, *, database: Database, vault: Vault, clock: Callable[[], datetime], when_done: WhenDone) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._when_done = when_done

    def done(self, job: Job, delivered: Delivered) -> None:
        one, now = job.one, self._clock()
        sealed = self._sealed(one.id, delivered.passphrases)
        with self._database.write() as connection:
            outcome = delivered.outcome[:LONGEST_WORDS]
            overlaps_until = now + LEASE if job.overlaps else None
            if not deliveries.done(connection, one.id, outcome, now, owner=job.owner, overlaps_until=overlaps_until):
                self._late(connection, job, now)
                return
            passphrases.replace(connection, one.id, sealed, now)
            note_delivery(connection, Event.DELIVERY_DONE, one, job.certificate, now)
            self._when_done(connection, job.certificate)
        log_job(Event.DELIVERY_DONE, job, attempt=one.attempts + 1)

    def withdrawn(self, job: Job, said: str, beneath: Sequence[StoredCertificate]) -> None:
        """`beneath`: what is in use and was put there before, in the same place perhaps; it is brought once more."""
        one, now = job.one, self._clock()
        with self._database.write() as connection:
            if not withdrawals.withdrawn(connection, one.id, said[:LONGEST_WORDS], now, owner=job.owner):
                self._late(connection, job, now)
                return
            passphrases.forget(connection, one.id)
            note_delivery(connection, Event.DELIVERY_WITHDRAWN, one, job.certificate, now)
            # Of these, some may have been to go meanwhile.
            going = withdrawals.going(connection, [other.id for other in beneath], one.target)
            for other in beneath:
                if other.id not in going and deliveries.ask(
                    connection, other.id, one.address, {one.target: one.kind}, now, again=True
                ):
                    again = deliveries.get_of(connection, other.id, one.target)
                    note_delivery(connection, Event.DELIVERY_ASKED, again, other, now)
        log_job(Event.DELIVERY_WITHDRAWN, job, attempt=one.attempts + 1, reason=one.withdraw_why)

    def ended(self, job: Job, why: str) -> None:
        one = job.one
        with self._database.write() as connection:
            now = self._clock()
            if not deliveries.ended(connection, one.id, why, now, owner=job.owner, begun_at=one.begun_at):
                delivery_leases.let_go(connection, one.id, owner=job.owner)
        log_job(Event.DELIVERY_ENDED, job, error=why)

    def turned_back(self, job: Job, why: str) -> None:
        """It was to be brought, and is to be there no more."""
        with self._database.write() as connection:
            now = self._clock()
            if withdrawals.turn_back(connection, job.one.id, why, now, owner=job.owner):
                note_delivery(connection, Event.WITHDRAWAL_ASKED, job.one, job.certificate, now)
            else:
                delivery_leases.let_go(connection, job.one.id, owner=job.owner)
        log_job(Event.DELIVERY_ENDED, job, error=why)

    def failed(self, job: Job, failure: DeliveryFailed) -> None:
        pause = step_delay(job.one.attempts + 1, random.random())  # noqa: S311 spreads load, hides nothing
        again = None if failure.permanent else self._clock() + pause
        words = str(failure)[:LONGEST_WORDS]
        one, owner = job.one, job.owner
        with self._database.write() as connection:
            kind = {"overlaps": job.overlaps, "withdrawal": job.takes_back}
            if not deliveries.failed(connection, one.id, words, again, owner=owner, **kind):
                delivery_leases.let_go(connection, one.id, owner=owner)
        log_job(job.failure, job, attempt=one.attempts + 1, error=words, next=again)

    def _late(self, connection: sa.Connection, job: Job, now: datetime) -> None:
        """The lease ended before we did, or the job has changed meanwhile. Another one is at it, or has done it: whose
        file lies there, if any, and which passphrase opens it, nobody knows, so it is done once more as it is wanted.
        """
        is_to_go = deliveries.get(connection, job.one.id).withdraw_why is not None
        late = (
            f"it was {'taken back' if job.takes_back else 'delivered'} after its lease had ended or its turn was over"
        )
        why = f"{late}, so it is {'taken back' if is_to_go else 'delivered'} once more"
        if delivery_leases.do_again(connection, job.one.id, now, owner=job.owner, why=why):
            event = Event.WITHDRAWAL_ASKED if is_to_go else Event.DELIVERY_ASKED
            note_delivery(connection, event, job.one, job.certificate, now)
        else:
            why = f"{late}, and nobody wants it any more"
        log_job(job.failure, job, error=why)

    def _sealed(self, delivery_id: str, said: Mapping[str, str]) -> dict[str, bytes]:
        return {form: self._vault.seal_passphrase(delivery_id, form, text) for form, text in said.items()}
