# SPDX-License-Identifier: GPL-3.0-or-later
"""A delivery that a worker was given to bring or to take back, and how it is told of."""

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from acme_milter.eventlog import Event, log_event
from acme_milter.store import audit
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import Delivery

LEASE = timedelta(minutes=5)
"""Beyond the target's timeout."""


@dataclass(slots=True)
class Job:
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

    @property
    def takes_back(self) -> bool:
        """Whether it is to be there no more."""
        return self.one.withdraw_why is not None

    @property
    def failure(self) -> Event:
        """How it is told that it did not work."""
        return Event.WITHDRAWAL_FAILED if self.takes_back else Event.DELIVERY_FAILED

    def allow(self, timeout: timedelta) -> None:
        """From now on the target has so long."""
        self.timeout, self.began = timeout, time.monotonic()

    def is_overdue(self, grace: float) -> bool:
        """Whether the target has had its time, and `grace` seconds more to say so itself."""
        return bool(self.timeout) and time.monotonic() > self.began + self.timeout.total_seconds() + grace


_FAILURES = frozenset({Event.DELIVERY_FAILED, Event.WITHDRAWAL_FAILED})


def log_job(event: Event, job: Job, **facts: Any) -> None:
    """Tell of it in the log."""
    level = logging.WARNING if event in _FAILURES else logging.INFO
    serial = job.certificate.serial
    log_event(event, level=level, rcpt=job.one.address, target=job.one.target, serial=serial, **facts)


def note_delivery(
    connection: sa.Connection, event: Event, one: Delivery, certificate: StoredCertificate, now: datetime
) -> None:
    """Put it into the audit trail."""
    audit.record(
        connection,
        event,
        at=now,
        enrollment_id=certificate.enrollment_id,
        address=one.address,
        details={"target": one.target, "serial": certificate.serial},
    )
