# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration in force: what the file says, with the mailboxes that the sources brought."""

import dataclasses
import threading
from collections.abc import Iterable

from acme_milter.config.fault import Fault
from acme_milter.config.member import Member
from acme_milter.config.schema import Authority, Config


class StandingConfig:
    """Safe for any number of threads. Whoever asks gets a whole configuration, the old one or the new one.

    ``last_faults`` are why the last reload was refused; empty when the file that is there is the one in force.
    """

    def __init__(self, file_config: Config) -> None:
        self._changed = threading.Condition()
        self._nobody_waits = False
        self._file = file_config
        self._members: tuple[Member, ...] = ()
        self._tried: dict[str, Authority] = {}
        self._current = file_config
        self.last_faults: tuple[Fault, ...] = ()

    def current(self) -> Config:
        """The configuration in force, with every managed mailbox."""
        return self._current

    def file(self) -> Config:
        """What the file says alone: of the mailboxes, those that it lists."""
        return self._file

    @property
    def last_fault(self) -> str | None:
        """Why the last reload was refused, in a line; None when the file that is there is the one in force."""
        if not self.last_faults:
            return None
        more = len(self.last_faults) - 1
        return f"{self.last_faults[0]}{f' (and {more} more)' if more else ''}"

    def replace_file(self, config: Config) -> None:
        """The file says something else now; the sources' mailboxes stay, as far as their domains are configured."""
        with self._changed:
            self._file = config
            self._current = self._made()
            self.last_faults = ()
            self._changed.notify_all()

    def replace_members(self, members: Iterable[Member]) -> None:
        """All mailboxes of all sources, those that are managed."""
        with self._changed:
            self._members = tuple(members)
            self._current = self._made()
            self._changed.notify_all()

    def try_out(self, authority: str, settings: Authority | None) -> None:
        """Have other settings in force for a staging service, until None ends that."""
        with self._changed:
            self._tried.pop(authority, None)
            if settings is not None:
                self._tried[authority] = settings
            self._current = self._made()
            self._changed.notify_all()

    def _made(self) -> Config:
        config = self._file.with_members(self._members)
        tried = {name: settings for name, settings in self._tried.items() if name in config.authorities}
        return dataclasses.replace(config, authorities={**config.authorities, **tried}) if tried else config

    def wait_while(self, config: Config, seconds: float) -> None:
        """Return when another configuration than this is in force, after `seconds` at the latest."""
        with self._changed:
            self._changed.wait_for(lambda: self._current is not config or self._nobody_waits, seconds)

    def stop_waiting(self) -> None:
        """Let everybody go who waits for a change, now and later: the worker ends."""
        with self._changed:
            self._nobody_waits = True
            self._changed.notify_all()

    def refused(self, faults: Iterable[Fault]) -> None:
        """A reload found these; what was in force stays in force."""
        self.last_faults = tuple(faults)
