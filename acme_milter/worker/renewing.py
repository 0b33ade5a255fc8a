# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts that pace and renew, put together: what the role starts, does now and then, and answers."""

from collections.abc import Callable

from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.eventlog import Event, log_event
from acme_milter.report.forecast import Forecast
from acme_milter.store import pauses
from acme_milter.store.database import Database
from acme_milter.worker import background, breaker, clock_watch, renewal_information
from acme_milter.worker.authorities import Authorities
from acme_milter.worker.background import Background
from acme_milter.worker.breaker import Prober
from acme_milter.worker.choice import Choosing
from acme_milter.worker.chores import Chore
from acme_milter.worker.clock_watch import ClockWatch
from acme_milter.worker.control import Answer
from acme_milter.worker.pacer import Pacer
from acme_milter.worker.renewal_information import RenewalInformation
from acme_milter.worker.renewer import Renewer

BY_A_PERSON = "a person paused it"


class Renewing:
    """``pacer`` and ``choosing`` are the scheduler's and the bulk runs', too. ``prober.changed`` is called when an
    authority has healed. Make it once the store is there, before anything works on it.
    """

    def __init__(
        self, *, config: Callable[[], Config], database: Database, authorities: Authorities, clock: Clock
    ) -> None:
        self._config = config
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._forecast = Forecast(config)
        self._watch = ClockWatch(config, authorities, clock)
        self.pacer = Pacer(config, objection=self._watch.objection, pace=self._forecast.pace)
        self.choosing = Choosing(config, authorities.clock_skew)
        self.prober = Prober(config=config, database=database, clock=clock.now)
        self._asking = RenewalInformation(config=config, database=database, clock=clock, authorities=authorities)

    def chores(self, work_is_due: Callable[[], None]) -> list[Chore]:
        """In the order in which they need each other."""
        opening = Background(
            config=self._config,
            database=self._database,
            clock=self._clock,
            watch=self._watch,
            forecast=self._forecast,
            work_is_due=work_is_due,
            choosing=self.choosing,
        )
        return [
            Chore("clock", clock_watch.EVERY, self._watch.look),
            Chore("background", background.EVERY, opening.round),
        ]

    def asking(self) -> list[Chore]:
        """What waits for authorities, each in its own turn: nothing stands behind it."""
        return [
            Chore("probe", breaker.EVERY, self.prober.begin),
            Chore("renewal-information", renewal_information.EVERY, self._asking.begin),
        ]

    def settle(self) -> None:
        """Return when what was asked of authorities is answered, or is not."""
        self.prober.settle()
        self._asking.settle()

    def stop(self) -> None:
        """Ask nothing more, and `settle`."""
        self.prober.stop()
        self._asking.stop()
        self._watch.stop()

    def answers(self, work_is_due: Callable[[], None]) -> dict[str, Answer]:
        """The control socket's calls, by name."""
        renewer = Renewer(
            config=self._config,
            database=self._database,
            clock=self._clock.now,
            work_is_due=work_is_due,
            choosing=self.choosing,
        )

        def resume(header: dict[str, object]) -> dict[str, object]:
            answer = self._resume(header)
            work_is_due()
            return answer

        return {"renew": renewer.answer, "pause-authority": self._pause, "resume-authority": resume}

    def _pause(self, header: dict[str, object]) -> dict[str, object]:
        """``authority``, and ``reason`` for whoever asks later why nothing happens."""
        name, reason = str(header.get("authority")), str(header.get("reason") or BY_A_PERSON)
        if name not in self._config().authorities:
            known = ", ".join(self._config().authorities) or "none"
            return {"error": "unknown-authority", "text": f"no authority {name} is configured; there is {known}"}
        with self._database.write() as connection:
            pauses.pause(connection, name, reason, self._clock.now(), None)
        log_event(Event.AUTHORITY_PAUSED, authority=name, reason=reason)
        return {"authority": name, "outcome": "paused"}

    def _resume(self, header: dict[str, object]) -> dict[str, object]:
        """``authority``. Also ends what the authority itself asked for, should somebody know better."""
        name = str(header.get("authority"))
        with self._database.write() as connection:
            was_paused = pauses.resume(connection, name)
        if was_paused:
            log_event(Event.AUTHORITY_RESUMED, authority=name)
        return {"authority": name, "outcome": "resumed" if was_paused else "not-paused"}
