# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that happened, numbered: the evidence tests and the exactly-once checker read."""

import asyncio
import base64
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Happening(StrEnum):
    """The closed list of event kinds."""

    ACCOUNT = "account"
    ORDER = "order"
    AUTHORIZATION = "authorization"
    MAIL_QUEUED = "mail-queued"
    MAIL_SENT = "mail-sent"
    MAIL_DEFERRED = "mail-deferred"
    MAIL_BOUNCED = "mail-bounced"
    MAIL_LOST = "mail-lost"
    REPLY_RECEIVED = "reply-received"
    CHALLENGE_POSTED = "challenge-posted"
    VALIDATED = "validated"
    INVALIDATED = "invalidated"
    FINALIZED = "finalized"
    ISSUED = "issued"
    REVOKED = "revoked"
    DEACTIVATED = "deactivated"
    CHAOS = "chaos"
    FAULT = "fault"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event: number from 1 up, instant, kind, details; a mail's bytes where there is one."""

    number: int
    time: datetime
    kind: Happening
    details: dict[str, object]
    raw: bytes | None = field(default=None, repr=False)

    def document(self, *, with_raw: bool) -> dict[str, object]:
        """Return the event as JSON; a mail's bytes (base64) only on demand, their SHA-256 always."""
        body: dict[str, object] = {"number": self.number, "time": self.time.isoformat(), "kind": self.kind.value}
        body |= self.details
        if self.raw is not None:
            body["sha256"] = hashlib.sha256(self.raw).hexdigest()
            if with_raw:
                body["raw"] = base64.b64encode(self.raw).decode("ascii")
        return body


class History:
    """An append-only list, written and read on the event loop's thread alone; `most` is how many it remembers."""

    def __init__(self, clock: Callable[[], datetime], *, most: int | None = None) -> None:
        self._clock = clock
        self._entries: deque[Entry] = deque(maxlen=most)
        self._last = 0
        self._waiters: set[asyncio.Event] = set()
        self._stopped = False

    @property
    def last(self) -> int:
        """The number of the newest event, 0 when there is none."""
        return self._last

    def add(self, kind: Happening, *, raw: bytes | None = None, **details: object) -> Entry:
        """Append an event and wake whoever waits for one."""
        self._last += 1
        entry = Entry(self._last, self._clock(), kind, details, raw)
        self._entries.append(entry)
        self._wake()
        return entry

    def stop(self) -> None:
        """Let waiting readers go: nothing more will happen."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.set()

    def select(self, after: int, kinds: Collection[Happening]) -> list[Entry]:
        """Return the events with a number above `after`, of these kinds (all when empty)."""
        known = max(after - (self._last - len(self._entries)), 0)
        return [entry for entry in itertools.islice(self._entries, known, None) if not kinds or entry.kind in kinds]

    async def wait(self, after: int, kinds: Collection[Happening], seconds: float) -> list[Entry]:
        """Return as `select` does, but wait up to `seconds` for the first event."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            while not (found := self.select(after, kinds)):
                left = deadline - loop.time()
                if left <= 0 or self._stopped:
                    return []
                after = self.last
                waiter.clear()
                try:
                    await asyncio.wait_for(waiter.wait(), left)
                except TimeoutError:
                    return []
            return found
        finally:
            self._waiters.discard(waiter)
