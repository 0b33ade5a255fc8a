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

from acme_milter.program import Outcome, ProgramFault, run_program
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
_NO_SUCH_UNIT = "No data available"
_OVERLAP = timedelta(seconds=5)

MAX_LINE = 4096
"""Octets of a line that is read: Postfix cuts what it logs at 2000, so that a longer one is not its own."""

# Anchored, and each part ends where the next begins: whoever can write to the log must not make the worker try twice.
_PREFIX = re.compile(
    rb"(?:<\d{1,3}>)?"
    rb"(?:[A-Z][a-z]{2} [ \d]\d (?:\d{4} )?[\d:.]{8,18}|\d{4}-\d\d-\d\dT[\d:.]{8,18}(?:Z|[+-]\d\d:?\d\d))"
    rb" [^\s\[]{1,255} (?:mail\.[a-z]{1,8} )?postfix[^\s/\[]{0,64}/(?:[^\s/\[]{1,64}/){0,4}"
    rb"(?:smtp|lmtp|pipe|local|virtual|error|discard|bounce|cleanup|n?qmgr|oqmgr)\[\d{1,10}\]: "
)
_QUEUE_ID = re.compile(rb"([0-9A-Za-z]{6,32}): ")
_DELAY = re.compile(rb"delay=(\d{1,9}(?:\.\d{1,6})?)")
_FIELDS_BEFORE_STATUS = (b"delay=", b"dsn=")
_GIVEN_UP = (b"expired", b"force-expired")
_QUEUED_AS = re.compile(r"queued as ([0-9A-Za-z]{6,32})")
_DEPARTURES = {"sent": Departure.SENT, "deferred": Departure.DEFERRED, "bounced": Departure.BOUNCED}


@dataclass(frozen=True, slots=True)
class Delivery:
    """The latest that was logged of a queue id. ``recipients``: as addressed, and as it was before rewriting."""

    recipients: frozenset[str]
    departure: Departure
    words: str
    age: timedelta | None = None
    """How long the message had been there, as Postfix says."""

    stays_here: bool = False
    """It went no further than to a filter on this machine."""
    next_id: str | None = None
    """The queue id under which the filter brought it back."""


class LogTrail:
    """What the lines so far say. A message is known by its queue ids: the first one, those that a filter's answer
    names, and every one that has its Message-ID. ``prefixed``: a line begins with the time, the host and the program,
    and those of other programs than Postfix's are nobody's word; otherwise whoever brings the lines has chosen them.
    """

    def __init__(self, *, prefixed: bool = True) -> None:
        self._prefixed = prefixed
        self._deliveries: OrderedDict[str, Delivery] = OrderedDict()
        self._ids: OrderedDict[str, list[str]] = OrderedDict()

    def read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if len(line) > MAX_LINE or not (b"status=" in line or b"message-id=<acme-milter." in line):
                continue
            start = 0
            if self._prefixed:
                if (prefix := _PREFIX.match(line)) is None:
                    continue
                start = prefix.end()
            if found := _QUEUE_ID.match(line, start):
                self._read_said(_text(found[1]), line[found.end() :].rstrip())

    def _read_said(self, queue_id: str, said: bytes) -> None:
        """What a program of Postfix says of a queue id."""
        if said.startswith(b"to=<"):
            if (delivery := _delivery(said)) is not None:
                self._keep(queue_id, delivery)
        elif said.startswith(b"from=<"):
            self._read_giving_up(queue_id, said)
        elif (message_id := said.removeprefix(b"resent-").removeprefix(b"message-id=")).startswith(b"<acme-milter."):
            self._read_message_id(queue_id, _text(message_id.partition(b">")[0] + b">"))

    def _read_message_id(self, queue_id: str, message_id: str) -> None:
        known = self._ids.setdefault(message_id, [])
        if queue_id not in known:
            known.append(queue_id)
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)

    def _read_giving_up(self, queue_id: str, said: bytes) -> None:
        status, separator, rest = said.partition(b">, status=")[2].partition(b", ")
        if status not in _GIVEN_UP or not separator:
            return
        before = self._deliveries.get(queue_id)
        words = shown(f"{_text(status)}, {_text(rest)}" + (f": {before.words}" if before else ""))
        self._keep(queue_id, Delivery(before.recipients if before else frozenset(), Departure.BOUNCED, words))

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
                    return Sighting(departure, delivery.words, delivery.age)
        return None

    def _keep(self, queue_id: str, delivery: Delivery) -> None:
        self._deliveries[queue_id] = delivery
        self._deliveries.move_to_end(queue_id)
        if len(self._deliveries) > REMEMBERED:
            self._deliveries.popitem(last=False)


