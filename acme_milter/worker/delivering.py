# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivering: has what is due brought to its target, or taken back from it, one job after the other."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.delivery.targets import make_target
from acme_milter.eventlog import Event, log_exception
from acme_milter.keys.client import KeydClient
from acme_milter.program import end_programs
from acme_milter.store import certificates, deliveries, delivery_leases, withdrawals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database, in_words
from acme_milter.worker.delivery_job import LEASE, Job, log_job, note_delivery
from acme_milter.worker.delivery_results import DeliveryResults, WhenDone
from acme_milter.worker.delivery_work import DeliveryWork, MakeTarget
from acme_milter.worker.vault import Vault

EVERY = timedelta(seconds=2)
THREADS_EACH = 4
"""For each target title: one that hangs takes up its own threads, and nobody else's."""

GRACE = 10.0
"""Seconds beyond the target's timeout in which it may say itself that it has given up."""
POLITE = 5.0
"""Seconds that an end of the worker waits for jobs under way; the next start finds them due."""
CLEARING = 1.0
"""Seconds for jobs whose program was killed then: they remove its files, and a key is among them."""


def _nothing(_connection: sa.Connection, _certificate: StoredCertificate) -> None:
    pass


class Delivering:
    """A few threads for each target that something is due for, and none where there is nothing.

    `when_done` is called in the transaction in which a certificate has reached one of its targets.
    """

    def __init__(
        self,
        *,
        owner: str,
        config: Callable[[], Config],
        database: Database,
        vault: Vault,
        keyd: KeydClient,
        clock: Callable[[], datetime],
        make: MakeTarget = make_target,
        when_done: WhenDone = _nothing,
    ) -> None:
        """`owner`: PLACE#WORD, as the scheduler's."""
        self._owner = owner
        self._database = database
        self._clock = clock
        self._when_done = when_done
        results = DeliveryResults(database=database, vault=vault, clock=clock, when_done=when_done)
        self._do = DeliveryWork(config=config, database=database, keyd=keyd, clock=clock, results=results, make=make).do
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._working: Counter[str] = Counter()
        self._threads: set[threading.Thread] = set()
        self._jobs: dict[str, Job] = {}
        self._stopping = threading.Event()
        self._look_back_at = 0.0

    def start(self) -> None:
        """Leases of our predecessors at this place are void: whoever calls this holds the place's sockets."""
        place = self._owner.rpartition("#")[0]
        with self._database.write() as connection:
            withdrawals.take_over(connection, self._clock())
            delivery_leases.release_all(connection, place=place, but=self._owner)

    def work(self) -> None:
        """Begin what is due, tell of what does not end, and return at once."""
        self._tell_overdue()
        self._look_back()
        with self._database.read() as connection:
            due = deliveries.targets_due(connection, self._clock())
        for title in due:
            with self._lock:
                if self._working[title] >= THREADS_EACH or self._stopping.is_set():
                    continue
                thread = threading.Thread(target=self._run, args=(title,), name=f"deliver-{title}", daemon=True)
                self._working[title] += 1
                self._threads.add(thread)
                thread.start()

    def stop(self) -> None:
        """Begin nothing new, wait a little for what is under way, and leave no program behind."""
        self._stopping.set()
        with self._lock:
            running = list(self._threads)
        _join(running, POLITE)
        if end_programs():
            _join(running, CLEARING)

    def work_off(self, title: str) -> None:
        """Everything that is due at the target, one after the other, in the caller's thread."""
        while not self._stopping.is_set() and (job := self._claim(title)) is not None:
            with self._lock:
                self._jobs[job.one.id] = job
            try:
                self._do(job)
            finally:
                with self._lock:
                    del self._jobs[job.one.id]

    def _run(self, title: str) -> None:
        try:
            self.work_off(title)
        except Exception as error:  # noqa: BLE001 the edge of the thread: the lease ends, and the row is due again
            log_exception(Event.INTERNAL_ERROR, in_words(error), target=title)
        finally:
            with self._lock:
                self._working[title] -= 1
                self._threads.discard(threading.current_thread())

    def _claim(self, title: str) -> Job | None:
        """The next job of the target. That a key may leave is noted before its first file is made."""
        owner, now = f"{self._owner}.{next(self._numbers)}", self._clock()
        with self._database.write() as connection:
            one = deliveries.claim(connection, title, owner=owner, now=now, until=now + LEASE)
            if one is None:
                return None
            certificate = certificates.get(connection, one.certificate_id)
            if one.attempts == 0 and one.withdraw_why is None:
                note_delivery(connection, Event.DELIVERY_BEGUN, one, certificate, now)
        return Job(one, owner, certificate)

    def _look_back(self) -> None:
        """Nobody is at work any more where two may have been: what was put off for that comes now."""
        passed = time.monotonic()
        if passed < self._look_back_at:
            return
        self._look_back_at = passed + LEASE.total_seconds()
        with self._database.write() as connection:
            for certificate_id in delivery_leases.end_overlaps(connection, self._clock()):
                self._when_done(connection, certificates.get(connection, certificate_id))

    def _tell_overdue(self) -> None:
        """What hangs cannot be ended, so its mailbox waits for it, but people are to know, and other hosts too."""
        passed = time.monotonic()
        with self._lock:
            jobs = [job for job in self._jobs.values() if job.is_overdue(GRACE)]
        for job in jobs:
            if job.told_at is not None and passed < job.told_at + LEASE.total_seconds() / 5:
                continue
            words = (
                f"has not ended after {job.timeout.total_seconds():g} s, and cannot be ended; it is still waited for"
            )
            with self._database.write() as connection:
                delivery_leases.extend(
                    connection, job.one.id, owner=job.owner, until=self._clock() + LEASE, last_error=words
                )
            if job.told_at is None:
                log_job(job.failure, job, error=words, next=None)
            job.told_at = passed


def _join(threads: list[threading.Thread], patience: float) -> None:
    give_up = time.monotonic() + patience
    for thread in threads:
        thread.join(max(give_up - time.monotonic(), 0))
