# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivering: has what is due brought to its target, one job after the other, until each is there or over."""

import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from acme_milter.config.delivery import TargetCommon
from acme_milter.config.schema import Config
from acme_milter.delivery.target import Delivered, DeliveryFailed, Parcel, Target
from acme_milter.delivery.targets import make_target
from acme_milter.delivery.wanted import targets_for
from acme_milter.enrollment.backoff import step_delay
from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.keys.client import KeydClient
from acme_milter.store import audit, certificates, deliveries, delivery_leases, mailbox_keys, passphrases
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database, in_words
from acme_milter.store.deliveries import Delivery
from acme_milter.worker.delivery_keys import KeydFiles
from acme_milter.worker.delivery_plan import why_over
from acme_milter.worker.vault import Vault

EVERY = timedelta(seconds=2)
THREADS_EACH = 4
"""For each target title: one that hangs takes up its own threads, and nobody else's."""

LEASE = timedelta(minutes=5)
"""Beyond the target's timeout."""
GRACE = 10.0
"""Seconds beyond the target's timeout in which it may say itself that it has given up."""
POLITE = 5.0
"""Seconds that an end of the worker waits for jobs under way; the next start finds them due."""
LONGEST_WORDS = 1000


def _nothing(_connection: sa.Connection, _certificate: StoredCertificate) -> None:
    pass


