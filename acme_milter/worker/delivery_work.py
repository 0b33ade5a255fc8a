# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker does that was given a delivery: looks whether it is still wanted, and has the target take it."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from acme_milter.config.delivery import TargetCommon
from acme_milter.config.schema import Config
from acme_milter.delivery.target import DeliveryFailed, Parcel, Target
from acme_milter.delivery.targets import make_target
from acme_milter.delivery.wanted import targets_for
from acme_milter.eventlog import Event, log_exception
from acme_milter.keys.client import KeydClient
from acme_milter.store import deliveries, delivery_leases, mailbox_keys
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.worker.delivery_job import LEASE, Job
from acme_milter.worker.delivery_keys import KeydFiles
from acme_milter.worker.delivery_plan import why_over
from acme_milter.worker.delivery_results import DeliveryResults

MakeTarget = Callable[[TargetCommon], Target]


class DeliveryWork:
    """Any number of threads may call it."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        keyd: KeydClient,
        clock: Callable[[], datetime],
        results: DeliveryResults,
        make: MakeTarget = make_target,
    ) -> None:
        self._config = config
        self._database = database
        self._keyd = keyd
        self._clock = clock
        self._results = results
        self._make = make
        self._lock = threading.Lock()
        self._targets: dict[TargetCommon, Target] = {}

    def do(self, job: Job) -> None:
        """The whole job, to its end."""
        config, now, certificate = self._config(), self._clock(), job.certificate
        with self._database.read() as connection:
            over = why_over(connection, config, job.one, certificate, now)
        if over is not None:
            self._results.ended(job, over)
            return
        found = targets_for(config, certificate.address, certificate.principal, certificate.authority)
        section = found[job.one.target]
        parcel = self._parcel(job, config)
        self._allow(job, section.timeout)
        try:
            delivered = self._target(section).deliver(parcel)
        except DeliveryFailed as failure:
            self._results.failed(job, failure)
        except Exception as error:  # noqa: BLE001 the edge of a target: a mistake of ours holds up one job, visibly
            self._results.failed(job, _mistake(job, error))
        else:
            self._results.done(job, delivered)

    def _parcel(self, job: Job, config: Config) -> Parcel:
        certificate, member = job.certificate, config.member(job.certificate.address)
        with self._database.read() as connection:
            key = mailbox_keys.get(connection, certificate.key_id)
            in_use = deliveries.in_use(connection, certificate.address, certificate.principal)
        return Parcel(
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

    def _target(self, section: TargetCommon) -> Target:
        """The same one for the same settings: it may keep a connection, or have to take turns."""
        with self._lock:
            if section not in self._targets:
                self._targets[section] = self._make(section)
            return self._targets[section]

    def _allow(self, job: Job, timeout: timedelta) -> None:
        job.allow(timeout)
        if timeout > LEASE / 2:
            until = self._clock() + timeout + LEASE
            with self._database.write() as connection:
                delivery_leases.extend(connection, job.one.id, owner=job.owner, until=until)

    def _renew(self, job: Job) -> bool:
        """Whether it is still our job; then it is for as long as its last step may take."""
        until = self._clock() + job.timeout + LEASE
        with self._database.write() as connection:
            return delivery_leases.renew(connection, job.one.id, owner=job.owner, until=until)


def _custody(config: Config, certificate: StoredCertificate) -> str | None:
    policy = config.policy_for(certificate.address)
    return None if policy is None else policy.custody


def _mistake(job: Job, error: Exception) -> DeliveryFailed:
    log_exception(Event.INTERNAL_ERROR, error, rcpt=job.one.address, target=job.one.target)
    return DeliveryFailed(f"internal error ({type(error).__name__}); the worker's log has the place")
