# SPDX-License-Identifier: GPL-3.0-or-later
"""What `bulk` asks of a running worker: take a plan, pause, resume, retry, cancel. Opening is the feeder's."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import cast

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.eventlog import Event, log_event
from acme_milter.store import audit, bulk_items, bulk_runs
from acme_milter.store.bulk_items import BulkItem, Outcome
from acme_milter.store.bulk_runs import BulkRun, Kind, RunState
from acme_milter.store.database import Database
from acme_milter.worker.bulk_check import BulkCheck
from acme_milter.worker.control import Answer

_RUN_ID = re.compile(r"[0-9A-Za-z-]{4,40}\Z")
MAX_DESCRIPTION = 500


class BulkFault(Exception):
    """The request cannot be done; the text is for the person who asked."""

    safe_text = True


class BulkCalls:
    """``calls`` are for the control socket. What cannot be done is answered ``{"error": "refused", "text": …}``."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Callable[[], datetime],
        feed_soon: Callable[[], None],
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._feed_soon = feed_soon

    @property
    def calls(self) -> dict[str, Answer]:
        """By the word in a request's ``call``."""
        return {
            "bulk-open": self._saying_faults(self._open),
            "bulk-pause": self._saying_faults(self._pause),
            "bulk-resume": self._saying_faults(self._resume),
            "bulk-retry": self._saying_faults(self._retry),
            "bulk-cancel": self._saying_faults(self._cancel),
        }

    def _saying_faults(self, answer: Answer) -> Answer:
        def guarded(header: dict[str, object]) -> dict[str, object]:
            try:
                return answer(header)
            except BulkFault as fault:
                return {"error": "refused", "text": str(fault)}

        return guarded

    def _open(self, header: dict[str, object]) -> dict[str, object]:
        """``run``: an id that the command made. ``items``: [address, authority, principal, replaces or null, also
        replaces or null] each, at most bulk_items.AT_ONCE; ``start``: the place of the first one in the plan. With
        ``limit`` only so many are taken, and only those that can be ordered now. ``last``: the run is complete and
        begins. ``kind``, ``description``, ``revoke`` (a number) are those of the plan. May be sent twice.
        """
        run = _run_of(header, self._clock())
        items = _items_of(header, run.id)
        limit = header.get("limit")
        with self._database.write() as connection:
            known = bulk_runs.get(connection, run.id)
            if known is None:
                bulk_runs.insert(connection, run)
            elif known.state is not RunState.RECEIVING:
                return {"run": run.id, "taken": bulk_items.count_items(connection, run.id), "passed_over": {}}
            passed_over = self._take(connection, items, limit if isinstance(limit, int) else None)
            taken = bulk_items.count_items(connection, run.id)
            if header.get("last"):
                self._begin(connection, run, taken)
        if header.get("last"):
            log_event(Event.BULK_BEGUN, run=run.id, count=taken, kind=run.kind)
            self._feed_soon()
        return {"run": run.id, "taken": taken, "passed_over": passed_over}

    def _begin(self, connection: sa.Connection, run: BulkRun, taken: int) -> None:
        if not taken:
            bulk_runs.forget(connection, run.id)
            return
        now = self._clock()
        bulk_runs.begin_again(connection, run.id, now)
        details = {"run": run.id, "kind": run.kind.value, "mailboxes": taken, "revoke": run.revoke_reason}
        audit.record(connection, Event.BULK_BEGUN, at=now, details=details)

    def _take(self, connection: sa.Connection, items: list[BulkItem], limit: int | None) -> dict[str, int]:
        if not items:
            return {}
        now = self._clock()
        run_id = items[0].run_id
        elsewhere = _in_other_runs(connection, run_id, items)
        if limit is None:
            bulk_items.add_items(connection, [_skipped(item, elsewhere.get(item.address), now) for item in items])
            return {}
        room = limit - bulk_items.count_items(connection, run_id)
        check = BulkCheck.of(connection, self._config(), now, items)
        passed_over: Counter[str] = Counter()
        chosen: list[BulkItem] = []
        for item in items:
            if len(chosen) >= room:
                break
            obstacle = elsewhere.get(item.address) or check.obstacle(item)
            if obstacle is None:
                chosen.append(item)
            else:
                passed_over[obstacle] += 1
        bulk_items.add_items(connection, chosen)
        return dict(passed_over)

    def _pause(self, header: dict[str, object]) -> dict[str, object]:
        return self._move(header, RunState.PAUSED, {RunState.RUNNING, RunState.STOPPED}, Event.BULK_PAUSED)

    def _cancel(self, header: dict[str, object]) -> dict[str, object]:
        states = {RunState.RUNNING, RunState.STOPPED, RunState.PAUSED}
        return self._move(header, RunState.CANCELLED, states, Event.BULK_CANCELLED)

    def _move(self, header: dict[str, object], to: RunState, of: set[RunState], event: Event) -> dict[str, object]:
        now = self._clock()
        with self._database.write() as connection:
            run = self._find(connection, header)
            if run.state is not to and not bulk_runs.move(connection, run.id, to=to, of=of, now=now):
                raise BulkFault(f"run {run.id} is {run.state}, so it cannot be {to}")
            audit.record(connection, event, at=now, details={"run": run.id})
        log_event(event, run=run.id)
        return {"run": run.id, "state": to.value}

    def _resume(self, header: dict[str, object]) -> dict[str, object]:
        now = self._clock()
        with self._database.write() as connection:
            run = self._find(connection, header)
            if run.state not in {RunState.PAUSED, RunState.STOPPED, RunState.RUNNING}:
                raise BulkFault(f"run {run.id} is {run.state}, so there is nothing to resume")
            bulk_runs.begin_again(connection, run.id, now)
            audit.record(connection, Event.BULK_RESUMED, at=now, details={"run": run.id})
        log_event(Event.BULK_RESUMED, run=run.id)
        self._feed_soon()
        return {"run": run.id, "state": RunState.RUNNING.value}

    def _retry(self, header: dict[str, object]) -> dict[str, object]:
        """``cause``: only items whose failure's reason holds this text."""
        cause = str(header.get("cause") or "") or None
        again = 0
        with self._database.read() as connection:
            run = self._find(connection, header, ended=True)
        if run.state in {RunState.RECEIVING, RunState.CANCELLED}:
            raise BulkFault(f"run {run.id} is {run.state}, so nothing of it can be tried again")
        while True:
            with self._database.write() as connection:
                moved = bulk_items.wait_again(connection, run.id, cause=cause, limit=bulk_items.AT_ONCE)
                if moved and not again:
                    bulk_runs.begin_again(connection, run.id, self._clock())
                    details = {"run": run.id, "retry": True, "cause": cause}
                    audit.record(connection, Event.BULK_RESUMED, at=self._clock(), details=details)
            again += moved
            if moved < bulk_items.AT_ONCE:
                break
        if again:
            log_event(Event.BULK_RESUMED, run=run.id, count=again)
            self._feed_soon()
        return {"run": run.id, "again": again}

    def _find(self, connection: sa.Connection, header: dict[str, object], *, ended: bool = False) -> BulkRun:
        """The run that ``run`` names; without it the newest one, of those that have not ended unless ``ended``."""
        wanted = header.get("run")
        if wanted is None:
            run = bulk_runs.newest(connection, unended=not ended)
            if run is None:
                raise BulkFault("no bulk run is open; see acme-milter bulk list")
            return run
        run = bulk_runs.get(connection, str(wanted))
        if run is None:
            raise BulkFault(f"there is no run {str(wanted)[:40]!r}; see acme-milter bulk list")
        return run