def _delivery(said: bytes) -> Delivery | None:
    """``to=<…>, orig_to=<…>, relay=…, delay=…, delays=…, dsn=…, status=… (words)``. The fields come before the words,
    so the first status is Postfix's own and what looks like one in the words is the other side's.
    """
    addresses, separator, rest = said.partition(b">, relay=")
    fields, separator_of_status, outcome = rest.partition(b", status=")
    status, bracket, words = outcome.partition(b" (")
    if not (separator and separator_of_status and bracket and words.endswith(b")")):
        return None
    relay, *further = fields.split(b", ")
    departure = _DEPARTURES.get(_text(status))
    if departure is None or not all(any(one.startswith(name) for one in further) for name in _FIELDS_BEFORE_STATUS):
        return None
    to, _, original = _text(addresses.removeprefix(b"to=<")).partition(">, orig_to=<")
    answer = _text(words.removesuffix(b")"))
    next_id = _QUEUED_AS.search(answer)
    inside = departure is Departure.SENT and _stays_here(_text(relay), brought_back=next_id is not None)
    return Delivery(
        frozenset(filter(None, (to.casefold(), original.casefold()))),
        departure,
        shown(answer),
        age=_age(further),
        stays_here=inside,
        next_id=next_id[1] if inside and next_id else None,
    )


def _age(fields: Sequence[bytes]) -> timedelta | None:
    found = next((_DELAY.fullmatch(field) for field in fields if field.startswith(b"delay=")), None)
    return None if found is None else timedelta(seconds=float(found[1]))


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def _stays_here(relay: str, *, brought_back: bool) -> bool:
    """Whether the one who took it is a filter: on this machine, and it names the queue id it came back under; or a
    program, whose relay has no address at all.
    """
    address, closed, _ = relay.partition("[")[2].partition("]")
    if not closed:
        return True
    try:
        return brought_back and ip_address(address.removeprefix("IPv6:")).is_loopback
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
        *lines, begun = (self._begun + file.read(MOST_READ)).split(b"\n")
        self._begun = begun[: MAX_LINE + 1]  # of one that is too long no more than is needed to see that
        self._trail.read(lines)


class JournalFollower:
    """Asks journalctl for what Postfix's units have logged since the last look, which journald vouches for. ``command``
    is how it is called.
    """

    pace = 2.0

    def __init__(self, command: Sequence[str] = JOURNAL) -> None:
        self._command = command
        self._trail = LogTrail(prefixed=False)
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
            raise Unfollowable(f"{argv[0]}: {_trouble(done)}")
        self._trail.read(done.output.splitlines())
        self._read_until = now
        found = {reply.id: self._trail.sighting(reply) for reply in replies}
        return {reply_id: sighting for reply_id, sighting in found.items() if sighting is not None}


def _trouble(done: Outcome) -> str:
    said = shown((done.error_lines() or [done.ending])[-1])
    # So it says that no such unit has ever logged, or that there is no journal.
    hint = "; nothing of Postfix is in the journal: does it log to a file?" if said.endswith(_NO_SUCH_UNIT) else ""
    return f"{said}{hint}"
