# SPDX-License-Identifier: GPL-3.0-or-later
"""The CA's outgoing mail queue: threads with a reused SMTP connection each, and retries as a real MTA does them."""

import heapq
import itertools
import smtplib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_LONGEST_PAUSE = 30.0
_IDLE = 3.0
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Parcel:
    """One mail with its envelope; `sender` is empty for the null return path."""

    name: str
    sender: str
    recipients: tuple[str, ...]
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one delivery attempt. `code` is 0 when there was no SMTP answer at all."""

    parcel: Parcel
    number: int
    code: int
    text: str
    seconds: float

    @property
    def delivered(self) -> bool:
        """The MX took responsibility."""
        return 200 <= self.code < 300

    @property
    def again(self) -> bool:
        """It will be tried again (RFC 5321 §4.5.4.1)."""
        return not self.delivered and self.code < 500


class Outgoing:
    """A queue ordered by due time. `report` is called in a sender thread after every attempt."""

    def __init__(
        self,
        target: tuple[str, int],
        helo: str,
        report: Callable[[Attempt], None],
        *,
        threads: int = 4,
        first_pause: float = 1.0,
        attempts: int = 40,
    ) -> None:
        self._target = target
        self._helo = helo
        self._report = report
        self._first_pause = first_pause
        self._attempts = attempts
        self._order = itertools.count()
        self._queue: list[tuple[float, int, int, Parcel]] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._open: dict[int, smtplib.SMTP] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"sender-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the sender threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; what is queued is lost, connections are cut. Returns within about a second."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
            for client in self._open.values():
                if client.sock is not None:
                    # Wakes a thread that waits for an answer; closing alone would not.
                    cut(client.sock)
        deadline = time.monotonic() + 1.0
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def submit(self, parcel: Parcel, *, delay: float = 0.0) -> None:
        """Queue a mail for its first attempt after `delay` seconds."""
        self._push(time.monotonic() + delay, 1, parcel)

    def _push(self, due: float, attempt: int, parcel: Parcel) -> None:
        with self._changed:
            heapq.heappush(self._queue, (due, next(self._order), attempt, parcel))
            self._changed.notify()

    def _next(self, patience: float) -> tuple[int, Parcel] | None:
        """Return the next due mail; None when stopping or nothing came for `patience` seconds."""
        until = time.monotonic() + patience
        with self._changed:
            while not self._stopping.is_set():
                now = time.monotonic()
                if self._queue and self._queue[0][0] <= now:
                    _, _, attempt, parcel = heapq.heappop(self._queue)
                    return attempt, parcel
                if now >= until:
                    return None
                due = min(self._queue[0][0], until) if self._queue else until
                self._changed.wait(due - now)
        return None

    def _work(self, number: int) -> None:
        while not self._stopping.is_set():
            job = self._next(_IDLE)
            if job is None:
                # Idle connections would keep one of the organization's SMTP servers busy each.
                self._hang_up(number)
                continue
            attempt, parcel = job
            began = time.monotonic()
            code, text = self._try(number, parcel)
            if self._stopping.is_set():
                break
            outcome = Attempt(parcel, attempt, code, text, time.monotonic() - began)
            if outcome.again and attempt < self._attempts:
                pause = min(self._first_pause * 2 ** (attempt - 1), _LONGEST_PAUSE)
                self._push(time.monotonic() + pause, attempt + 1, parcel)
            self._report(outcome)
        self._hang_up(number)

    def _try(self, number: int, parcel: Parcel) -> tuple[int, str]:
        reused = number in self._open
        try:
            return self._transaction(self._connection(number), parcel)
        except (OSError, smtplib.SMTPException) as error:
            self._hang_up(number)
            if reused and not self._stopping.is_set():
                # The server may have closed a kept connection at any time; that is no failed attempt.
                return self._try(number, parcel)
            return 0, type(error).__name__

    def _connection(self, number: int) -> smtplib.SMTP:
        client = self._open.get(number)
        if client is None:
            client = smtplib.SMTP(*self._target, local_hostname=self._helo, timeout=_TIMEOUT)
            with self._changed:
                self._open[number] = client
            client.ehlo_or_helo_if_needed()
        return client

    def _transaction(self, client: smtplib.SMTP, parcel: Parcel) -> tuple[int, str]:
        """One SMTP transaction; returns the answer that decided it. A refused second recipient is no failure."""
        everything = "".join((parcel.sender, *parcel.recipients))
        code, text = client.mail(parcel.sender, [] if everything.isascii() else ["SMTPUTF8"])
        if code == 250:
            answers = [client.rcpt(recipient) for recipient in parcel.recipients]
            accepted = [answer for answer in answers if answer[0] in (250, 251)]
            code, text = accepted[0] if accepted else answers[0]
            if accepted:
                code, text = client.data(parcel.raw)
        if code != 250:
            client.rset()
        return code, text.decode("utf-8", "replace")

    def _hang_up(self, number: int) -> None:
        with self._changed:
            client = self._open.pop(number, None)
        if client is not None:
            try:
                client.quit()
            except (OSError, smtplib.SMTPException):
                client.close()


def cut(sock: socket.socket) -> None:
    """Shut a socket down in both directions; an already dead one is fine."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
