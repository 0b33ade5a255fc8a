# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps bulk runs going: opens an enrollment whenever there is room for one, and notes what became of it.

All that it knows is in the store, so that nothing is lost with the process, and several workers may do it at once.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import AuthorityLimits, Config
from acme_milter.enrollment.model import Cause
from acme_milter.eventlog import Event, log_event
from acme_milter.store import audit, budgets, bulk_items, bulk_runs, enrollments, plan_facts
from acme_milter.store.bulk_items import UNENDED_OUTCOMES, BulkItem, Outcome
from acme_milter.store.bulk_runs import BulkRun, RunState
from acme_milter.store.database import Database
from acme_milter.worker.bulk_check import BulkCheck
from acme_milter.worker.bulk_settler import BulkSettler
from acme_milter.worker.choice import Choosing, Standings, choose

EVERY = timedelta(seconds=1)
AT_ONCE = 100
"""Items in one transaction: a challenge mail's commit must not wait longer than a fraction of a second."""

ROUNDS = 10
"""Transactions for one run and authority before others have their turn."""

HOUR = timedelta(hours=1)
ABANDONED = timedelta(minutes=10)
"""A run whose command did not send the rest of its mailboxes for so long never will."""


class BulkFeeder:
    """``feed`` is one round. ``work_is_due`` is called when something was opened."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Callable[[], datetime],
        places: Callable[[sa.Connection, datetime], Mapping[str, int]],
        work_is_due: Callable[[], None],
        choosing: Choosing | None = None,
    ) -> None:
        """``places``: how many more enrollments each authority may see begin now."""
        self._config = config
        self._database = database
        self._clock = clock
        self._places = places
        self._work_is_due = work_is_due
        self._choosing = choosing or Choosing(config)
        self._settler = BulkSettler(config, database, clock)

    def feed(self) -> None:
        """Settle what has ended, open what there is room for, end runs that have nothing left to do."""
        with self._database.read() as connection:
            unended = bulk_runs.in_state(connection, *bulk_runs.UNENDED, RunState.CANCELLED)
        if not unended:
            return
        self._settler.settle()
        opened = 0
        for run in unended:
            if run.state is RunState.RUNNING:
                opened += self._feed_run(run)
            elif run.state is RunState.RECEIVING and run.created_at < self._clock() - ABANDONED:
                with self._database.write() as connection:
                    bulk_runs.forget(connection, run.id)
            if run.state not in {RunState.RECEIVING, RunState.CANCELLED}:
                self._end_if_done(run)
        if opened:
            log_event(Event.ENROLLMENT_OPENED, count=opened)
            self._work_is_due()

    def _feed_run(self, run: BulkRun) -> int:
        config, opened = self._config(), 0
        stopped = dict(run.stopped)
        with self._database.read() as connection:
            standings = self._choosing.standings(connection, self._clock())
            broken = {name for name, standing in standings.items() if not standing.is_usable()}
            others_stand_in = any(bulk_items.waiting(connection, run.id, name, 1) for name in broken)
        for name, authority in config.authorities.items():
            stands_in = others_stand_in and name not in broken
            if name not in stopped and (reason := self._reason_to_stop(run, name, authority.limits, stands_in)):
                stopped[name] = reason
                self._stop(run, name, stopped)
        for name in [name for name in config.authorities if name not in stopped]:
            if name in broken:
                opened += self._feed_elsewhere(config, run, name, set(stopped))
            else:
                opened += self._feed_authority(config, run, name)
        if stopped:
            self._stop_whole(run, set(config.authorities) - stopped.keys(), stopped)
        else:
            self._skip_unconfigured(config, run)
        return opened

    def _reason_to_stop(self, run: BulkRun, authority: str, limits: AuthorityLimits, stands_in: bool) -> str | None:
        now = self._clock()
        # A run that a clock was ahead for when it began would count nothing.
        since = max(now - HOUR, run.counted_from) if run.counted_from <= now else now - HOUR
        with self._database.read() as connection:
            failed = budgets.failed(connection, authority, since)
            wanted = stands_in or bulk_items.waiting(connection, run.id, authority, 1)
            if failed < limits.failed_per_hour or not wanted:
                return None
        return f"{failed} orders failed within an hour (authorities.{authority}.limits.failed_per_hour)"

    def _stop(self, run: BulkRun, authority: str, stopped: dict[str, str]) -> None:
        with self._database.write() as connection:
            bulk_runs.set_stopped(connection, run.id, stopped)
            audit.record(
                connection,
                Event.BULK_STOPPED,
                at=self._clock(),
                details={"run": run.id, "authority": authority, "reason": stopped[authority]},
            )
        log_event(
            Event.BULK_STOPPED, level=logging.WARNING, run=run.id, authority=authority, reason=stopped[authority],
            next=f"acme-milter bulk resume {run.id}",
        )  # fmt: skip

    def _stop_whole(self, run: BulkRun, others: set[str], stopped: dict[str, str]) -> None:
        """Once no authority but the stopped ones has anything to do in this run."""
        with self._database.read() as connection:
            held_up = any(bulk_items.waiting(connection, run.id, name, 1) for name in stopped)
            going_on = any(bulk_items.waiting(connection, run.id, name, 1) for name in others)
        if held_up and not going_on:
            with self._database.write() as connection:
                bulk_runs.move(connection, run.id, to=RunState.STOPPED, of={RunState.RUNNING}, now=self._clock())

    def _room(self, connection: sa.Connection, name: str) -> int:
        """How many more may be opened: those that are planned already come first."""
        now = self._clock()
        places = self._places(connection, now).get(name, 0)
        return places - plan_facts.planned(connection, name, now + EVERY)

    def _feed_authority(self, config: Config, run: BulkRun, name: str) -> int:
        opened = 0
        for _ in range(ROUNDS):
            with self._database.read() as connection:
                room = self._room(connection, name)
                if room <= 0 or not bulk_items.waiting(connection, run.id, name, 1):
                    break
            with self._database.write() as connection:
                current = bulk_runs.get(connection, run.id)
                if current is None or current.state is not RunState.RUNNING:  # somebody has just paused it
                    break
                items = bulk_items.waiting(connection, run.id, name, AT_ONCE)
                opened += self._open_some(connection, config, run, items, room)
        return opened

    def _feed_elsewhere(self, config: Config, run: BulkRun, name: str, stopped: set[str]) -> int:
        """Items of an authority that cannot be used go where their policies say instead. The plan stays as it is."""
        opened, after = 0, -1
        for _ in range(ROUNDS):
            with self._database.read() as connection:
                page = bulk_items.waiting(connection, run.id, name, AT_ONCE, after=after)
                standings = self._choosing.standings(connection, self._clock())
                shares = _by_choice(config, page, standings)
                rooms = {target: self._room(connection, target) for target in shares.keys() - stopped}
            for target, room in rooms.items():
                if room > 0:
                    opened += self._open_share(config, run, {item.address for item in shares[target]}, name, target)
            if len(page) < AT_ONCE:
                break
            after = page[-1].position
        return opened

    def _open_share(self, config: Config, run: BulkRun, addresses: set[str], name: str, target: str) -> int:
        with self._database.write() as connection:
            current = bulk_runs.get(connection, run.id)
            if current is None or current.state is not RunState.RUNNING:
                return 0
            items = [one for one in bulk_items.named(connection, run.id, addresses) if one.authority == name]
            return self._open_some(connection, config, run, items, self._room(connection, target), target)

    def _open_some(
        self,
        connection: sa.Connection,
        config: Config,
        run: BulkRun,
        items: list[BulkItem],
        room: int,
        authority: str | None = None,
    ) -> int:
        """``authority``: instead of the plan's."""
        now, opened = self._clock(), 0
        check = BulkCheck.of(connection, config, now, items)
        for item in items:
            if opened >= room:
                break
            if check.is_not_known_yet(item):
                continue
            obstacle = check.obstacle(item)
            member = config.member(item.address)
            if obstacle is not None or member is None:
                bulk_items.set_outcome(connection, item, Outcome.SKIPPED, now=now, reason=obstacle)
                self._settler.revoke_superseded(connection, run, item)
                continue
            fresh_id = uuid.uuid4().hex
            if bulk_items.set_outcome(connection, item, Outcome.OPEN, now=now, enrollment_id=fresh_id):
                enrollments.open_new(
                    connection,
                    enrollment_id=fresh_id,
                    address=member.address,
                    principal=member.principal,
                    authority=authority or item.authority,
                    now=now,
                    cause=Cause.BULK,
                    replaces_id=check.replaces(item),
                    bulk_run_id=run.id,
                    usage=check.usage(item),
                )
                audit.record(
                    connection, Event.ENROLLMENT_OPENED, at=now, enrollment_id=fresh_id, address=member.address
                )
                opened += 1
        return opened

    def _skip_unconfigured(self, config: Config, run: BulkRun) -> None:
        """Items of an authority that is gone from the configuration: nobody else would come for them."""
        with self._database.read() as connection:
            if not bulk_items.has(connection, run.id, {Outcome.WAITING}):
                return
            if any(bulk_items.waiting(connection, run.id, name, 1) for name in config.authorities):
                return
            gone = bulk_items.authorities_with(connection, run.id, {Outcome.WAITING}) - set(config.authorities)
        for name in gone:
            with self._database.write() as connection:
                items = bulk_items.waiting(connection, run.id, name, AT_ONCE)
                self._open_some(connection, config, run, items, len(items))

    def _end_if_done(self, run: BulkRun) -> None:
        with self._database.read() as connection:
            if bulk_items.has(connection, run.id, UNENDED_OUTCOMES):
                return
        with self._database.write() as connection:
            states = {RunState.RUNNING, RunState.PAUSED, RunState.STOPPED}
            if bulk_runs.move(connection, run.id, to=RunState.DONE, of=states, now=self._clock()):
                log_event(Event.BULK_DONE, run=run.id)


def _by_choice(config: Config, items: Iterable[BulkItem], standings: Standings) -> dict[str, list[BulkItem]]:
    """By the authority that each one's order goes to just now; what its policy does not list stays the plan's."""
    found: dict[str, list[BulkItem]] = {}
    for item in items:
        policy = config.policy_for(item.address)
        listed = policy is not None and item.authority in policy.authorities
        target = (
            choose(policy.authorities, standings, at=item.authority).authority if policy and listed else item.authority
        )
        found.setdefault(target, []).append(item)
    return found
