# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks authorities when they want each certificate renewed (RFC 9773), at the pace that they ask for."""

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acme_milter.acme.network import Network
from acme_milter.acme.problem import AcmeError, BadAnswer, ServerRefused
from acme_milter.acme.renewal_info import RenewalInfo, renewal_info
from acme_milter.certificate.renewal import renewal_info_id
from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import Cause
from acme_milter.enrollment.renewal import moment_in_window, not_sooner_than, was_advanced
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.client import KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.report.forecast import policy_of, span_by
from acme_milter.store import certificates, enrollments, renewals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.renewals import Renewal
from acme_milter.worker.authorities import Authorities, AuthorityUnusable
from acme_milter.worker.each_authority import EachAuthority

EVERY = timedelta(seconds=1)
SOONEST = timedelta(hours=6)
LATEST = timedelta(days=7)
TOLD_EVERY = timedelta(minutes=5)
_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=6)
"""RFC 9773 §4.3.3: a temporary error is met with exponential back-off, a lasting one every six hours."""


class RenewalInformation:
    """One question to each authority a round, the certificate that has waited longest; each authority in its own turn,
    so that none waits for a silent one.
    """

    def __init__(
        self, *, config: Callable[[], Config], database: Database, clock: Clock, authorities: Authorities
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._authorities = authorities
        self._rests_until: dict[str, float] = {}
        self._pauses: dict[str, timedelta] = {}
        self._advanced: Counter[tuple[str, str | None]] = Counter()
        self._told: float | None = None
        self._counting = threading.Lock()
        self._turns = EachAuthority("renewal-information")

    def begin(self) -> None:
        """One round: begin what is due, and return at once. Raises what the store raises."""
        for name, renewal, stored in self._due():
            self._turns.begin(name, functools.partial(self._ask_one, name, renewal, stored))
        self._tell()

    def ask(self) -> None:
        """One round in the caller's thread. Raises what the store raises."""
        for name, renewal, stored in self._due():
            self._ask_one(name, renewal, stored)
        self._tell()

    def settle(self) -> None:
        """Return when the questions that are under way have ended."""
        self._turns.settle()

    def stop(self) -> None:
        """Begin no more, and `settle`."""
        self._turns.stop()

    def _due(self) -> Iterator[tuple[str, Renewal, StoredCertificate]]:
        for name, authority in self._config().authorities.items():
            if not authority.use_ari or self._clock.monotonic() < self._rests_until.get(name, 0.0):
                continue
            with self._database.read() as connection:
                found = renewals.to_ask(connection, name, self._clock.now(), 1)
                stored = certificates.get(connection, found[0].certificate_id) if found else None
            if stored is not None and self._authorities.is_known(name):
                yield name, found[0], stored

    def _ask_one(self, name: str, renewal: Renewal, stored: StoredCertificate) -> None:
        try:
            network = self._authorities.network(name)
            if network.directory().renewal_info is None:
                self._rest(name, timedelta(days=1))
                return
            self._ask_about(network, renewal, stored)
        except (AcmeError, AuthorityUnusable, KeydUnavailable, KeydRefused) as error:
            asked = error.retry_after if isinstance(error, AcmeError) else None
            pause = min(2 * self._pauses.get(name, _FIRST_PAUSE / 2), _LONGEST_PAUSE)
            self._pauses[name] = pause
            self._rest(name, max(pause, asked or timedelta(0)))
            # The others' turn comes first: it may be this one certificate that the authority stumbles over.
            with self._database.write() as connection:
                renewals.ask_again(connection, stored.id, self._clock.now() + max(pause, SOONEST))
            log_event(Event.AUTHORITY_BUSY, authority=name, asked="renewalInfo", error=str(error))
        else:
            self._pauses.pop(name, None)

    def _rest(self, name: str, pause: timedelta) -> None:
        self._rests_until[name] = self._clock.monotonic() + pause.total_seconds()

    def _ask_about(self, network: Network, renewal: Renewal, stored: StoredCertificate) -> None:
        now = self._clock.now()
        try:
            info = renewal_info(network, renewal_id(stored))
        except ServerRefused as refused:
            if refused.temporary:
                raise
            info, wait = None, LATEST  # it knows nothing of this one
        except BadAnswer:  # RFC 9773 §4.2: a window that ends before it starts is no answer
            info, wait = None, SOONEST
        except ValueError:  # the certificate has no name in RFC 9773
            with self._database.write() as connection:
                renewals.ask_again(connection, renewal.certificate_id, None)
            return
        if info is None:
            with self._database.write() as connection:
                renewals.ask_again(connection, renewal.certificate_id, now + wait)
            return
        self._take(renewal, stored, info, now)

    def _take(self, renewal: Renewal, stored: StoredCertificate, info: RenewalInfo, now: datetime) -> None:
        span = span_by(policy_of(self._config(), stored.address), stored.not_before, stored.not_after)
        before = (renewal.window_start, renewal.window_end) if renewal.window_start and renewal.window_end else None
        window = info.start, info.end
        advanced = was_advanced(window, before, span, now)
        moment = moment_in_window(*window, stored.id, now)
        if self._was_called_for(stored):
            moment = max(moment, not_sooner_than(stored.stored_at, stored.not_after))
        changes: dict[str, object] = {
            "window_start": info.start,
            "window_end": info.end,
            "explanation_url": info.explanation_url,
            "ask_at": now + min(max(info.poll_after, SOONEST), LATEST),
        }
        with self._database.write() as connection:
            current = renewals.get(connection, stored.id)
            if current is None:
                return
            if advanced or before != window:
                # What was opened already keeps its turn, unless the authority calls.
                keeps = current.opened_at is not None and current.due_at > now and not advanced
                due_at = current.due_at if keeps else max(min(moment, span.urgent), now)
                urgent_at = min(moment, span.urgent) if advanced else span.urgent
                renewals.move(connection, stored.id, due_at, urgent_at=urgent_at, **changes)
            else:
                renewals.move(connection, stored.id, current.due_at, **changes)
        if advanced:
            with self._counting:
                self._advanced[stored.authority, info.explanation_url] += 1

    def _was_called_for(self, stored: StoredCertificate) -> bool:
        """Whether the authority calls for the successor of what it has just called for: heard once a day."""
        with self._database.read() as connection:
            enrollment = enrollments.get(connection, stored.enrollment_id)
        return enrollment is not None and enrollment.cause is Cause.URGENT

    def _tell(self) -> None:
        """An authority that calls for everything at once is one line now and then, not one for each certificate."""
        passed = self._clock.monotonic()
        if self._told is not None and passed - self._told < TOLD_EVERY.total_seconds():
            return
        with self._counting:
            advanced, self._advanced = self._advanced, Counter()
        if advanced:
            self._told = passed
        for (authority, url), count in advanced.items():
            log_event(Event.RENEWAL_ADVANCED, level=logging.WARNING, authority=authority, count=count, explanation=url)


def renewal_id(stored: StoredCertificate) -> str:
    """What RFC 9773 §4.1 calls the certificate. Raises NoRenewalIdentifier, a ValueError."""
    leaf = x509.load_pem_x509_certificate(stored.chain_pem)
    return renewal_info_id(leaf.public_bytes(Encoding.DER))
