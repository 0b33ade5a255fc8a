# SPDX-License-Identifier: GPL-3.0-or-later
"""The circuit breaker: when an authority counts as broken, and how it is found out that it has healed (F-14).

A failure is an answer that no order could have had another fate with: no connection, TLS, a timeout, 5xx, nonsense.
"Too many" is not one (it pauses, and says for how long), nor is a refusal, which is about one mailbox or one account;
but that the account does not exist is one: no order of anybody who has it can be placed.
What ends a row of failures is an order that was taken: a broken authority may still answer every question from a cache.

    closed ── FAILURES in a row ──► open ── it answers the probe ──► half open ── one order is taken ──► closed
                                     ▲ │ no answer: later            │ none is: open again, for longer
                                     └─┴────────────────────────────◄┘

All of it is in the store, so that it holds for every host and outlives each. A lost count is harmless: whoever fails
next counts. A host that dies while it probes has put the next probe off already, and one that dies with the trial in
its hands leaves a trial that ends by itself.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.acme.network import Network
from acme_milter.acme.problem import AcmeError, BadAnswer, ErrorType, RateLimited, ServerBusy
from acme_milter.config.schema import Authority, Config
from acme_milter.enrollment.model import Enrollment
from acme_milter.enrollment.state_machine import OrderPlaced
from acme_milter.eventlog import Event, log_event
from acme_milter.store import audit, authority_health
from acme_milter.store.authority_health import Health
from acme_milter.store.database import Database
from acme_milter.worker.each_authority import EachAuthority
from acme_milter.worker.step import Step

FAILURES = 5
"""In a row. An authority that drops one request in ten comes to that once in a hundred thousand; one that is down does
within the first half minute of a single order's retries (1, 2, 4, 8, 16 seconds)."""

ROW_LASTS = timedelta(minutes=10)
"""A failure that is older begins no row with a new one: where nothing is ordered, nothing ends a row either."""

FIRST_PROBE = timedelta(minutes=1)
LONGEST_PROBE = timedelta(minutes=30)
TRIAL_LASTS = timedelta(minutes=5)
"""After that a trial has shown nothing: its mailbox has left, was refused, or waits for something else."""

EVERY = timedelta(seconds=5)


_OF_EVERYBODY = frozenset({ErrorType.SERVER_INTERNAL, ErrorType.ACCOUNT_DOES_NOT_EXIST})


def is_failure(error: AcmeError) -> bool:
    """Whether the error speaks against the authority as a whole."""
    if isinstance(error, RateLimited):
        return False
    return isinstance(error, ServerBusy | BadAnswer) or error.kind in _OF_EVERYBODY


def after_failure(health: Health, error: str, now: datetime, enrollment_id: str) -> Health:
    """One more failure, of that enrollment's step (or of an account's key exchange, with the account's id).

    While it is open only the trial's says anything new.
    """
    if health.is_open:
        return _open_again(health, error, now) if health.trial_id == enrollment_id else health
    goes_on = health.failed_at is not None and abs(now - health.failed_at) <= ROW_LASTS
    failures = health.failures + 1 if goes_on else 1
    counted = dataclasses.replace(health, failures=failures, failed_at=now, last_error=error)
    if failures < FAILURES:
        return counted
    return dataclasses.replace(counted, open_since=now, openings=1, probe_at=now + FIRST_PROBE)


def after_order(health: Health) -> Health:
    """It has taken an order."""
    return Health(authority=health.authority)


def probe_is_due(health: Health, now: datetime) -> bool:
    """Whether it is to be asked now. A date that no clock which was right can have set does not count."""
    if not health.is_open or health.probe_at is None:
        return False
    return not now < health.probe_at <= now + LONGEST_PROBE


def probing(health: Health, now: datetime) -> Health:
    """Somebody asks it now, and nobody else before the next time. A trial that has shown nothing is over."""
    return dataclasses.replace(health, probe_at=now + _pause(health.openings), trial_id=None)


def after_probe(health: Health, error: str | None, now: datetime) -> Health:
    """What the probe has found: an ``error``, or an answer."""
    if error is not None:
        return _open_again(health, error, now)
    return dataclasses.replace(health, probe_at=None, trial_id=None)


def on_trial(health: Health, enrollment_id: str, now: datetime) -> Health:
    """This one enrollment may begin with it."""
    return dataclasses.replace(health, probe_at=now + TRIAL_LASTS, trial_id=enrollment_id)


def _open_again(health: Health, error: str, now: datetime) -> Health:
    openings = health.openings + 1
    return dataclasses.replace(
        health, failed_at=now, last_error=error, openings=openings, probe_at=now + _pause(openings), trial_id=None
    )


def _pause(openings: int) -> timedelta:
    doublings: int = min(openings - 1, 10)
    return min(FIRST_PROBE * (1 << doublings), LONGEST_PROBE)


