# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a mailbox and decides whether it has a certificate: gathered here, told by `why`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.schema import Config
from acme_milter.enrollment.kinds import covers
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.staging import is_staging
from acme_milter.report.key_exchange import KeyExchange, holding_back
from acme_milter.report.member import Known
from acme_milter.store import authority_health, enrollments, holds, pauses, timeline
from acme_milter.store.authority_health import Health
from acme_milter.store.holds import Hold
from acme_milter.store.pauses import Pause
from acme_milter.store.timeline import CertificateLine, RenewalLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What is needed to tell how a mailbox came to what it has. Orders and certificates are the newest first."""

    known: Known
    orders: Sequence[Enrollment]
    certificates: Sequence[CertificateLine]
    current: CertificateLine | None
    lacks: KeyUsageKind | None
    """What it cannot do although there is a certificate: to sign, or to be written to."""
    renewal: RenewalLine | None
    pause: Pause | None
    exchange: KeyExchange | None
    """Of the account's key, which holds the open order back."""
    holds: Sequence[Hold]
    health: Mapping[str, Health]
    """Of the authorities that have failed since their last order."""

    @property
    def in_earnest(self) -> list[Enrollment]:
        """The orders without rehearsals, which change nothing."""
        return _in_earnest(self.orders)

    @property
    def open_order(self) -> Enrollment | None:
        return _open_order(self.orders)


def story_of(connection: sa.Connection, config: Config, now: datetime, known: Known) -> Story:
    """All that is known of a mailbox and decides what it has."""
    certificates = timeline.certificates_of(connection, known.address)
    in_use = _in_use(known, certificates, now)
    current = max(in_use, key=lambda line: line.not_after, default=None)
    authority = known.policy.authorities[0] if known.policy else None
    orders = enrollments.of_mailbox(connection, known.address)
    under_way = _open_order(orders)
    return Story(
        known=known,
        orders=orders,
        certificates=certificates,
        current=current,
        lacks=_lacks(in_use),
        renewal=None if current is None else timeline.renewal_of(connection, current.id),
        exchange=None if under_way is None else holding_back(connection, config, under_way, now),
        pause=None if authority is None else pauses.in_force(connection, now).get(authority),
        holds=[hold for hold in holds.waiting(connection) if hold.released_at is None],
        health=authority_health.of_all(connection),
    )


def _in_earnest(orders: Sequence[Enrollment]) -> list[Enrollment]:
    return [order for order in orders if not is_staging(order.authority)]


def _open_order(orders: Sequence[Enrollment]) -> Enrollment | None:
    return next((order for order in _in_earnest(orders) if order.is_open), None)


def _in_use(known: Known, certificates: Sequence[CertificateLine], now: datetime) -> list[CertificateLine]:
    """The present person's that are valid."""
    in_use = [line for line in certificates if line.state == State.ACTIVE and line.not_after > now]
    return [line for line in in_use if known.is_theirs(line.principal) and not is_staging(line.authority)]


def _lacks(in_use: Sequence[CertificateLine]) -> KeyUsageKind | None:
    usages = {KeyUsageKind(line.usage) for line in in_use}
    if not usages or covers(usages):
        return None
    return KeyUsageKind.ENCRYPT if usages == {KeyUsageKind.SIGN} else KeyUsageKind.SIGN
