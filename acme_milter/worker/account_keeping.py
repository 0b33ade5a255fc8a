# SPDX-License-Identifier: GPL-3.0-or-later
"""Our accounts at authorities and trials of authorities: the worker's parts for both, put together."""

from collections.abc import Callable

from acme_milter.clock import Clock
from acme_milter.keys.client import KeydClient
from acme_milter.store.database import Database
from acme_milter.worker import rollover, trial
from acme_milter.worker.authorities import Authorities
from acme_milter.worker.authority_calls import AuthorityCalls
from acme_milter.worker.chores import Chore
from acme_milter.worker.control import Answer
from acme_milter.worker.rollover import Rollover
from acme_milter.worker.standing_config import StandingConfig
from acme_milter.worker.trial import Trials
from acme_milter.worker.vault import Vault


class AccountKeeping:
    """Make it once the store is there."""

    def __init__(
        self,
        *,
        standing: StandingConfig,
        database: Database,
        authorities: Authorities,
        keyd: KeydClient,
        vault: Vault,
        clock: Clock,
        ask_for: Callable[[str], None],
        work_is_due: Callable[[], None],
    ) -> None:
        """``ask_for``: has a chore of these done soon, by its name."""
        self._rollover = Rollover(database=database, authorities=authorities, keyd=keyd, clock=clock.now)
        self._calls = AuthorityCalls(
            config=standing.current,
            database=database,
            authorities=authorities,
            rollover=self._rollover,
            clock=clock.now,
            exchange_soon=lambda: ask_for("rollover"),
        )
        self._trials = Trials(
            standing=standing,
            database=database,
            authorities=authorities,
            vault=vault,
            clock=clock.now,
            work_is_due=work_is_due,
        )

    def chores(self) -> list[Chore]:
        """What waits for authorities, so in a thread where nothing else stands behind it."""
        return [
            Chore("rollover", rollover.EVERY, self._rollover.work),
            Chore("trials", trial.EVERY, self._trials.end_what_is_over),
        ]

    def answers(self) -> dict[str, Answer]:
        """The control socket's calls, by name."""
        return {**self._calls.answers(), **self._trials.answers()}
