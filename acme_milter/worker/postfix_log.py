# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows replies by what Postfix logs of them, in a file or in the journal, and so learns the other side's words."""

import contextlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import BinaryIO

from acme_milter.program import ProgramFault, run_program
from acme_milter.store.departures import Departure, Followed
from acme_milter.worker.sighting import Sighting, Unfollowable, shown

FIRST_READ = 4 * 1024 * 1024
"""Octets from the end of a log that are read when following begins: the reply may have left before that."""

MOST_READ = 32 * 1024 * 1024
"""Octets of one look; of a log that has grown by more the end is read."""

REMEMBERED = 20_000
"""Deliveries that are kept, whosever they are: a filter's may be logged before the one that leads to it."""

JOURNAL = ("journalctl", "-q", "--no-pager", "-o", "cat", "-u", "postfix*")
JOURNAL_TIMEOUT = 20.0
_OVERLAP = timedelta(seconds=5)

_DELIVERY = re.compile(
    rb"(?:^|\s)([0-9A-Za-z]{6,32}): to=<([^>]*)>,(?: orig_to=<([^>]*)>,)? relay=([^,]+),"
    rb".* status=([a-z-]+) \((.*)\)\s*\Z"
)
_EXPIRED = re.compile(rb"(?:^|\s)([0-9A-Za-z]{6,32}): from=<[^>]*>, status=((?:force-)?expired), (.*)\Z")
_MESSAGE_ID = re.compile(rb"(?:^|\s)([0-9A-Za-z]{6,32}): (?:resent-)?message-id=(<acme-milter\.[^>]*>)")
_QUEUED_AS = re.compile(r"queued as ([0-9A-Za-z]{6,32})")
_RELAY = re.compile(r"\[([^\]]*)\]")
_DEPARTURES = {"sent": Departure.SENT, "deferred": Departure.DEFERRED, "bounced": Departure.BOUNCED}


@dataclass(frozen=True, slots=True)
class Delivery:
    """The latest that was logged of a queue id. ``recipients``: as addressed, and as it was before rewriting."""

    recipients: frozenset[str]
    departure: Departure
    words: str
    stays_here: bool = False
    """It went no further than to a filter on this machine."""
    next_id: str | None = None
    """The queue id under which the filter brought it back."""


class LogTrail:
    """What the lines so far say. A message is known by its queue ids: the first one, those that a filter's answer
    names, and every one that has its Message-ID.
    """

    def __init__(self) -> None:
        self._deliveries: OrderedDict[str, Delivery] = OrderedDict()
        self._ids: OrderedDict[str, list[str]] = OrderedDict()

    def read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if b"status=" in line:
                self._read_delivery(line)
            elif b"message-id=<acme-milter." in line and (found := _MESSAGE_ID.search(line)):
                queue_id, message_id = (group.decode("utf-8", "replace") for group in found.groups())
                known = self._ids.setdefault(message_id, [])
                if queue_id not in known:
                    known.append(queue_id)
                if len(self._ids) > REMEMBERED:
                    self._ids.popitem(last=False)

    def sighting(self, reply: Followed) -> Sighting | None:
        """What became of a reply; None while nothing is known, or only that a filter has it."""
        wanted = reply.envelope_recipient.casefold()
        ids = [*filter(None, [reply.queue_id]), *self._ids.get(reply.message_id, ())]
        seen: list[Delivery] = []
        for queue_id in ids:  # grows while it is gone through
            delivery = self._deliveries.get(queue_id)
            if delivery is None or (delivery.recipients and wanted not in delivery.recipients):
                continue  # queue ids are used again
            if delivery.next_id is not None and delivery.next_id not in ids:
                ids.append(delivery.next_id)
            if not delivery.stays_here:
                seen.append(delivery)
        for departure in (Departure.SENT, Departure.BOUNCED, Departure.DEFERRED):
            for delivery in seen:
                if delivery.departure is departure:
                    return Sighting(departure, delivery.words)
        return None

    def _read_delivery(self, line: bytes) -> None:
        if found := _DELIVERY.search(line):
            queue_id, to, original, relay, status, words = (
                "" if group is None else group.decode("utf-8", "replace") for group in found.groups()
            )
            departure = _DEPARTURES.get(status)
            if departure is None:
                return
            next_id = _QUEUED_AS.search(words)
            inside = departure is Departure.SENT and _stays_here(relay, brought_back=next_id is not None)
            self._keep(
                queue_id,
                Delivery(
                    frozenset(filter(None, (to.casefold(), original.casefold()))),
                    departure,
                    shown(words),
                    stays_here=inside,
                    next_id=next_id[1] if inside and next_id else None,
                ),
            )
        elif found := _EXPIRED.search(line):
            queue_id, *words_of_it = (group.decode("utf-8", "replace") for group in found.groups())
            before = self._deliveries.get(queue_id)
            words = shown(", ".join(words_of_it) + (f": {before.words}" if before else ""))
            self._keep(queue_id, Delivery(before.recipients if before else frozenset(), Departure.BOUNCED, words))

    def _keep(self, queue_id: str, delivery: Delivery) -> None:
        self._deliveries[queue_id] = delivery
        self._deliveries.move_to_end(queue_id)
        if len(self._deliveries) > REMEMBERED:
            self._deliveries.popitem(last=False)


