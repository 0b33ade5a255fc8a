# SPDX-License-Identifier: GPL-3.0-or-later
"""The scheduler: claims what is due by lease, has one step taken, saves by compare-and-swap, releases."""

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from acme_milter.acme.problem import AcmeError, RateLimited
from acme_milter.config.schema import Config
from acme_milter.enrollment.backoff import step_delay
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import Deferred, ImpossibleTransition, advance
from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.keys.client import KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.keys.sealing import SealBroken
from acme_milter.store import audit, enrollments, outbox, pauses, queue
from acme_milter.store.database import Database, in_words
from acme_milter.worker.agreement import pause_until_agreed, wants_agreement
from acme_milter.worker.authorities import AuthorityUnusable
from acme_milter.worker.breaker import Breaker
from acme_milter.worker.choice import Choosing
from acme_milter.worker.claims import LEASE, Claims
from acme_milter.worker.order_driver import OrderDriver
from acme_milter.worker.pacer import Pacer
from acme_milter.worker.responder import Responder
from acme_milter.worker.step import Step
from acme_milter.worker.turns import Turns

RENEW_LEASE = timedelta(minutes=1)
"""A claim may be many steps long, and the lease must not end between two of them."""

DEFAULT_PAUSE = timedelta(minutes=1)
"""For an authority that says "too many" without saying how long (F-15)."""

LOOK_AGAIN = 0.5
"""Seconds after which the store is asked for work even if nobody called: other hosts write into it too."""

BREATH = 0.03
"""Seconds between two looks: every finished step calls for one, and one look serves many."""

REPLY_THREADS = 4


def _nobody_waits() -> None:
    pass


