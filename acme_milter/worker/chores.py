# SPDX-License-Identifier: GPL-3.0-or-later
"""What the worker does now and then, each thing at its own pace, in one thread that no order waits for."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from acme_milter.clock import Clock
from acme_milter.eventlog import Event, log_exception
from acme_milter.store.database import in_words

LOOK_AGAIN = 0.5


@dataclass(frozen=True, slots=True)
class Chore:
    """``work`` is called every ``every``, and at once when the worker starts. It may raise; it is called again."""

    name: str
    every: timedelta
    work: Callable[[], None]


class Chores:
    """Runs chores one after the other, by the monotonic clock. Any number of workers may do the same ones."""

    def __init__(self, chores: Sequence[Chore], clock: Clock) -> None:
        self._chores = chores
        self._clock = clock
        self._due: dict[str, float] = {chore.name: clock.monotonic() for chore in chores}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="chores", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when the chore that is being done is done."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def ask_for(self, name: str) -> None:
        """Do this chore as soon as its turn comes, whatever time it is."""
        self._due[name] = self._clock.monotonic()
        self._wake.set()

    def do_what_is_due(self) -> None:
        """One round, in the caller's thread."""
        with self._turn:
            for chore in self._chores:
                now = self._clock.monotonic()
                if now < self._due[chore.name] or self._stopping.is_set():
                    continue
                self._due[chore.name] = now + chore.every.total_seconds()
                try:
                    chore.work()
                except Exception as error:  # noqa: BLE001 the edge of the thread: the next round may be luckier
                    log_exception(Event.INTERNAL_ERROR, in_words(error), chore=chore.name)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.do_what_is_due()
            self._wake.wait(LOOK_AGAIN)
            self._wake.clear()
