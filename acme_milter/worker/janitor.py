# SPDX-License-Identifier: GPL-3.0-or-later
"""The janitor: forgets what has had its time."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from acme_milter.store import challenge_mails, departures, passphrases
from acme_milter.store.database import Database

EVERY = timedelta(hours=1)

KEEP_MAILS = timedelta(days=30)
"""L3: the sealed bytes of a challenge mail that was kept out of an inbox, so that somebody can still look at it."""

KEEP_DOUBTS = timedelta(days=2)
"""Longer than any sender retries (RFC 5321 §4.5.4.1 suggests four to five days, but a challenge lives for one)."""

KEEP_PASSPHRASES = timedelta(days=30)
"""After the certificate went out of use: what opens its files is shown to nobody any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Janitor:
    """Any number of workers may tidy the same store; each does little at a time."""

    database: Database
    clock: Callable[[], datetime]

    def tidy(self) -> None:
        """One round."""
        now = self.clock()
        with self.database.read() as connection:
            unused = passphrases.unused(connection, now - KEEP_PASSPHRASES)
        with self.database.write() as connection:
            challenge_mails.forget_doubts(connection, now - KEEP_DOUBTS)
            challenge_mails.forget_mails(connection, now - KEEP_MAILS)
            departures.forget_ended(connection)
            passphrases.forget(connection, *unused)