def judged(
    connection: sa.Connection, authority: str, judge: Callable[[Health], Health], now: datetime
) -> tuple[Health, Health]:
    """What ``judge`` makes of the authority, kept: before and after, to `tell` once it is committed."""
    before = authority_health.get(connection, authority)
    after = judge(before)
    if after != before:
        authority_health.put(connection, after)
        _record(connection, before, after, now)
    return before, after


class Breaker:
    """Watches what steps come to; holds no state. ``changed`` is called when an authority breaks, or has healed."""

    def __init__(self, clock: Callable[[], datetime], changed: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self.changed = changed

    def watch(self, enrollment: Enrollment, step: Step, error: AcmeError | None = None) -> Step:
        """The step, to be saved together with what it says of the authority."""
        if error is not None and is_failure(error):
            text = str(error)
            return self._with(step, enrollment, lambda known: after_failure(known, text, self._clock(), enrollment.id))
        if isinstance(step.event, OrderPlaced):
            return self._with(step, enrollment, after_order)
        return step

    def _with(self, step: Step, enrollment: Enrollment, judge: Callable[[Health], Health]) -> Step:
        changes: list[tuple[Health, Health]] = []

        def also(connection: sa.Connection) -> None:
            step.also(connection)
            changes.append(judged(connection, enrollment.authority, judge, self._clock()))

        def afterwards() -> None:
            step.afterwards()
            for before, after in changes:
                if tell(before, after):
                    self.changed()

        return dataclasses.replace(step, also=also, afterwards=afterwards)


class Prober:
    """Asks authorities that are broken whether they have healed, each in its own turn: none waits for a silent one."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Callable[[], datetime],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self.changed = changed
        self._turns = EachAuthority("probe")

    def begin(self) -> None:
        """One round: begin what is due, and return at once. Raises what the store raises."""
        for name, authority in self._due():
            self._turns.begin(name, functools.partial(self._probe, name, authority))

    def look(self) -> None:
        """One round in the caller's thread. Raises what the store raises."""
        for name, authority in self._due():
            self._probe(name, authority)

    def settle(self) -> None:
        """Return when the probes that are under way have ended."""
        self._turns.settle()

    def stop(self) -> None:
        """Begin no more, and `settle`."""
        self._turns.stop()

    def _due(self) -> list[tuple[str, Authority]]:
        configured = self._config().authorities
        with self._database.read() as connection:
            known = authority_health.of_all(connection)
        if known.keys() - configured.keys():
            with self._database.write() as connection:
                authority_health.forget_others(connection, configured)
        return [
            (name, configured[name])
            for name, health in known.items()
            if name in configured and probe_is_due(health, self._clock())
        ]

    def _probe(self, name: str, authority: Authority) -> None:
        with self._database.write() as connection:
            health = authority_health.get(connection, name)
            if not probe_is_due(health, self._clock()):  # another host was here
                return
            claimed = probing(health, self._clock())
            authority_health.put(connection, claimed)
        error = ask(authority)
        with self._database.write() as connection:
            if authority_health.get(connection, name) != claimed:  # an order has gone through meanwhile
                return
            after = after_probe(claimed, error, self._clock())
            authority_health.put(connection, after)
            _record(connection, claimed, after, self._clock())
        if tell(claimed, after):
            self.changed()


def ask(authority: Authority) -> str | None:
    """Read its directory over a new connection, which changes nothing there; what is wrong, None when nothing is."""
    try:
        network = Network(authority.directory, ca_bundle=authority.ca_bundle, connections=1)
    except OSError as error:
        return f"ca_bundle: {error.strerror or 'no certificates in it'}"
    try:
        network.directory()
    except AcmeError as error:
        return str(error)
    finally:
        network.close()
    return None


def tell(before: Health, after: Health) -> bool:
    """Log what a change means; False: nothing that anybody waits for."""
    name = after.authority
    if before.is_open and not after.is_open:
        log_event(Event.AUTHORITY_HEALED, authority=name, since=before.open_since)
    elif after.is_open and after.openings > before.openings:
        log_event(
            Event.AUTHORITY_FAILING,
            level=logging.ERROR if not before.is_open else logging.WARNING,
            authority=name,
            since=after.open_since,
            next=after.probe_at,
            error=after.last_error,
        )
    elif after.wants_trial and not before.wants_trial:
        log_event(Event.AUTHORITY_HEALED, authority=name, since=after.open_since, trial=True)
    else:
        return False
    return True


def _record(connection: sa.Connection, before: Health, after: Health, now: datetime) -> None:
    """The audit trail has when it broke and when it was well again, not each probe."""
    if before.is_open == after.is_open:
        return
    event = Event.AUTHORITY_FAILING if after.is_open else Event.AUTHORITY_HEALED
    details = {"authority": after.authority, "error": after.last_error, "since": before.open_since}
    audit.record(
        connection, event, at=now, details={key: str(value) for key, value in details.items() if value is not None}
    )
