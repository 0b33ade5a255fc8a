# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks where the replies are that Postfix has taken, and tells their orders: one look for all that are waiting."""

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from acme_milter.clock import Clock
from acme_milter.config.policy import PostfixLog, ReplyPolicy
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import CHALLENGED_STATES, State
from acme_milter.enrollment.state_machine import Deferred, advance
from acme_milter.eventlog import Event, log_event
from acme_milter.store import departures, enrollments
from acme_milter.store.database import Database
from acme_milter.store.departures import Departure, Followed
from acme_milter.worker.postfix_log import JournalFollower, LogFollower
from acme_milter.worker.postfix_queue import QueueFollower
from acme_milter.worker.reply_fate import PATIENCE, SILENCE
from acme_milter.worker.sighting import Follower, Sighting, Unfollowable

EVERY = timedelta(milliseconds=500)

SLOW_PACE = 10.0
"""Seconds between two looks when every reply is one that Postfix tries again later."""

SEEN_AGAIN = timedelta(minutes=10)
"""So much later one that is still late is written down as seen again."""

AT_ONCE = 100
"""Departures that are written in one transaction."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a mailbox's replies are followed: ``follow`` as in reply.follow, and whose queue that is."""

    follow: str
    path: Path | None
    host: str

    @classmethod
    def of(cls, reply: ReplyPolicy) -> "Way":
        if isinstance(reply.follow, PostfixLog):
            return cls("log", reply.follow.log, "")  # wherever it comes from, it can be read here
        path = reply.config_directory if reply.follow == "queue" else None
        return cls(reply.follow, path, reply.host)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.follow} {self.path}" if self.path else self.follow

    def follower(self) -> Follower:
        """Raises Unfollowable."""
        if self.follow == "log":
            assert self.path is not None
            return LogFollower(self.path)
        if self.follow == "none":
            raise Unfollowable("reply.follow is none")
        if not is_this_machine(self.host):
            raise Unfollowable(f"reply.host {self.host} is not this machine, so its {self.follow} cannot be read here")
        return QueueFollower(self.path) if self.follow == "queue" else JournalFollower()


