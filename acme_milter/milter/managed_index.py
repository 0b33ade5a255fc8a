# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses are managed, as the worker last said: a set in memory, so that ordinary mail waits for nobody."""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.ipc.client import PeerUnavailable
from acme_milter.ipc.frames import FrameError

REFRESH_SECONDS = 5.0
"""Pause between two questions to a worker that answers at once."""

WAIT_SECONDS = 4.0
"""So long a worker may keep a question until there is something new; the answer is due in five."""

BREATH_SECONDS = 0.05
"""Pause after a question that was kept: addresses that change one by one are not asked for a hundred times a second."""

RETRY_SECONDS = 0.5  # while the worker cannot be reached
STALE_SECONDS = 60.0

Call = Callable[[Mapping[str, object]], tuple[dict[str, object], bytes]]


class ManagedIndex:
    """Keeps `addresses` in step with the worker's; `call` asks the worker one frame.

    `addresses` is None while nothing is known, or what is known is older than a minute: then any recipient may be
    managed, and every mail with an ACME Subject is shown to the worker. It is swapped whole, never changed.
    """

    def __init__(self, call: Call, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.addresses: frozenset[str] | None = None
        self._call = call
        self._clock = clock
        self._version: str | None = None
        self._confirmed = 0.0
        self._reachable: bool | None = None
        self.waited = False
        """Whether the worker kept the last question until there was something new, or nothing for a while."""

    def refresh(self) -> bool:
        """Ask the worker once; True when it answered. An answer that makes no sense counts as none."""
        try:
            version, addresses = self._fetch()
        except (PeerUnavailable, FrameError, KeyError, TypeError, ValueError) as exc:
            self.waited = False
            self._lost(exc)
            return False
        if addresses is not None:
            self._version, self.addresses = version, addresses
        self._confirmed = self._clock()
        if self._reachable is not True:
            count = len(self.addresses or ())
            log_event(Event.MAILBOXES_LOADED if self._reachable is None else Event.MILTER_RECOVERED, mailboxes=count)
        self._reachable = True
        return True

    def _lost(self, exc: Exception) -> None:
        if self._reachable is not False:
            # At the start the worker simply takes longer than we do, and nobody should be alarmed by that.
            level = logging.INFO if self._reachable is None else logging.WARNING
            log_exception(Event.WORKER_UNREACHABLE, exc, level=level)
        self._reachable = False
        if self.addresses is not None and self._clock() - self._confirmed > STALE_SECONDS:
            self.addresses = self._version = None
            log_event(Event.MILTER_DEGRADED, reason="managed-index-stale")

    def _fetch(self) -> tuple[str, frozenset[str] | None]:
        """The set's version and the set; None for the set when it is the one we have."""
        pages: list[bytes] = []
        header, body = self._call({"call": "managed", "known": self._version, "wait": WAIT_SECONDS})
        self.waited = header.get("waited") is True
        version = str(header["version"])
        if header.get("unchanged") is True:
            if version != self._version:
                raise ValueError("unchanged from a version we do not have")
            return version, None
        pages.append(body)
        count = header.get("pages", 1)
        if not isinstance(count, int) or not 1 <= count <= 1000:
            raise ValueError("a number of pages that cannot be")
        for number in range(1, count):
            header, body = self._call({"call": "managed", "known": None, "page": number})
            if str(header["version"]) != version:
                raise ValueError("the set changed while it was read")  # the next round reads it whole
            pages.append(body)
        lines = b"\n".join(pages).decode("utf-8").split("\n")
        return version, frozenset(line.strip().lower() for line in lines if line.strip())


class IndexRefresher(threading.Thread):
    """Refreshes an index until the process ends: as soon as the worker has something new, or every few seconds."""

    def __init__(self, index: ManagedIndex) -> None:
        super().__init__(name="managed-index", daemon=True)
        self._index = index
        self._stop_asked = threading.Event()

    def run(self) -> None:
        pause = RETRY_SECONDS
        while not self._stop_asked.wait(pause):
            pause = RETRY_SECONDS
            try:
                if self._index.refresh():
                    pause = BREATH_SECONDS if self._index.waited else REFRESH_SECONDS
            except Exception as exc:  # noqa: BLE001 - a thread's edge: without it the index would silently grow old
                log_exception(Event.INTERNAL_ERROR, exc)

    def stop(self) -> None:
        """End the thread soon."""
        self._stop_asked.set()
