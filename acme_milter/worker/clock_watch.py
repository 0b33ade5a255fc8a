# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the time is right, by what the authorities' answers say of it (F-12, F-13).

Orders, renewals and ends of certificates all go by the wall clock, and a wrong one must not set them going.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from acme_milter.acme.problem import AcmeError
from acme_milter.clock import Clock, JumpWatch
from acme_milter.config.schema import Config
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.client import KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.worker.authorities import Authorities, AuthorityUnusable
from acme_milter.worker.each_authority import EachAuthority

TOLERATED = timedelta(minutes=1)
"""A skew that is told of, once."""

WRONG = timedelta(minutes=5)
"""A skew with which nothing new is begun, and no deadline counts."""

EVERY = timedelta(seconds=30)
_USUAL = timedelta(hours=1)
_FIRST_PAUSE = timedelta(minutes=1)
PATIENCE = 2.0
"""Seconds that a round waits for answers: what comes after it goes by them, but not by those of silent authorities."""


class ClockWatch:
    """Looks at the clock by asking authorities, each in its own turn; what it has found may be asked by any thread."""

    def __init__(
        self, config: Callable[[], Config], authorities: Authorities, clock: Clock, *, patience: float = PATIENCE
    ) -> None:
        self._config = config
        self._authorities = authorities
        self._clock = clock
        self._patience = patience
        self._jumps = JumpWatch(clock)
        self._number_of_jumps = 0
        self._turns = EachAuthority("clock")
        self._in_doubt: set[str] = set()  # nobody has confirmed the clock since it jumped
        self._confirmed: set[str] = set()
        self._heard: set[str] = set()
        self._told: dict[str, timedelta] = {}
        self._next_look: dict[str, float] = {}
        self._pauses: dict[str, timedelta] = {}

    def objection(self, authority: str) -> str | None:
        """Why nothing may begin with the authority, in words; None when the clock does not speak against it."""
        skew = self._authorities.clock_skew(authority)
        if skew is None or abs(skew) <= WRONG:
            return None
        return (
            f"this machine's clock is {_in_words(skew)} the authority's; set it right, and things go on by themselves"
        )

    def has_jumped(self, authority: str) -> bool:
        """Whether the clock jumped, and nobody has confirmed since then that it is right.

        There is one clock: where the authority does not speak against it, as one that sends no Date never does,
        another one's word is as good.
        """
        self._notice()
        if authority not in self._in_doubt:
            return False
        return self.objection(authority) is not None or not any(map(self.is_confirmed, tuple(self._confirmed)))

    def believe(self, authority: str) -> None:
        """A person has let renewals pass although the clock jumped: that is enough until it jumps again."""
        self._in_doubt.discard(authority)

    def is_confirmed(self, authority: str) -> bool:
        """Whether the authority has said, since the start and since any jump, that the clock is right."""
        self._notice()
        return authority in self._confirmed and self.objection(authority) is None

    def is_heard(self, authority: str) -> bool:
        """Whether the authority has answered since the start and does not say that the clock is wrong.

        A machine without a battery starts in another year. One that we have no account with is not asked, and passes.
        """
        heard = authority in self._heard or self._authorities.clock_skew(authority) is not None
        return self.objection(authority) is None and (heard or not self._authorities.is_known(authority))

    def look(self) -> None:
        """One round: ask those whose word is old, in doubt or against us."""
        self._notice()
        for name in self._config().authorities:
            asked_again = self._clock.monotonic() >= self._next_look.get(name, 0.0)
            if asked_again and self._authorities.is_known(name):
                self._turns.begin(name, partial(self._ask, name))
        self._turns.settle(self._patience)

    def stop(self) -> None:
        """Ask nobody any more, and return when those who were asked have answered, or will not."""
        self._turns.stop()

    def _notice(self) -> None:
        if self._jumps.jumped():
            self._number_of_jumps += 1
            self._in_doubt |= set(self._config().authorities)
            self._confirmed.clear()
            self._next_look.clear()
            log_event(Event.CLOCK_JUMPED, level=logging.ERROR)

    def _ask(self, name: str) -> None:
        jumps = self._number_of_jumps
        try:
            skew = self._authorities.network(name).ask_the_time()
        except (AcmeError, AuthorityUnusable, KeydUnavailable, KeydRefused):
            pause = self._pauses[name] = min(2 * self._pauses.get(name, _FIRST_PAUSE / 2), _USUAL)
        else:
            if jumps != self._number_of_jumps:
                return  # it answered by a clock that has jumped since: the next round asks again
            self._pauses.pop(name, None)
            self._heard.add(name)
            right = skew is not None and abs(skew) <= WRONG
            if right:
                self._in_doubt.discard(name)
                self._confirmed.add(name)
            if skew is not None:
                self._tell(name, skew)
            pause = _USUAL if right else EVERY
        self._next_look[name] = self._clock.monotonic() + pause.total_seconds()

    def _tell(self, name: str, skew: timedelta) -> None:
        told = self._told.get(name, timedelta(0))
        if abs(skew) <= TOLERATED:
            self._told.pop(name, None)
        elif told <= TOLERATED or (abs(skew) > WRONG) != (told > WRONG):
            level = logging.ERROR if abs(skew) > WRONG else logging.WARNING
            log_event(Event.CLOCK_SKEWED, level=level, authority=name, skew=skew, ordering=abs(skew) <= WRONG)
            self._told[name] = abs(skew)


def _in_words(skew: timedelta) -> str:
    seconds = abs(skew).total_seconds()
    amount = f"{seconds / 86400:.0f} d" if seconds >= 2 * 86400 else f"{seconds / 60:.0f} min"
    return f"{amount} {'ahead of' if skew > timedelta(0) else 'behind'}"
