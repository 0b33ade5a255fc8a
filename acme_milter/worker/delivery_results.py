# SPDX-License-Identifier: GPL-3.0-or-later
"""What came of a delivery, written down by whoever was given it, and what follows when he was late."""

import random
from collections.abc import Callable, Mapping
from datetime import datetime

import sqlalchemy as sa

from acme_milter.delivery.target import Delivered, DeliveryFailed
from acme_milter.enrollment.backoff import step_delay
from acme_milter.eventlog import Event
from acme_milter.store import deliveries, delivery_leases, passphrases
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

    def ended(self, job: Job, why: str) -> None:
        with self._database.write() as connection:
            deliveries.ended(connection, job.one.id, why, self._clock(), owner=job.owner)
        log_job(Event.DELIVERY_ENDED, job, error=why)

    def failed(self, job: Job, failure: DeliveryFailed) -> None:
        pause = step_delay(job.one.attempts + 1, random.random())  # noqa: S311 spreads load, hides nothing
        again = None if failure.permanent else self._clock() + pause
        words = str(failure)[:LONGEST_WORDS]
        with self._database.write() as connection:
            deliveries.failed(connection, job.one.id, words, again, owner=job.owner, overlaps=job.overlaps)
        log_job(Event.DELIVERY_FAILED, job, attempt=job.one.attempts + 1, error=words, next=again)

    def _late(self, connection: sa.Connection, job: Job, now: datetime) -> None:
        """The lease ended before we did. Another one is at it, or has done it: whose file lies there, and which
        passphrase opens it, nobody knows, so it is brought once more.
        """
        why = "it was delivered after its lease had ended, so it is delivered once more"
        if delivery_leases.do_again(connection, job.one.id, now, owner=job.owner, why=why):
            note_delivery(connection, Event.DELIVERY_ASKED, job.one, job.certificate, now)
        else:
            why = "it was delivered after its lease had ended, and nobody wants it any more"
        log_job(Event.DELIVERY_FAILED, job, error=why)

    def _sealed(self, delivery_id: str, said: Mapping[str, str]) -> dict[str, bytes]:
        return {form: self._vault.seal_passphrase(delivery_id, form, text) for form, text in said.items()}
