# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose mailboxes there are, and what follows when that changes: the worker's parts for it, put together."""

from collections.abc import Callable

from acme_milter.clock import Clock
from acme_milter.store.database import Database
from acme_milter.worker import leaving, mailbox_keeping, revoker
from acme_milter.worker.authorities import Authorities
from acme_milter.worker.chores import Chore
from acme_milter.worker.control import Answer
from acme_milter.worker.leaving import Leaving
from acme_milter.worker.mailbox_calls import MailboxCalls
from acme_milter.worker.mailbox_keeping import MailboxKeeping
from acme_milter.worker.revocation_call import RevocationCall
from acme_milter.worker.revoker import Revoker
from acme_milter.worker.standing_config import StandingConfig


class People:
    """Keeps mailboxes, lets leavers go, revokes."""

    def __init__(
        self,
        *,
        standing: StandingConfig,
        database: Database,
        authorities: Authorities,
        clock: Clock,
        ask_for: Callable[[str], None],
    ) -> None:
        """``ask_for``: has a chore of the worker's done soon, by its name."""
        self._standing = standing
        self._database = database
        self._clock = clock
        self._ask_for = ask_for
        self._leaving = Leaving(config=standing.current, database=database, authorities=authorities, clock=clock.now)
        self._revoker = Revoker(config=standing.current, database=database, authorities=authorities, clock=clock.now)
        self.keeping = MailboxKeeping(
            standing=standing,
            database=database,
            clock=clock,
            somebody_came=lambda: ask_for("background"),
            somebody_went=self._let_go,
        )

    def load(self) -> None:
        """Once the store has its schema, and before anything is answered: what it knows is managed."""
        self.keeping.load()

    def stop(self) -> None:
        self.keeping.stop()
        self._leaving.close()
        self._revoker.stop()

    def chores(self) -> list[Chore]:
        return [
            Chore("mailboxes", mailbox_keeping.EVERY, self.keeping.work),
            Chore("leaving", leaving.EVERY, self._let_go),
            Chore("revocations", revoker.EVERY, self._revoker.work),
        ]

    def answers(self) -> dict[str, Answer]:
        """What the control socket's calls about people are answered by."""
        calls = MailboxCalls(
            keeping=self.keeping, database=self._database, clock=self._clock.now, ask_for=self._ask_for
        )
        revoke = RevocationCall(
            config=self._standing.current,
            database=self._database,
            clock=self._clock.now,
            work_is_due=self._revocation_asked,
        )
        return {"sync": calls.sync, "release-hold": calls.release_hold, "revoke": revoke.answer}

    def _let_go(self) -> None:
        if self._leaving.end_what_is_over():
            self._ask_for("revocations")
        self._ask_for("deliveries")

    def _revocation_asked(self) -> None:
        self._ask_for("revocations")
        self._ask_for("deliveries")