def _in_other_runs(connection: sa.Connection, run_id: str, items: list[BulkItem]) -> dict[str, str]:
    """Items that another run is about to see to: the obstacle by address. A mailbox is in one run at a time."""
    taken = bulk_items.taken_by_others(connection, run_id, [item.address for item in items])
    return {address: f"is in run {other} already" for address, other in taken.items()}


def _skipped(item: BulkItem, reason: str | None, now: datetime) -> BulkItem:
    if reason is None:
        return item
    return BulkItem(
        run_id=item.run_id, address=item.address, position=item.position, domain=item.domain, authority=item.authority,
        principal=item.principal, replaces_id=item.replaces_id, also_replaces_id=item.also_replaces_id,
        outcome=Outcome.SKIPPED, reason=reason, ended_at=now,
    )  # fmt: skip


def _run_of(header: dict[str, object], now: datetime) -> BulkRun:
    run_id = str(header.get("run"))
    revoke = header.get("revoke")
    if not _RUN_ID.match(run_id) or not (revoke is None or isinstance(revoke, int)):
        raise BulkFault("this is no plan that can be run")
    return BulkRun(
        id=run_id,
        kind=Kind.REPLACE if header.get("kind") == Kind.REPLACE.value else Kind.ISSUE,
        state=RunState.RECEIVING,
        description=str(header.get("description") or "")[:MAX_DESCRIPTION],
        created_at=now,
        counted_from=now,
        stopped={},
        revoke_reason=revoke,
    )


def _items_of(header: dict[str, object], run_id: str) -> list[BulkItem]:
    start = header.get("start")
    items = []
    for number, given in enumerate(cast("list[list[str]]", header.get("items"))):
        address, authority, principal, replaces = given[:4]
        items.append(
            BulkItem(
                run_id=run_id,
                address=address,
                position=(start if isinstance(start, int) else 0) + number,
                domain=address.rpartition("@")[2],
                authority=authority,
                principal=principal,
                replaces_id=replaces,
                also_replaces_id=given[4] if len(given) > 4 else None,  # an older command sends four
            )
        )
    return items
