# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailbox keeping: reads each source when its time has come, and applies what has changed, as far as guards let it."""

import dataclasses
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from acme_milter.clock import Clock, JumpWatch
from acme_milter.config.schema import Config
from acme_milter.config.sources import LIST
from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.mailboxes.looking import look, read_source, source_names
from acme_milter.mailboxes.record import CameAs, members
from acme_milter.mailboxes.source import Reading, SourceFault
from acme_milter.mailboxes.sync import Difference, Stop, change_hold, leavers_hold, new_hold
from acme_milter.store import holds, mailboxes, source_runs
from acme_milter.store.database import Database
from acme_milter.worker.mailbox_writing import write_difference
from acme_milter.worker.standing_config import StandingConfig

EVERY = timedelta(seconds=2)
"""How often somebody looks whether a source is due."""

LIST_EVERY = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one look at a source: a difference, of which the parts that ``held`` names were not applied; or
    why it could not be read, and then nothing changed.
    """

    source: str
    difference: Difference | None = None
    held: tuple[str, ...] = ()
    error: str | None = None


class MailboxKeeping:
    """Each source has a thread of its own while it is read, so that one which hangs holds up no other."""

    def __init__(
        self,
        *,
        standing: StandingConfig,
        database: Database,
        clock: Clock,
        somebody_came: Callable[[], object],
        somebody_went: Callable[[], object],
    ) -> None:
        """``somebody_came``: there are joiners. ``somebody_went``: mailboxes have left or changed hands. Both are
        called after that is committed.
        """
        self._standing = standing
        self._database = database
        self._clock = clock
        self._somebody_came = somebody_came
        self._somebody_went = somebody_went
        self._jumps: dict[str, JumpWatch] = {}
        self._seen_file: Config | None = None
        self._published: dict[str, datetime | None] = {}
        self._due: dict[str, float] = {}
        self._attempted: set[str] = set()
        self._deferred: set[str] = set()
        self._lock = threading.Lock()
        self._reading: dict[str, threading.Thread] = {}
        self._applying = threading.Lock()

    def load(self) -> None:
        """At the worker's start: what the store knows is managed at once, whatever the sources say by and by."""
        self._notice_the_file()

    def work(self) -> None:
        """The chore: begin to read what is due, and return."""
        self._notice_the_file()
        self._notice_other_hosts()
        now = self._clock.monotonic()
        with self._lock:
            names = [name for name, due in self._due.items() if due <= now and name not in self._reading]
        for name in names:
            if name == LIST:
                self.keep(name)
            else:
                self._begin(name)

    def ask_for(self, name: str | None = None) -> None:
        """Read this source, or all of them, at the chore's next round."""
        with self._lock:
            for one in self._due if name is None else {name} & self._due.keys():
                self._due[one] = self._clock.monotonic()

    def keep(self, name: str) -> Outcome:
        """Read a source and apply what has changed, in the caller's thread."""
        config = self._standing.current()
        every = LIST_EVERY if name not in config.sources else config.sources[name].every
        with self._lock:
            self._due[name] = self._clock.monotonic() + every.total_seconds()
        try:
            reading = read_source(self._standing.file(), name, self._clock.now)
        except SourceFault as fault:
            outcome = self._failed(name, str(fault))
        except Exception as error:  # noqa: BLE001 the edge of a source: what it broke with is its own affair
            log_exception(Event.INTERNAL_ERROR, error, source=name)
            outcome = self._failed(name, f"internal error ({type(error).__name__}); the worker's log has the place")
        else:
            with self._applying:
                outcome = self._apply(name, reading)
        self._attempt_ended(name)
        return outcome

    def preview(self, name: str) -> Outcome:
        """As ``keep``, and nothing is changed."""
        try:
            reading = read_source(self._standing.file(), name, self._clock.now)
        except SourceFault as fault:
            return Outcome(source=name, error=str(fault))
        with self._database.read() as connection:
            found = look(connection, self._standing.file(), name, reading, self._clock.now())
        return Outcome(source=name, difference=found, held=tuple(stop.name for stop in found.stops))

    def file(self) -> Config:
        """What the configuration says of sources at present."""
        return self._standing.file()

    def names(self) -> list[str]:
        """What ``keep`` may be asked for: the configured sources, and those that once were and still have mailboxes."""
        configured = source_names(self._standing.file())
        with self._database.read() as connection:
            return configured + sorted(mailboxes.sources(connection) - set(configured))

    def stop(self) -> None:
        """Sources that are being read are left alone: nothing comes of it any more."""
        with self._lock:
            self._due.clear()

    def _notice_the_file(self) -> None:
        """The file is new: read everything, and judge who is wanted by what it says now."""
        file = self._standing.file()
        if file is self._seen_file:
            return
        self._seen_file = file
        names = self.names()
        with self._lock:
            self._attempted.clear()
            self._due = dict.fromkeys(names, self._clock.monotonic())
            for name in names:
                self._jumps.setdefault(name, JumpWatch(self._clock))
        self._publish()

    def _notice_other_hosts(self) -> None:
        """A worker elsewhere on the same store may have applied what a source says; mail comes to us as well."""
        with self._database.read() as connection:
            changes = source_runs.changes(connection)
        if changes != self._published:
            self._publish()

    def _publish(self) -> None:
        with self._database.read() as connection:
            self._published = source_runs.changes(connection)
            known = members(connection, self._standing.file())
        self._standing.replace_members(known)

    def _begin(self, name: str) -> None:
        def read() -> None:
            try:
                self.keep(name)
            except Exception as error:  # noqa: BLE001 the edge of the thread: the store may be back next time
                log_exception(Event.INTERNAL_ERROR, error, source=name)
            finally:
                with self._lock:
                    del self._reading[name]

        thread = threading.Thread(target=read, name=f"source-{name}", daemon=True)
        with self._lock:
            self._reading[name] = thread
        thread.start()

    def _attempt_ended(self, name: str) -> None:
        """Once every source was tried, those that could not tell before who is gone get another look."""
        with self._lock:
            self._attempted.add(name)
            if self._is_settled(name):
                for one in self._deferred & self._due.keys():
                    self._due[one] = self._clock.monotonic()
                self._deferred.clear()

    def _is_settled(self, name: str) -> bool:
        """Whether each source was tried since the file last changed, this one included. Until then a mailbox that one
        source does not have any more may be one that another source is about to bring.
        """
        return self._attempted | {name} >= set(source_names(self._standing.file()))

    def _failed(self, name: str, error: str) -> Outcome:
        with self._database.write() as connection:
            source_runs.failed(connection, name, self._clock.now(), error)
        log_event(Event.SOURCE_FAILED, level=logging.WARNING, source=name, error=error)
        return Outcome(source=name, error=error)

    def _apply(self, name: str, reading: Reading) -> Outcome:
        with self._database.read() as connection:
            found = look(connection, self._standing.file(), name, reading, self._clock.now())
        with self._lock:
            settled = self._is_settled(name)
            if not settled:
                self._deferred.add(name)
        if not settled:
            growth = tuple(stop for stop in found.stops if stop.name == new_hold(name))
            found = dataclasses.replace(found.without_losses(), stops=growth)
        if self._jumps.setdefault(
            name, JumpWatch(self._clock)
        ).jumped():  # nobody has been missing for as long as it seems (F-13)
            found = dataclasses.replace(found, left=())
        held = self._ask_guards(found, losses_too=settled)
        applied = found.without(held)
        write_difference(self._database, self._standing.current(), applied, self._clock.now())
        with self._database.write() as connection:
            changed = bool(applied.rows or applied.respelled)
            source_runs.succeeded(
                connection,
                name,
                self._clock.now(),
                applied.number,
                changed=changed,
                excluded=applied.left_out,
            )
        if changed:
            self._publish()
        if applied.left or applied.moved:
            self._somebody_went()
        if any(row.came_as == CameAs.JOINER for row in applied.rows):
            self._somebody_came()
        _tell(applied, held)
        return Outcome(source=name, difference=found, held=held)

    def _ask_guards(self, found: Difference, *, losses_too: bool) -> tuple[str, ...]:
        """The holds, by name, that are not released. A guard that objects no more takes its hold back."""
        names = [new_hold(found.source)]
        if losses_too:
            names += [change_hold(found.source), leavers_hold(found.source)]
        objections = {stop.name: stop for stop in found.stops}
        asked: list[Stop] = []
        held: list[str] = []
        with self._database.write() as connection:
            for name in names:
                stop = objections.get(name)
                if stop is None:
                    holds.clear(connection, name)
                    continue
                known = holds.get(connection, name)
                if not holds.ask(connection, name, stop.reason, self._clock.now(), stop.size):
                    held.append(name)
                    if known is None:
                        asked.append(stop)
        for stop in asked:
            release = f"acme-milter hold release {stop.name} --yes"
            log_event(Event.HOLD_ASKED, level=logging.WARNING, hold=stop.name, reason=stop.reason, release=release)
        return tuple(held)


def _tell(applied: Difference, held: Collection[str]) -> None:
    log_event(
        Event.MAILBOXES_LOADED,
        level=logging.INFO if applied.rows or held else logging.DEBUG,
        source=applied.source,
        number=applied.number,
        joined=len(applied.joined) + len(applied.rejoined) + len(applied.let_through),
        returned=len(applied.returned),
        missing=len(applied.missing),
        left=len(applied.left),
        reassigned=len(applied.moved),
        excluded=len(applied.excluded),
        rejected=len(applied.rejected),
        held=",".join(held) or None,
    )
