# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is to begin: planned enrollments for which there is room, in the order of the queue."""

from collections.abc import Callable, Collection
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.model import BACKGROUND_CAUSES
from acme_milter.mailboxes.aliases import replies_for
from acme_milter.store import queue
from acme_milter.worker.pacer import Pacer, Room


class Turns:
    """Asked by one thread."""

    def __init__(self, config: Callable[[], Config], pacer: Pacer) -> None:
        self._config = config
        self._pacer = pacer
        self._nothing_left_behind: frozenset[str] | None = None  # with these authorities
        self._until: datetime | None = None  # and until then: some wait for another try

    def to_begin(
        self, connection: sa.Connection, now: datetime, limit: int, resting: Collection[str]
    ) -> list[tuple[str, str]]:
        """(id, authority) of those that may begin, ``limit`` of each authority at most; none of the ``resting``."""
        chosen: list[tuple[str, str]] = []
        for authority, room in self._pacer.rooms(connection, now).items():
            if authority not in resting:
                chosen += [(one, authority) for one in self._first_in_queue(connection, authority, room, now, limit)]
        return chosen + self._left_behind(connection, now, limit)

    def _first_in_queue(
        self, connection: sa.Connection, authority: str, room: Room, now: datetime, limit: int
    ) -> list[str]:
        """Where there are not enough replies left for an order's addresses, nobody passes it: it would never begin."""
        places, background, replies = min(room.places, limit), max(room.background, 0), room.replies
        if places <= 0:
            return []
        chosen: list[str] = []
        for waiting in queue.waiting(connection, authority, now=now, limit=places):
            if waiting.cause in BACKGROUND_CAUSES and background <= 0:
                continue
            if replies is not None:
                wanted = replies_for(self._config(), waiting.address, authority)
                if wanted > replies and (chosen or not room.untouched):
                    break
                replies -= wanted
            background -= waiting.cause in BACKGROUND_CAUSES
            chosen.append(waiting.id)
        return chosen[:places]

    def _left_behind(self, connection: sa.Connection, now: datetime, limit: int) -> list[tuple[str, str]]:
        """Of authorities that are not configured any more. Their first step says so, and ends them.

        Nobody opens such an enrollment, so one look after a change of the configuration tells when there is one due.
        """
        configured = frozenset(self._config().authorities)
        if configured == self._nothing_left_behind and (self._until is None or now < self._until):
            return []
        found = queue.orphans(connection, configured, now, limit)
        if not found:
            self._nothing_left_behind = configured
            self._until = queue.next_orphan(connection, configured)
        return found
