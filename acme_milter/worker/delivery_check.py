# SPDX-License-Identifier: GPL-3.0-or-later
"""What Postfix said of mailboxes lately: asked for many at once, in a thread that no order waits for long."""

import threading
from collections.abc import Callable

from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.config.sources import LIST
from acme_milter.enrollment.model import Cause
from acme_milter.eventlog import Event, log_exception
from acme_milter.mailboxes.verification import Deliverability, Verdict, examine_with, verifiers_of
from acme_milter.store import queue
from acme_milter.store.database import Database

BATCH = 200
"""Planned mailboxes, of each authority and cause, that are asked for together with the one that is due."""

PATIENCE = 0.5
"""Seconds that a step waits for the answer before it makes room for another mailbox."""

KEPT_FOR = {
    Deliverability.KNOWN: 600.0,
    Deliverability.UNCHECKED: 600.0,
    Deliverability.UNKNOWN: 30.0,  # somebody may be adding the mailbox right now
    Deliverability.UNDECIDED: 30.0,
}


MailArrives = Callable[[str], Verdict | None]
"""Whether mail for an address arrives; None while that is still being found out."""


def nobody_asked(address: str) -> Verdict:
    """For a worker that is to order whatever it is told to."""
    return Verdict(Deliverability.UNCHECKED, f"nobody was asked about {address}")


class DeliveryCheck:
    """Call it with an address. Any number of threads may; at most one round of questions runs at a time."""

    def __init__(self, *, config: Callable[[], Config], database: Database, clock: Clock) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._verdicts: dict[str, tuple[float, Verdict]] = {}
        self._wanted: set[str] = set()
        self._round: threading.Event | None = None
        self._waited_for_until = 0.0
        self._lock = threading.Lock()

    def __call__(self, address: str) -> Verdict | None:
        """What is known, asked anew when that is old; None when Postfix takes its time: come back later.

        A round that has had its PATIENCE is not waited for by anybody, so a Postfix that hangs stops no other mailbox.
        """
        if self._config().worker.verification == "none":
            return nobody_asked(address)
        with self._lock:
            verdict = self._fresh(address)
            if verdict is not None:
                return verdict
            self._wanted.add(address)
            if self._round is None:
                self._round = threading.Event()
                self._waited_for_until = self._clock.monotonic() + PATIENCE
                threading.Thread(target=self._ask, args=(self._round,), name="delivery-check", daemon=True).start()
            done, patience = self._round, self._waited_for_until - self._clock.monotonic()
        if patience > 0:
            done.wait(patience)
        with self._lock:
            return self._fresh(address)

    def _fresh(self, address: str) -> Verdict | None:
        until, verdict = self._verdicts.get(address, (0.0, None))
        return verdict if self._clock.monotonic() < until else None

    def _ask(self, done: threading.Event) -> None:
        try:
            self._note(self._round_of_questions())
        except Exception as error:  # noqa: BLE001 the edge of the thread: whoever waits must learn that it went wrong
            log_exception(Event.INTERNAL_ERROR, error)
            why = f"internal error ({type(error).__name__}); the worker's log has the place"
            with self._lock:
                wanted = set(self._wanted)
            self._note(dict.fromkeys(wanted, Verdict(Deliverability.UNDECIDED, why)))
        finally:
            with self._lock:
                self._round = None
            done.set()

    def _round_of_questions(self) -> dict[str, Verdict]:
        config = self._config()
        with self._database.read() as connection:
            due = [
                address
                for authority in config.authorities
                for cause in Cause
                for address in queue.waiting_addresses(connection, authority, cause, now=self._clock.now(), limit=BATCH)
            ]
        members = filter(None, map(config.member, due))
        with self._lock:
            asked = {*self._wanted, *(member.address for member in members if member.source != LIST)}
        return examine_with(verifiers_of(config.sources), asked)

    def _note(self, found: dict[str, Verdict]) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._verdicts = {key: kept for key, kept in self._verdicts.items() if now < kept[0]}
            self._verdicts |= {key: (now + KEPT_FOR[said.deliverability], said) for key, said in found.items()}
            self._wanted -= found.keys()
