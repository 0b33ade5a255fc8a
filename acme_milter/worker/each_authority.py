# SPDX-License-Identifier: GPL-3.0-or-later
"""A thread for each authority that has something to do, so that one that holds still holds up no other (N7)."""

import threading
import time
from collections.abc import Callable

from acme_milter.eventlog import Event, log_exception
from acme_milter.store.database import in_words


class EachAuthority:
    """`name` is that of the threads, and of the chore in the log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Thread] = {}
        self._stopping = threading.Event()

    def is_stopping(self) -> bool:
        """Whether the turns that go on are to end as soon as they can."""
        return self._stopping.is_set()

    def begin(self, authority: str, work: Callable[[], object]) -> None:
        """Return at once. An authority whose last turn has not ended gets no other one.

        Raises RuntimeError where there are no more threads to have.
        """
        with self._lock:
            if authority in self._busy or self._stopping.is_set():
                return
            name = f"{self._name}-{authority}"
            thread = threading.Thread(target=self._run, args=(authority, work), name=name, daemon=True)
            thread.start()  # which may fail; what it does first that we could see waits for the lock
            self._busy[authority] = thread

    def settle(self, within: float | None = None) -> None:
        """Return when the turns that go on now have ended, or after so many seconds."""
        with self._lock:
            running = list(self._busy.values())
        give_up = None if within is None else time.monotonic() + within
        for thread in running:
            thread.join(None if give_up is None else max(give_up - time.monotonic(), 0))

    def stop(self) -> None:
        """Begin no more, and `settle`."""
        self._stopping.set()
        self.settle()

    def _run(self, authority: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 the edge of the thread: what is due stays due
            log_exception(Event.INTERNAL_ERROR, in_words(error), chore=self._name, authority=authority)
        finally:
            with self._lock:
                del self._busy[authority]