def is_this_machine(host: str) -> bool:
    """Whether one of a host's addresses is one of ours, which is to say, one that we could listen at."""
    with contextlib.suppress(OSError, UnicodeError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
                probe.bind(address)
                return True
    return False


class DepartureWatch:
    """A chore. With no reply on its way it asks the store and nobody else.

    Each host looks after the replies that its own Postfix took. What cannot be found out is said once, and the replies
    then count as gone after `post_delay`.
    """

    def __init__(
        self,
        *,
        place: str,
        config: Callable[[], Config],
        database: Database,
        clock: Clock,
        work_is_due: Callable[[], None],
    ) -> None:
        self._place = place
        self._config = config
        self._database = database
        self._clock = clock
        self._work_is_due = work_is_due
        self._followers: dict[Way, Follower] = {}
        self._looked_at: dict[Way, float] = {}
        self._fine_at: dict[Way, float] = {}
        self._told: dict[Way, str] = {}

    def look(self) -> None:
        """One round."""
        with self._database.read() as connection:
            there = departures.followed(connection, self._place)
        if not there:
            return
        config, groups, over = self._config(), dict[Way, list[Followed]](), []
        for reply in there:
            policy = config.policy_for(reply.envelope_sender)
            if policy is None or reply.state not in CHALLENGED_STATES:
                over.append(reply.id)
            else:
                groups.setdefault(Way.of(policy.reply), []).append(reply)
        if over:
            with self._database.write() as connection:
                departures.forget(connection, over)
        for way, replies in groups.items():
            self._record(self._look_by(way, replies))

    def _look_by(self, way: Way, replies: Sequence[Followed]) -> list[tuple[Followed, Sighting]]:
        """What is new of replies that are followed the same way."""
        passed, now = self._clock.monotonic(), self._clock.now()
        all_late = all(reply.departure is not None for reply in replies)
        try:
            follower = self._followers.get(way) or way.follower()
            self._followers[way] = follower
            if passed - self._looked_at.get(way, float("-inf")) < (SLOW_PACE if all_late else follower.pace):
                return []
            self._looked_at[way] = passed
            found = follower.look(replies, now)
        except Unfollowable as trouble:
            return self._unknown(way, replies, str(trouble), passed)
        self._fine_at[way] = passed
        self._told.pop(way, None)
        lost = Sighting(Departure.UNKNOWN, f"nothing about it was found in {PATIENCE.seconds} seconds ({way.name})")
        silent = Sighting(Departure.UNKNOWN, f"nothing was heard of it for two hours ({way.name})")
        seen = [
            (reply, silent if _is_silent(reply, found.get(reply.id), now) else found.get(reply.id)) for reply in replies
        ]
        return [
            (reply, sighting or lost)
            for reply, sighting in seen
            if sighting is not None or (reply.departure is None and now - reply.sent_at > PATIENCE)
        ]

    def _unknown(
        self, way: Way, replies: Sequence[Followed], trouble: str, passed: float
    ) -> list[tuple[Followed, Sighting]]:
        """Nobody can tell. A Postfix that has just been stopped, say, is waited for; what was late stays so a while."""
        if self._told.get(way) != trouble:
            self._told[way] = trouble
            log_event(Event.REPLY_UNFOLLOWED, level=logging.WARNING, follow=way.name, error=trouble)
        if passed - self._fine_at.get(way, float("-inf")) < PATIENCE.total_seconds():
            return []
        now, unknown = self._clock.now(), Sighting(Departure.UNKNOWN, trouble)
        return [(reply, unknown) for reply in replies if reply.departure is None or _is_silent(reply, None, now)]

    def _record(self, found: Sequence[tuple[Followed, Sighting]]) -> None:
        now = self._clock.now()
        new = [
            (reply, seen)
            for reply, seen in found
            if (seen.departure, seen.words) != _known(reply) or _is_seen_again(reply, seen, now)
        ]
        for begin in range(0, len(new), AT_ONCE):
            for reply, seen in self._write(new[begin : begin + AT_ONCE]):
                if seen.departure is not reply.departure:
                    _tell(reply, seen)
        if new:
            self._work_is_due()

    def _write(self, some: Sequence[tuple[Followed, Sighting]]) -> list[tuple[Followed, Sighting]]:
        while True:  # until nobody moves one of the orders on meanwhile
            with contextlib.suppress(enrollments.StaleVersion), self._database.write() as connection:
                return [(reply, seen) for reply, seen in some if self._note(connection, reply, seen)]

    def _note(self, connection: sa.Connection, reply: Followed, seen: Sighting) -> bool:
        now = self._clock.now()
        noted = departures.note(
            connection, reply.id, departure=seen.departure, at=now if seen.is_final else seen.at(reply, now),
            words=seen.words, on=not seen.is_final,
        )  # fmt: skip
        enrollment = enrollments.get(connection, reply.enrollment_id) if noted else None
        if enrollment is not None and enrollment.state is State.REPLIED and seen.departure is not reply.departure:
            due = Deferred(next_attempt_at=self._due(reply, seen, now))
            enrollments.save(connection, advance(enrollment, due, now), release=False)
        return noted

    def _due(self, reply: Followed, seen: Sighting, now: datetime) -> datetime:
        """When its order's next step is due: POST a little after the reply left, or see what is wrong."""
        authority = self._config().authorities.get(reply.authority)
        if authority is None or seen.departure in {Departure.DEFERRED, Departure.BOUNCED}:
            return now
        left_at = reply.sent_at if seen.departure is Departure.UNKNOWN else now
        return max(now, left_at + authority.post_delay)


def _known(reply: Followed) -> tuple[Departure | None, str | None]:
    return reply.departure, reply.departure_words


def _is_silent(reply: Followed, seen: Sighting | None, now: datetime) -> bool:
    """Whether one that is late was seen so for the last time too long ago for that to be news."""
    if seen is not None:
        return not seen.is_final and now - seen.at(reply, now) > SILENCE
    return reply.departure is Departure.DEFERRED and now - (reply.departure_at or reply.sent_at) > SILENCE


def _is_seen_again(reply: Followed, seen: Sighting, now: datetime) -> bool:
    if seen.is_final or reply.departure_at is None:
        return False
    return seen.at(reply, now) - reply.departure_at >= SEEN_AGAIN


def _tell(reply: Followed, seen: Sighting) -> None:
    gone = seen.departure in {Departure.SENT, Departure.GONE}
    event = {Departure.DEFERRED: Event.REPLY_DEFERRED, Departure.BOUNCED: Event.REPLY_BOUNCED}.get(seen.departure)
    if event is None and not gone:
        return  # said once for all of them
    log_event(
        event or Event.REPLY_LEFT,
        queue_id=reply.queue_id,
        level=logging.INFO if gone else logging.WARNING,
        rcpt=reply.address,
        order=reply.enrollment_id,
        to=reply.envelope_recipient,
        answer=seen.words if gone else None,
        error=None if gone else seen.words,
    )
