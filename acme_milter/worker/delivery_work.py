# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker does that was given a job: looks whether it is wanted, and has the target take it or give it back."""

import dataclasses
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509

from acme_milter.certificate.chain import extension_of
from acme_milter.certificate.pem_chain import parse_pem_chain
from acme_milter.certificate.subject_name import names_address, other_spellings
from acme_milter.config.delivery import TargetCommon
from acme_milter.config.schema import Config
from acme_milter.delivery.target import DeliveryFailed, Gone, Parcel, Target
from acme_milter.delivery.targets import make_target
from acme_milter.delivery.wanted import targets_for
from acme_milter.delivery.whereabouts import sections_for, takes_back
from acme_milter.eventlog import Event, log_exception
from acme_milter.keys.client import KeydClient
from acme_milter.mailboxes.holder import holder_of, present_principal
from acme_milter.store import deliveries, delivery_leases, mailbox_keys, withdrawals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.deliveries import Delivery
from acme_milter.worker.delivery_job import LEASE, Job
from acme_milter.worker.delivery_keys import KeydFiles, KeyNotHere
from acme_milter.worker.delivery_plan import why_over
from acme_milter.worker.delivery_results import DeliveryResults
from acme_milter.worker.withdrawing import why_unused

MakeTarget = Callable[[TargetCommon], Target]
Done = TypeVar("Done")


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
        if job.takes_back:
            self._take_back(job)
        else:
            self._bring(job)

    def _bring(self, job: Job) -> None:
        config, now, certificate = self._config(), self._clock(), job.certificate
        with self._database.read() as connection:
            over = why_over(connection, config, job.one, certificate, now)
            unused = None if over is None else why_unused(connection, config, certificate)
            holder = holder_of(connection, config, certificate.address, certificate.principal)
        if over is not None:
            # What may be there already does not stay there because its turn is over.
            if unused is not None and job.one.begun_at is not None and takes_back(config, holder, job.one):
                self._results.turned_back(job, unused)
            else:
                self._results.ended(job, over)
            return
        found = targets_for(config, certificate.address, certificate.principal, certificate.authority)
        section = found[job.one.target]
        parcel = self._parcel(job, config)
        if section.location != job.one.location:
            with self._database.write() as connection:
                delivery_leases.locate(connection, job.one.id, section.location, owner=job.owner)
        delivered = self._have(job, section, lambda target: target.deliver(parcel))
        if delivered is not None:
            self._results.done(job, delivered)

    def _take_back(self, job: Job) -> None:
        """By the section that the configuration has for it now: of whoever has left there may be none any more."""
        one, certificate, config = job.one, job.certificate, self._config()
        with self._database.read() as connection:
            holder = holder_of(connection, config, one.address, certificate.principal)
        sections = sections_for(config, holder, one)
        if len(sections) != 1:
            self._results.failed(job, _nowhere(one, len(sections)))
            return
        with self._database.read() as connection:
            replaced = withdrawals.is_replaced(connection, one.id)
            principal = present_principal(connection, config, one.address)
            staying = withdrawals.staying(connection, one.address, principal, one.target) if principal else []
        gone = Gone(
            certificate_id=certificate.id,
            address=certificate.address,
            serial=certificate.serial,
            usage=certificate.usage,
            chain_pem=certificate.chain_pem,
            beside=tuple(other.chain_pem for other in staying if other.id != certificate.id),
            replaced=replaced,
            why=one.withdraw_why or "",
            still_ours=lambda: self._renew(job),
        )

        def take_back(target: Target) -> str:
            return "; ".join(target.withdraw(one) for one in (gone, *_under_older_names(gone)))

        said = self._have(job, sections[0], take_back)
        if said is not None:
            beneath = [other for other in staying if other.usage is certificate.usage and not replaced]
            self._results.withdrawn(job, said, beneath)

    def _have(self, job: Job, section: TargetCommon, do: Callable[[Target], Done]) -> Done | None:
        """Have the target do it; None when it did not, which is written down then."""
        self._allow(job, section.timeout)
        try:
            return do(self._target(section))
        except KeyNotHere as destroyed:  # since its turn began
            self._results.ended(job, str(destroyed))
        except DeliveryFailed as failure:
            self._results.failed(job, failure)
        except Exception as error:  # noqa: BLE001 the edge of a target: a mistake of ours holds up one job, visibly
            self._results.failed(job, _mistake(job, error))
        return None

    def _parcel(self, job: Job, config: Config) -> Parcel:
        certificate, member = job.certificate, config.member(job.certificate.address)
        with self._database.read() as connection:
            key = mailbox_keys.get(connection, certificate.key_id)
            in_use = deliveries.in_use(connection, certificate.address, certificate.principal)
            going = withdrawals.going(connection, [one.id for one in in_use], job.one.target)
        beside = [one for one in in_use if one.usage is not certificate.usage and one.id not in going]
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
            beside=tuple(other.chain_pem for other in beside),
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


def _under_older_names(gone: Gone) -> list[Gone]:
    """The same where it was put as long as the mailbox was spelled as in the certificate."""
    found = []
    for spelled in other_spellings(_names_in(gone.chain_pem), gone.address):
        there = (one for one in gone.beside if any(names_address(name, spelled) for name in _names_in(one)))
        found.append(dataclasses.replace(gone, address=spelled, beside=tuple(there)))
    return found


def _names_in(chain_pem: bytes) -> list[x509.GeneralName]:
    return list(extension_of(parse_pem_chain(chain_pem)[0], x509.SubjectAlternativeName) or ())


def _nowhere(one: Delivery, number: int) -> DeliveryFailed:
    place = f"it was put there: {one.outcome}" if one.outcome else "where it was put is not known"
    found = "several different targets" if number else "no target"
    where = f" at {one.location}" if one.location and not number else ""
    return DeliveryFailed(
        f"the configuration has {found} {one.target} (to: {one.kind}){where} for the mailbox by now, so nobody knows"
        f" how to take it back; {place}. Remove it by hand, then:"
        f" acme-milter deliver withdraw {one.address} --target {one.target} --by-hand",
        permanent=True,
    )


def _mistake(job: Job, error: Exception) -> DeliveryFailed:
    log_exception(Event.INTERNAL_ERROR, error, rcpt=job.one.address, target=job.one.target)
    return DeliveryFailed(f"internal error ({type(error).__name__}); the worker's log has the place")
