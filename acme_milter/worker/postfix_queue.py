# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows replies by Postfix's queue: what is listed has not left, what is not has left or was given up."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from acme_milter.program import ProgramFault, run_program
from acme_milter.store.departures import Departure, Followed
from acme_milter.worker.sighting import Sighting, Unfollowable, shown

TIMEOUT = 10.0
MAX_OUTPUT = 32 * 1024 * 1024
"""Octets of a listing, some 100 000 messages; a queue longer than that is not gone through every few seconds."""

PLAIN_SAILING = timedelta(seconds=30)
"""So long a reply may be in the queue without anybody calling it late."""

_CLOCKS = timedelta(seconds=2)  # arrival_time has whole seconds


@dataclass(frozen=True, slots=True)
class Queued:
    """A message in the queue. ``recipients`` are those it still has to reach, with the reason for the delay if any."""

    queue_id: str
    queue_name: str
    arrived_at: datetime
    sender: str
    recipients: tuple[tuple[str, str | None], ...]


class QueueFollower:
    """Runs `postqueue -j`, one process for all replies. A reply counts as gone when two looks have missed it.

    Postfix moves messages between its queues while it lists them, so one look may miss a message that is there. A
    reply that a content filter brought back has another queue id, but still its sender and its recipient.
    """

    pace = 2.0

    def __init__(self, config_directory: Path | None) -> None:
        self._config_directory = config_directory
        self._missed: set[str] = set()

    def look(self, replies: Sequence[Followed], now: datetime) -> dict[str, Sighting]:
        """As Follower says."""
        listed = [queued for queued in map(_read, self._list()) if queued is not None]
        wanted = {reply.envelope_recipient.casefold() for reply in replies}
        by_recipient: dict[str, list[tuple[Queued, str | None]]] = {}
        for queued in listed:
            for address, reason in queued.recipients:
                if address.casefold() in wanted:
                    by_recipient.setdefault(address.casefold(), []).append((queued, reason))
        found: dict[str, Sighting] = {}
        missed: set[str] = set()
        for reply in replies:
            there = _find(reply, by_recipient.get(reply.envelope_recipient.casefold(), ()))
            late = None if there is None else _lateness(reply, *there, now)
            if late is not None:
                found[reply.id] = late
            elif there is None:
                missed.add(reply.id)
                if reply.id in self._missed:
                    found[reply.id] = Sighting(Departure.GONE)
        self._missed = missed
        return found

    def _list(self) -> list[bytes]:
        where = [] if self._config_directory is None else ["-c", str(self._config_directory)]
        try:
            done = run_program(["postqueue", *where, "-j"], timeout=TIMEOUT, max_output=MAX_OUTPUT)
        except ProgramFault as fault:
            raise Unfollowable(str(fault)) from None
        if done.status != 0:
            said = done.error_lines()
            raise Unfollowable(f"postqueue: {shown(said[-1]) if said else done.ending}")
        return done.output.splitlines()


def _find(reply: Followed, there: Sequence[tuple[Queued, str | None]]) -> tuple[Queued, str | None] | None:
    """The reply among the messages to its recipient, with the reason for its delay."""
    for queued, reason in there:
        again = queued.sender == reply.envelope_sender and queued.arrived_at >= reply.sent_at - _CLOCKS
        if queued.queue_id == reply.queue_id or again:
            return queued, reason
    return None


def _lateness(reply: Followed, queued: Queued, reason: str | None, now: datetime) -> Sighting | None:
    """None when nothing delays it."""
    if queued.queue_name == "hold":
        return Sighting(Departure.DEFERRED, f"on hold; to let it go: postsuper -H {queued.queue_id}")
    if reason is not None:
        return Sighting(Departure.DEFERRED, shown(reason))
    if now - reply.sent_at > PLAIN_SAILING:
        return Sighting(Departure.DEFERRED, f"still in the {queued.queue_name} queue")
    return None


def _read(line: bytes) -> Queued | None:
    """One line of the listing, see postqueue(1); None when it is none."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError):
        fields = json.loads(line)
        return Queued(
            queue_id=str(fields["queue_id"]),
            queue_name=shown(str(fields["queue_name"])),
            arrived_at=datetime.fromtimestamp(int(fields["arrival_time"]), UTC),
            sender=str(fields["sender"]),
            recipients=tuple((str(one["address"]), one.get("delay_reason")) for one in fields["recipients"]),
        )
    return None