class Scheduler:
    """Runs steps in ``threads`` threads and replies in a few of their own, so that neither waits for the other."""

    def __init__(
        self,
        *,
        place: str,
        owner: str,
        config: Callable[[], Config],
        database: Database,
        driver: OrderDriver,
        responder: Responder,
        pacer: Pacer,
        clock: Callable[[], datetime],
        threads: int,
        choosing: Choosing,
    ) -> None:
        self._place = place
        self._owner = owner
        self._config = config
        self._database = database
        self._driver = driver
        self._responder = responder
        self._turns = Turns(config, pacer)
        self._claims = Claims(owner=owner, database=database, pacer=pacer, clock=clock, choosing=choosing)
        self.breaker = Breaker(clock)
        self._clock = clock
        self.order_became_known: Callable[[], None] = _nobody_waits
        self.enrollment_ended: Callable[[], None] = _nobody_waits
        self._threads = threads
        self._steps = ThreadPoolExecutor(threads, thread_name_prefix="step")
        self._replies = ThreadPoolExecutor(REPLY_THREADS, thread_name_prefix="reply")
        self._busy: dict[str, str | None] = {}  # row ids, with the authority that a step is about
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._paused_until: dict[str, datetime] = {}
        self._pausing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin. Start is recovery: leases that died with our predecessor at this place are void.

        So nobody else may work at this place any more; who holds its sockets is sure of that.
        """
        with self._database.write() as connection:
            enrollments.release_all(connection, place=self._place, but=self._owner)
            outbox.release_all(connection, place=self._place, but=self._owner)
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing new and let running steps end."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._steps.shutdown(cancel_futures=True)
        self._replies.shutdown(cancel_futures=True)

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    def reply_is_due(self, entry_id: str) -> None:
        """An outbox entry was just committed; do not wait for the next look into the store."""
        self._submit(self._replies, entry_id, self._responder.work_off)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(LOOK_AGAIN)
            self._wake.clear()
            try:
                self._dispatch()
            except Exception as error:  # noqa: BLE001 the edge of the thread: the store may be back in a second
                log_exception(Event.STORE_UNAVAILABLE, in_words(error))
                self._stopping.wait(LOOK_AGAIN)
            self._stopping.wait(BREATH)

    def _dispatch(self) -> None:
        now = self._clock()
        share = self._share()
        with self._lock:
            occupied = Counter(self._busy.values())
        # Replies have threads of their own: a Postfix that hangs must not stop the orders.
        free = max(2 * self._threads - sum(count for name, count in occupied.items() if name is not None), 0)
        self._remember_pauses(now)
        with self._database.read() as connection:
            crowded = {name for name, count in occupied.items() if name is not None and count >= share}
            resting = crowded | {authority for authority in list(self._paused_until) if self._rests(authority)}
            replies = outbox.due(connection, now=now, limit=4 * REPLY_THREADS)
            steps = queue.steps(connection, now=now, limit=free, resting=resting)
            begin = self._turns.to_begin(connection, now, free, resting)
        for entry_id in replies:
            self.reply_is_due(entry_id)
        for enrollment_id, authority in [*steps, *begin]:
            occupied[authority] += 1
            if occupied[authority] <= share:
                self._submit(self._steps, enrollment_id, self._advance_one, authority)

    def _remember_pauses(self, now: datetime) -> None:
        """Other hosts write them too. A person's pause keeps new orders from beginning, and nothing else."""
        with self._pausing, self._database.read() as connection:
            found = pauses.in_force(connection, now)
            self._paused_until = {name: pause.until for name, pause in found.items() if pause.until is not None}

    def _share(self) -> int:
        """How many steps of one authority may be queued or run at once (N7).

        Each may take up a thread for as long as a silent authority is waited for, so some are kept for the others.
        """
        others = len(self._config().authorities) - 1
        if others <= 0:
            return 2 * self._threads
        kept_for_each = max(1, self._threads // (2 * (others + 1)))
        return max(1, self._threads - others * kept_for_each)

    def _submit(
        self, pool: ThreadPoolExecutor, row_id: str, work: Callable[[str], None], authority: str | None = None
    ) -> None:
        with self._lock:
            if row_id in self._busy or self._stopping.is_set():
                return
            self._busy[row_id] = authority
        pool.submit(self._guarded, row_id, work)

    def _guarded(self, row_id: str, work: Callable[[str], None]) -> None:
        try:
            work(row_id)
        except Exception as error:  # noqa: BLE001 the edge of the thread: the lease ends, and the row is tried again
            log_exception(Event.INTERNAL_ERROR, in_words(error), row=row_id)
        finally:
            with self._lock:
                del self._busy[row_id]
            self._wake.set()

    def _advance_one(self, enrollment_id: str) -> None:
        """Claim the enrollment and take its steps for as long as the next one is due at once."""
        enrollment, leased_at = self._claims.claim(enrollment_id), self._clock()
        # The authority may have begun to rest since this was put into the queue.
        while enrollment is not None and not self._stopping.is_set() and not self._rests(enrollment.authority):
            if self._clock() - leased_at > RENEW_LEASE:
                leased_at = self._clock()
                with self._database.write() as connection:
                    queue.extend(connection, enrollment_id, owner=self._owner, until=leased_at + LEASE)
            step = self._try_step(enrollment)
            enrollment = self._save(enrollment, step)
        if enrollment is not None:
            with self._database.write() as connection:
                enrollments.release(connection, enrollment_id, owner=self._owner)

    def _rests(self, authority: str) -> bool:
        until = self._paused_until.get(authority)
        return until is not None and self._clock() < until

    def _try_step(self, enrollment: Enrollment) -> Step:
        """Take the step; a failure that may pass becomes a later attempt, and says so where people look."""
        try:
            return self.breaker.watch(enrollment, self._driver.take_step(enrollment))
        except RateLimited as error:
            self._pause(enrollment.authority, error)
            return self._later(enrollment, str(error), error.retry_after or DEFAULT_PAUSE)
        except AcmeError as error:
            if wants_agreement(error):
                pause_until_agreed(self._database, enrollment.authority, error, self._clock())
            return self.breaker.watch(enrollment, self._later(enrollment, str(error), error.retry_after), error)
        except (KeydUnavailable, KeydRefused, AuthorityUnusable, SealBroken) as error:
            return self._later(enrollment, str(error))
        except Exception as error:  # noqa: BLE001 the edge of a step: a mistake of ours holds up one mailbox, visibly
            log_exception(Event.INTERNAL_ERROR, error, rcpt=enrollment.address, order=enrollment.id)
            return self._later(enrollment, f"internal error ({type(error).__name__}); the worker's log has the place")

    def _pause(self, authority: str, error: RateLimited) -> None:
        """RFC 8555 §6.6: the limit may be the account's. In the store it holds for all hosts, and for our successor."""
        now = self._clock()
        until = now + (error.retry_after or DEFAULT_PAUSE)
        with self._pausing:
            self._paused_until[authority] = until
            with self._database.write() as connection:
                pauses.pause(connection, authority, str(error), now, until)
        log_event(Event.AUTHORITY_PAUSED, authority=authority, until=until, error=str(error))

    def _later(self, enrollment: Enrollment, error: str, asked: timedelta | None = None) -> Step:
        pause = step_delay(enrollment.attempts + 1, random.random())  # noqa: S311 spreads load, hides nothing
        until = self._clock() + max(pause, asked or timedelta(0))
        return Step(Deferred(next_attempt_at=until, last_error=error))

    def _save(self, before: Enrollment, step: Step) -> Enrollment | None:
        """Compare-and-swap. Returns the enrollment, still leased, when its next step is due at once; else None."""
        now = self._clock()
        try:
            after = advance(before, step.event, now)
            again = after.is_open and after.next_attempt_at is not None and after.next_attempt_at <= now
            with self._database.write() as connection:
                enrollments.save(connection, after, release=not again)
                step.also(connection)
                if after.state is not before.state:
                    audit.record(
                        connection,
                        type(step.event).__name__,
                        at=now,
                        enrollment_id=after.id,
                        address=after.address,
                        details={"state": after.state, "error": after.last_error},
                    )
        except (enrollments.StaleVersion, ImpossibleTransition):
            # A challenge mail, or another host, moved it on while we worked: what we did is found out by looking.
            with self._database.write() as connection:
                enrollments.release(connection, before.id, owner=self._owner)
            return None
        self._tell(before, after)
        step.afterwards()
        return after if again else None

    def _tell(self, before: Enrollment, after: Enrollment) -> None:
        facts: dict[str, Any] = {"rcpt": after.address, "authority": after.authority, "order": after.id}
        if not after.is_open:
            self.enrollment_ended()
        if after.proofs != before.proofs:
            self.order_became_known()
        if after.state is State.AWAITING_MAIL and before.state is State.ORDERING:
            self.order_became_known()
            log_event(Event.ORDER_PLACED, **facts, from_=after.challenge_sender)
        elif after.state in {State.ACTIVE, State.REHEARSED}:
            log_event(
                Event.CERTIFICATE_ISSUED, **facts, took=f"{(self._clock() - after.opened_at).total_seconds():.1f}s"
            )
        elif after.state is State.FAILED:
            self.order_became_known()
            log_event(
                Event.ORDER_FAILED,
                level=logging.WARNING,
                **facts,
                error=after.last_error,
                again=after.successor_id is not None,
            )
        elif after.last_error is not None:
            log_event(
                Event.ENROLLMENT_STEP_FAILED,
                level=logging.WARNING,
                **facts,
                state=after.state,
                attempt=after.attempts,
                next=after.next_attempt_at,
                error=after.last_error,
            )