@dataclass(slots=True)
class _Job:
    """One claim. `owner` is its lease's name."""

    one: Delivery
    owner: str
    certificate: StoredCertificate
    timeout: timedelta = timedelta(0)
    began: float = field(default_factory=time.monotonic)
    told_at: float | None = None

    @property
    def overlaps(self) -> bool:
        """Whether somebody else whose lease had ended may still be at it."""
        return self.one.lease_owner is not None


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
        make: Callable[[TargetCommon], Target] = make_target,
        when_done: Callable[[sa.Connection, StoredCertificate], None] = _nothing,
    ) -> None:
        """`owner`: PLACE#WORD, as the scheduler's."""
        self._owner = owner
        self._config = config
        self._database = database
        self._vault = vault
        self._keyd = keyd
        self._clock = clock
        self._make = make
        self._when_done = when_done
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._targets: dict[TargetCommon, Target] = {}
        self._working: Counter[str] = Counter()
        self._threads: set[threading.Thread] = set()
        self._jobs: dict[str, _Job] = {}
        self._stopping = threading.Event()
        self._look_back_at = 0.0

    def start(self) -> None:
        """Leases of our predecessors at this place are void: whoever calls this holds the place's sockets."""
        place = self._owner.rpartition("#")[0]
        with self._database.write() as connection:
            deliveries.release_all(connection, place=place, but=self._owner)

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
        """Begin nothing new, and wait a little for what is under way."""
        self._stopping.set()
        give_up = time.monotonic() + POLITE
        with self._lock:
            running = list(self._threads)
        for thread in running:
            thread.join(max(give_up - time.monotonic(), 0))

    def work_off(self, title: str) -> None:
        """Everything that is due at the target, one after the other, in the caller's thread."""
        while not self._stopping.is_set() and (job := self._claim(title)) is not None:
            with self._lock:
                self._jobs[job.one.id] = job
            try:
                self._deliver(job)
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

    def _claim(self, title: str) -> _Job | None:
        """The next job of the target. That a key may leave is noted before its first file is made."""
        owner, now = f"{self._owner}.{next(self._numbers)}", self._clock()
        with self._database.write() as connection:
            one = deliveries.claim(connection, title, owner=owner, now=now, until=now + LEASE)
            if one is None:
                return None
            certificate = certificates.get(connection, one.certificate_id)
            if one.attempts == 0:
                _note(connection, Event.DELIVERY_BEGUN, one, certificate, now)
        return _Job(one, owner, certificate)

    def _deliver(self, job: _Job) -> None:
        config, now, certificate = self._config(), self._clock(), job.certificate
        with self._database.read() as connection:
            over = why_over(connection, config, job.one, certificate, now)
            key = mailbox_keys.get(connection, certificate.key_id)
            in_use = deliveries.in_use(connection, certificate.address, certificate.principal)
        if over is not None:
            self._ended(job, over)
            return
        found = targets_for(config, certificate.address, certificate.principal, certificate.authority)
        section, member = found[job.one.target], config.member(certificate.address)
        parcel = Parcel(
            certificate_id=certificate.id,
            address=certificate.address,
            person_name=None if member is None else member.person_name,
            serial=certificate.serial,
            not_before=certificate.not_before,
            not_after=certificate.not_after,
            usage=certificate.usage,
            chain_pem=certificate.chain_pem,
            key=KeydFiles(keyd=self._keyd, key=key, certificate=certificate, custody=_custody(config, certificate)),
            beside=tuple(other.chain_pem for other in in_use if other.usage is not certificate.usage),
            still_ours=lambda: self._renew(job),
        )
        self._allow(job, section.timeout)
        try:
            delivered = self._target(section).deliver(parcel)
        except DeliveryFailed as failure:
            self._failed(job, str(failure), permanent=failure.permanent)
        except Exception as error:  # noqa: BLE001 the edge of a target: a mistake of ours holds up one job, visibly
            log_exception(Event.INTERNAL_ERROR, error, rcpt=certificate.address, target=job.one.target)
            text = f"internal error ({type(error).__name__}); the worker's log has the place"
            self._failed(job, text, permanent=False)
        else:
            self._done(job, delivered)

    def _target(self, section: TargetCommon) -> Target:
        """The same one for the same settings: it may keep a connection, or have to take turns."""
        with self._lock:
            if section not in self._targets:
                self._targets[section] = self._make(section)
            return self._targets[section]

    def _allow(self, job: _Job, timeout: timedelta) -> None:
        job.timeout, job.began = timeout, time.monotonic()
        if timeout > LEASE / 2:
            until = self._clock() + timeout + LEASE
            with self._database.write() as connection:
                deliveries.extend(connection, job.one.id, owner=job.owner, until=until)

    def _renew(self, job: _Job) -> bool:
        """Whether it is still our job; then it is for as long as its last step may take."""
        until = self._clock() + job.timeout + LEASE
        with self._database.write() as connection:
            return delivery_leases.renew(connection, job.one.id, owner=job.owner, until=until)

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
            jobs = [
                job
                for job in self._jobs.values()
                if job.timeout and passed > job.began + job.timeout.total_seconds() + GRACE
            ]
        for job in jobs:
            if job.told_at is not None and passed < job.told_at + LEASE.total_seconds() / 5:
                continue
            words = (
                f"has not ended after {job.timeout.total_seconds():g} s, and cannot be ended; it is still waited for"
            )
            with self._database.write() as connection:
                deliveries.extend(
                    connection, job.one.id, owner=job.owner, until=self._clock() + LEASE, last_error=words
                )
            if job.told_at is None:
                self._log(Event.DELIVERY_FAILED, job, error=words, next=None)
            job.told_at = passed

    def _done(self, job: _Job, delivered: Delivered) -> None:
        one, now = job.one, self._clock()
        sealed = {form: self._vault.seal_passphrase(one.id, form, text) for form, text in delivered.passphrases.items()}
        with self._database.write() as connection:
            outcome = delivered.outcome[:LONGEST_WORDS]
            overlaps_until = now + LEASE if job.overlaps else None
            if not deliveries.done(connection, one.id, outcome, now, owner=job.owner, overlaps_until=overlaps_until):
                self._late(connection, job, now)
                return
            passphrases.replace(connection, one.id, sealed, now)
            _note(connection, Event.DELIVERY_DONE, one, job.certificate, now)
            self._when_done(connection, job.certificate)
        self._log(Event.DELIVERY_DONE, job, attempt=one.attempts + 1)

    def _late(self, connection: sa.Connection, job: _Job, now: datetime) -> None:
        """The lease ended before we did. Another one is at it, or has done it: whose file lies there, and which
        passphrase opens it, nobody knows, so it is brought once more.
        """
        why = "it was delivered after its lease had ended, so it is delivered once more"
        if delivery_leases.bring_again(connection, job.one.id, now, owner=job.owner, why=why):
            _note(connection, Event.DELIVERY_ASKED, job.one, job.certificate, now)
        else:
            why = "it was delivered after its lease had ended, and nobody wants it any more"
        self._log(Event.DELIVERY_FAILED, job, error=why)

    def _ended(self, job: _Job, why: str) -> None:
        with self._database.write() as connection:
            deliveries.ended(connection, job.one.id, why, self._clock(), owner=job.owner)
        self._log(Event.DELIVERY_ENDED, job, error=why)

    def _failed(self, job: _Job, error: str, *, permanent: bool) -> None:
        pause = step_delay(job.one.attempts + 1, random.random())  # noqa: S311 spreads load, hides nothing
        again = None if permanent else self._clock() + pause
        words = error[:LONGEST_WORDS]
        with self._database.write() as connection:
            deliveries.failed(connection, job.one.id, words, again, owner=job.owner, overlaps=job.overlaps)
        self._log(Event.DELIVERY_FAILED, job, attempt=job.one.attempts + 1, error=words, next=again)

    def _log(self, event: Event, job: _Job, **facts: Any) -> None:
        level = logging.WARNING if event is Event.DELIVERY_FAILED else logging.INFO
        serial = job.certificate.serial
        log_event(event, level=level, rcpt=job.one.address, target=job.one.target, serial=serial, **facts)


def _custody(config: Config, certificate: StoredCertificate) -> str | None:
    policy = config.policy_for(certificate.address)
    return None if policy is None else policy.custody


def _note(
    connection: sa.Connection, event: Event, one: Delivery, certificate: StoredCertificate, now: datetime
) -> None:
    audit.record(
        connection,
        event,
        at=now,
        enrollment_id=certificate.enrollment_id,
        address=one.address,
        details={"target": one.target, "serial": certificate.serial},
    )
