# SPDX-License-Identifier: GPL-3.0-or-later
"""Which authority a mailbox's next order goes to: the first of its policy's list that can be used now.

What decides is the policy, and whoever wrote it: an authority that it does not list is never chosen, and an enrollment
with one that it does not list (a staging service, one that somebody named) is never moved. `bulk plan --ca` says which
mailboxes are meant; where their certificates come from is still the list. Who wants one authority and no other writes a
list of one. With that nothing is chosen: it is used as it is, broken or not, and everything waits for it.

An authority is passed over, while another one of the list can be used, when its breaker is open, a person has paused
it, it has asked for a long pause itself (LONG_PAUSE), or its clock is wrong. That is judged by those who agree with
ours: if nobody does, it is ours that is wrong, and nobody is moved for that.

Two are not chosen for: an enrollment whose mailbox has another one open with an authority of its list, since one
certificate wants one order; and a renewal that is not urgent yet, since it has weeks for its authority to heal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import Config, Policy
from acme_milter.enrollment.model import Cause, Enrollment, State
from acme_milter.store import authority_health, movable, pauses, renewals
from acme_milter.store.authority_health import Health
from acme_milter.store.pauses import Pause
from acme_milter.worker.clock_watch import WRONG

LONG_PAUSE = timedelta(minutes=15)
"""A shorter one is over before an order elsewhere would be: it moves nobody."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether an authority can be used: ``obstacle`` says in words why not. ``wants_trial``: one may try."""

    obstacle: str | None = None
    wants_trial: bool = False
    trial_id: str | None = None

    def is_usable(self, enrollment_id: str | None = None) -> bool:
        """``enrollment_id``: who asks; the one that tries it may."""
        return self.obstacle is None or (enrollment_id is not None and enrollment_id == self.trial_id)


@dataclass(frozen=True, slots=True)
class Choice:
    """``instead_of``: why none before it in the list. ``trial``: only if it is noted as the one that tries it."""

    authority: str
    instead_of: str | None = None
    trial: bool = False


Standings = Mapping[str, Standing]


def nobody_may(_authority: str) -> bool:
    """Of those that only look, none is a trial."""
    return False


def choose(
    preferences: Sequence[str],
    standings: Standings,
    *,
    at: str | None = None,
    enrollment_id: str | None = None,
    may_try: Callable[[str], bool] = nobody_may,
) -> Choice:
    """The first of ``preferences`` (not empty) that can be used; if none can, the one it is ``at``, or the first."""
    passed_over: list[str] = []
    for name in preferences:
        standing = standings.get(name)
        if standing is None:  # not configured any more
            continue
        because = "; ".join(passed_over) or None
        if standing.is_usable(enrollment_id):
            return Choice(name, because)
        if standing.wants_trial and may_try(name):
            return Choice(name, because, trial=True)
        passed_over.append(f"{name}: {standing.obstacle}")
    return Choice(at or preferences[0])


def standing_of(health: Health | None, pause: Pause | None, clock_is_wrong: bool) -> Standing:
    """What the facts on one authority come to."""
    if pause is not None and (pause.until is None or pause.until - pause.since >= LONG_PAUSE):
        return Standing(f"paused ({pause.reason})")
    if clock_is_wrong:
        return Standing("its clock is wrong")
    if health is None or not health.is_open:
        return Standing()
    words = f"broken since {health.open_since:%Y-%m-%d %H:%M} UTC ({health.last_error})"
    return Standing(words, wants_trial=health.wants_trial, trial_id=health.trial_id)


@dataclass(frozen=True, slots=True)
class Choosing:
    """Reads the facts and chooses. ``skew``: our clock minus an authority's, None while it is not known."""

    config: Callable[[], Config]
    skew: Callable[[str], timedelta | None] = field(default=lambda _name: None)

    def standings(self, connection: sa.Connection, now: datetime) -> dict[str, Standing]:
        """Of every configured authority."""
        names = list(self.config().authorities)
        paused, health = pauses.in_force(connection, now), authority_health.of_all(connection)
        skews = {name: found for name in names if (found := self.skew(name)) is not None}
        wrong = {name for name, found in skews.items() if abs(found) > WRONG}
        if len(wrong) == len(skews):
            wrong = set()  # it is ours
        return {name: standing_of(health.get(name), paused.get(name), name in wrong) for name in names}

    def for_new(
        self, connection: sa.Connection, policy: Policy, now: datetime, cause: Cause, standings: Standings | None = None
    ) -> str:
        """Where an enrollment is to be opened for ``cause``."""
        if cause is Cause.RENEWAL or len(policy.authorities) == 1:
            return policy.authorities[0]
        known = self.standings(connection, now) if standings is None else standings
        return choose(policy.authorities, known).authority

    def next_of(
        self,
        connection: sa.Connection,
        enrollment: Enrollment,
        now: datetime,
        *,
        standings: Standings | None = None,
        may_try: Callable[[str], bool] = nobody_may,
    ) -> Choice:
        """Where an enrollment's order is to go that is not placed yet, or its successor's. Most stay where they are."""
        stays = Choice(enrollment.authority)
        policy = self.config().policy_for(enrollment.address)
        if policy is None or len(policy.authorities) == 1 or enrollment.authority not in policy.authorities:
            return stays
        known = self.standings(connection, now) if standings is None else standings
        choice = choose(
            policy.authorities, known, at=enrollment.authority, enrollment_id=enrollment.id, may_try=may_try
        )
        if choice.authority == enrollment.authority:
            return choice
        if choice.authority != policy.authorities[0] and is_patient(connection, enrollment, now):
            return stays
        others = (one.id for one in movable.open_with(connection, enrollment.address, policy.authorities))
        return stays if any(one != enrollment.id for one in others) else choice

    def waits(self, connection: sa.Connection, planned: Enrollment, now: datetime) -> bool:
        """Whether a renewal with time left had better not begin: it would only stand in line at a broken authority."""
        policy = self.config().policy_for(planned.address)
        if policy is None or len(policy.authorities) == 1 or not is_patient(connection, planned, now):
            return False
        standing = self.standings(connection, now).get(planned.authority)
        return standing is not None and not standing.is_usable(planned.id)


def is_patient(connection: sa.Connection, enrollment: Enrollment, now: datetime) -> bool:
    """Whether it is a renewal with time left: it waits for its authority rather than change it."""
    if enrollment.cause is not Cause.RENEWAL or enrollment.replaces_id is None:
        return False
    row = renewals.get(connection, enrollment.replaces_id)
    return row is not None and row.urgent_at > now


def open_elsewhere(connection: sa.Connection, address: str, policy: Policy) -> Enrollment | None:
    """The enrollment that is to bring the mailbox's certificate already, with whichever authority of its list."""
    return next(iter(movable.open_with(connection, address, policy.authorities)), None)


def is_movable(enrollment: Enrollment) -> bool:
    """Whether nothing is known of an order: none was asked for, or no answer has come."""
    return enrollment.state in {State.PLANNED, State.ORDERING} and enrollment.order_url is None