def _stays_here(relay: str, *, brought_back: bool) -> bool:
    """Whether the one who took it is a filter: on this machine, and it names the queue id it came back under; or a
    program, whose relay has no address at all.
    """
    found = _RELAY.search(relay)
    if found is None:
        return True
    try:
        return brought_back and ip_address(found[1].removeprefix("IPv6:")).is_loopback
    except ValueError:  # a socket's path
        return brought_back


class LogFollower:
    """Reads what is new in a log file, through its rotation."""

    pace = 0.25

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trail = LogTrail()
        self._file: BinaryIO | None = None
        self._begun = b""

    def look(self, replies: Sequence[Followed], _now: datetime) -> dict[str, Sighting]:
        """As Follower says."""
        try:
            self._read()
        except OSError as error:
            raise Unfollowable(f"{self._path}: {error.strerror}") from None
        found = {reply.id: self._trail.sighting(reply) for reply in replies}
        return {reply_id: sighting for reply_id, sighting in found.items() if sighting is not None}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> None:
        there = self._path.stat()
        if self._file is None:
            self._file = self._path.open("rb")
            self._file.seek(max(0, there.st_size - FIRST_READ))
        self._read_on(self._file)
        mine = os.fstat(self._file.fileno())
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):  # renamed, and begun anew
            with contextlib.closing(self._file):
                self._file = self._path.open("rb")
            self._begun = b""
            self._read_on(self._file)

    def _read_on(self, file: BinaryIO) -> None:
        size, at = os.fstat(file.fileno()).st_size, file.tell()
        if size < at:  # copied away and cut
            file.seek(0)
            self._begun = b""
        elif size - at > MOST_READ:
            file.seek(size - MOST_READ)
            self._begun = b""
        *lines, self._begun = (self._begun + file.read(MOST_READ)).split(b"\n")
        self._trail.read(lines)


class JournalFollower:
    """Asks journalctl for what Postfix's units have logged since the last look. ``command`` is how it is called."""

    pace = 2.0

    def __init__(self, command: Sequence[str] = JOURNAL) -> None:
        self._command = command
        self._trail = LogTrail()
        self._read_until: datetime | None = None

    def look(self, replies: Sequence[Followed], now: datetime) -> dict[str, Sighting]:
        """As Follower says."""
        since = (self._read_until or min(reply.sent_at for reply in replies)) - _OVERLAP
        argv = [*self._command, "--since", f"@{int(since.timestamp())}"]
        try:
            done = run_program(argv, timeout=JOURNAL_TIMEOUT, max_output=MOST_READ)
        except ProgramFault as fault:
            raise Unfollowable(str(fault)) from None
        if done.status != 0:
            said = done.error_lines()
            raise Unfollowable(f"{argv[0]}: {shown(said[-1]) if said else done.ending}")
        self._trail.read(done.output.splitlines())
        self._read_until = now
        found = {reply.id: self._trail.sighting(reply) for reply in replies}
        return {reply_id: sighting for reply_id, sighting in found.items() if sighting is not None}
