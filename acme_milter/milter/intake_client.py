# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the worker about one candidate, and knows what to do when there is no answer (rule T).

A candidate without an answer is put off with a 451, so that its sender's queue keeps it, for at most 30 minutes from
its first sight; then it is delivered. Ordinary mail never comes here.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.ipc.client import FrameClient, PeerUnavailable
from acme_milter.ipc.frames import FrameError
from acme_milter.milter.session import Candidate
from acme_milter.protocol.doubt import may_be_put_off

# How many candidates one milter asks about at once. Each occupies one of libmilter's threads; more than this is either
# an attack or a worker in trouble, and neither may slow ordinary mail down.
AT_ONCE = 16
PLACE_SECONDS = 2.0

LONGEST_DOUBT = 30 * 60.0
FORGET_AFTER = 24 * 3600.0
DOUBTS_REMEMBERED = 10_000


class Disposition(StrEnum):
    """What Postfix is told."""

    ACCEPT = "accept"
    DISCARD = "discard"
    TEMPFAIL = "tempfail"


@dataclass(frozen=True, slots=True)
class Answer:
    """The disposition of one candidate and the reason for the log."""

    disposition: Disposition
    reason: str


class Doubts:
    """When each candidate that could not be decided was first seen; bounded, oldest forgotten first.

    `clock` is monotonic seconds. Keys are digests: a Subject holds a secret.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._first_seen: OrderedDict[bytes, float] = OrderedDict()

    def may_wait(self, candidate: Candidate) -> bool:
        """Whether this candidate may be put off once more."""
        digest = hashlib.sha256(candidate.subject)
        for recipient in candidate.recipients:
            digest.update(b"\0" + recipient.encode("utf-8", "surrogateescape"))
        now = self._clock()
        with self._lock:
            while self._first_seen:
                oldest = next(iter(self._first_seen.values()))
                if now - oldest <= FORGET_AFTER and len(self._first_seen) < DOUBTS_REMEMBERED:
                    break
                self._first_seen.popitem(last=False)
            first = self._first_seen.setdefault(digest.digest(), now)
        return now - first <= LONGEST_DOUBT

    def __len__(self) -> int:
        return len(self._first_seen)


def could_be_ours(candidate: Candidate) -> bool:
    """Whether the worker might suppress this mail: if not, there is nothing to wait for, and it is delivered at once.

    A Subject that merely begins with "ACME:", and a mail for several people, is ordinary mail (G2, G6).
    """
    return len(candidate.recipients) == 1 and may_be_put_off(candidate.raw)


class IntakeClient:
    """Asks at the worker's intake socket. `deadline` (seconds) bounds one call; any number of threads may ask."""

    def __init__(self, intake_socket: Path, deadline: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = FrameClient(intake_socket, timeout=deadline)
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._doubts = Doubts(clock)
        self._asking = 0
        self._asking_lock = threading.Lock()

    @property
    def asking(self) -> int:
        """How many candidates wait for the worker's answer now."""
        return self._asking

    def decide(self, candidate: Candidate) -> Answer:
        """The worker's answer, or rule T's. Never raises for want of a worker."""
        if not self._places.acquire(timeout=PLACE_SECONDS):
            return self._without_answer(candidate, "milter-busy")
        try:
            self._count(1)
            return self._ask(candidate)
        finally:
            self._count(-1)
            self._places.release()

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def _ask(self, candidate: Candidate) -> Answer:
        envelope = candidate.envelope
        header: dict[str, object] = {
            "call": "candidate",
            "queue_id": envelope.queue_id,
            "sender": envelope.sender,
            "recipients": list(candidate.recipients),
            "client_name": envelope.client_name,
            "client_address": envelope.client_address,
            "auth": envelope.authenticated,
            "daemon": envelope.daemon,
        }
        if candidate.truncated:
            header["truncated"] = True
        try:
            answer, _ = self._client.call(header, candidate.raw)
            return Answer(Disposition(str(answer.get("disposition"))), str(answer.get("reason", "")))
        except (PeerUnavailable, FrameError, ValueError) as exc:
            # ValueError: an answer without a disposition we know, for instance {"error": "internal"}.
            log_exception(Event.WORKER_UNREACHABLE, exc, queue_id=envelope.queue_id)
            return self._without_answer(candidate, "worker-unreachable")

    def _without_answer(self, candidate: Candidate, reason: str) -> Answer:
        wait = could_be_ours(candidate) and self._doubts.may_wait(candidate)
        disposition = Disposition.TEMPFAIL if wait else Disposition.ACCEPT
        log_event(
            Event.CHALLENGE_DOUBT,
            queue_id=candidate.envelope.queue_id,
            rcpt=",".join(candidate.recipients),
            reason=reason,
            action="tempfail" if wait else "deliver",
            alert=None if wait else 1,
        )
        return Answer(disposition, reason)

    def _count(self, difference: int) -> None:
        with self._asking_lock:
            self._asking += difference
