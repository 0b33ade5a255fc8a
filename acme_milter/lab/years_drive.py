# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves the clock of a run of years: as fast as the work allows, and never past a thing that is to happen."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from acme_milter.lab.processes import ProcessFault, wait_until
from acme_milter.lab.years_people import Person, moves_of, write_csv
from acme_milter.lab.years_site import YearsSite
from acme_milter.lab.years_watch import Motion, StoreWatch

HOUR = timedelta(hours=1)
STEP = HOUR + timedelta(seconds=5)
"""What was begun, and placed a moment later, must be sixty minutes ago at the next step, or its place is not free."""

IDLE_STEP = timedelta(hours=3)
"""At most so far while nothing is open or due; what a source says is seen that late at the latest."""

MOST_MOVING = 12
OLDEST = timedelta(hours=5)
"""An order may be open for a day at most, and a reply waits for Postfix for six hours; milliseconds are hours here."""

LATE_MINUTE = 55
"""An order that is begun just before the clock strikes would be counted in the hour after it."""

BLINK = 0.004
WAITS_FOR_TIME = 2.0
"""Seconds without any movement after which what has not begun is taken to wait for time to pass."""

STUCK = 10.0
"""Seconds without any movement after which even an order under way is taken to wait for time to pass."""

LONGEST = 600.0


class Drive:
    """Lets time pass at a site, and everything happen that is planned for a time: `plan` sorted by its moments."""

    def __init__(
        self, site: YearsSite, people: Sequence[Person], say: Callable[[str], None], *, length: timedelta
    ) -> None:
        self._site = site
        self._people = people
        self._say = say
        self.began = site.clock.now()
        self._plan: list[tuple[datetime, Callable[[], None]]] = []
        self._watch = StoreWatch(site.store_path, pace=site.terms.pace, bulk_pace=site.terms.bulk_pace)
        self._told = self.began
        self._started = time.monotonic()
        self._steps = 0
        for moment in moves_of(people):
            if moment < length:
                self.at(self.began + moment, lambda moment=moment: self._people_change(moment))  # type: ignore[misc]  # mypy cannot tell a lambda's default

    @property
    def watch(self) -> StoreWatch:
        return self._watch

    def at(self, moment: datetime, happening: Callable[[], None]) -> None:
        """Have something happen when that time has come."""
        self._plan.append((moment, happening))
        self._plan.sort(key=lambda planned: planned[0])

    def pass_until(self, moment: datetime) -> None:
        """Let time pass until then. Raises ProcessFault when the site stands still."""
        while (now := self._site.clock.now()) < moment:
            self._settle()
            self._site.clock.advance(min(self._step(), moment - now))
            self._happen()
            self._site.worker.catch_up()
            self._tell()
        self._settle()

    def pass_while(self, condition: Callable[[], bool], what: str, *, most: timedelta) -> None:
        """Let time pass, hour by hour, as long as `condition` holds; ProcessFault after `most`."""
        give_up = self._site.clock.now() + most
        while condition():
            if self._site.clock.now() > give_up:
                raise ProcessFault(f"{what} took more than {most / HOUR:.0f} hours of virtual time")
            self.pass_until(self._site.clock.now() + HOUR)

    def come_to_rest(self) -> None:
        """Let what is under way come to its end, in real time. Raises ProcessFault when it does not."""
        wait_until(
            lambda: not self._watch.motion(self._site.clock.now()).is_any, "the last orders", timeout=LONGEST, pause=0.1
        )

    def _step(self) -> timedelta:
        now = self._site.clock.now()
        due = now if self._watch.motion(now).is_any else self._watch.next_due()
        step = IDLE_STEP if due is None else max(STEP, min(due - now, IDLE_STEP))
        if self._plan:
            step = min(step, max(STEP, self._plan[0][0] - now))
        return step + timedelta(minutes=10) if (now + step).minute >= LATE_MINUTE else step

    def _happen(self) -> None:
        while self._plan and self._plan[0][0] <= self._site.clock.now():
            self._plan.pop(0)[1]()

    def _people_change(self, moment: timedelta) -> None:
        write_csv(self._site.csv_path, self._people, moment)

    def _settle(self) -> None:
        """Return when so little is under way that time may pass."""
        began = moved = time.monotonic()
        before: Motion | None = None
        while True:
            now = self._site.clock.now()  # anew each time: what has just begun is due since then
            motion = self._watch.motion(now)
            if not motion.planned and self._may_pass(motion, now):
                return
            if before is None or motion.state != before.state:
                before, moved = motion, time.monotonic()
            still = time.monotonic() - moved
            if still > (WAITS_FOR_TIME if self._may_pass(motion, now) else STUCK):
                return
            if time.monotonic() - began > LONGEST:
                raise ProcessFault(f"no hour passed for {LONGEST:.0f} s; see {self._site.run_log}")
            time.sleep(BLINK)

    @staticmethod
    def _may_pass(motion: Motion, now: datetime) -> bool:
        if motion.starting or motion.revocations or motion.moving >= MOST_MOVING:
            return False  # an order is to be placed in the hour in which it began
        return motion.oldest is None or now - motion.oldest < OLDEST

    def _tell(self) -> None:
        now = self._site.clock.now()
        self._steps += 1
        if (now.year, now.month) == (self._told.year, self._told.month):
            return
        self._told = now
        found = self._watch.progress()
        passed = time.monotonic() - self._started
        held = "".join(f"; stopped: {hold}" for hold in self._watch.holds())
        self._say(
            f"{now:%Y-%m}  {found.orders:>6} orders, {found.certificates:>6} certificates, {found.open:>3} open;"
            f" {passed:6.0f} s, {found.orders / passed:4.1f} orders/s, {self._steps / passed:4.0f} steps/s{held}"
        )

    def close(self) -> None:
        self._watch.close()
