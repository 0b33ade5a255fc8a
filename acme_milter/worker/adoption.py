# SPDX-License-Identifier: GPL-3.0-or-later
"""Sees to it that each active certificate has its renewal, and has it with an authority that is configured.

Older stores and imports have some without; whoever removes or renames an authority leaves some behind.
"""

from collections.abc import Callable
from datetime import timedelta

from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.store import certificates, renewals
from acme_milter.store.database import Database
from acme_milter.store.renewals import Place
from acme_milter.worker.renewer import AT_ONCE, plan, renewing_authority

WALK = timedelta(hours=1)
PAGES = 20
PAGE = 500
"""So many pages of the walk in one round, and so many certificates on a page."""


class Adoption:
    """``look`` is one round; once an hour the whole way."""

    def __init__(self, config: Callable[[], Config], database: Database, clock: Clock) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._walks_since: float | None = None
        self._walk: Place | None = None
        self._configured: frozenset[str] | None = None

    def look(self) -> None:
        """Raises what the store raises."""
        passed = self._clock.monotonic()
        begins = self._walks_since is None or passed - self._walks_since >= WALK.total_seconds()
        configured = frozenset(self._config().authorities)
        if begins or configured != self._configured:
            self._move_to_configured(configured)
            self._configured = configured
        if self._walk is None and not begins:
            return
        if self._walk is None:
            self._walks_since = passed
        for _ in range(PAGES):
            with self._database.read() as connection:
                found, self._walk = renewals.without_row(connection, self._walk, PAGE)
            self._plan(found)
            if self._walk is None:
                return

    def _move_to_configured(self, configured: frozenset[str]) -> None:
        """Nobody walks through the renewals of an authority that is gone: the policy names another one."""
        with self._database.read() as connection:
            gone = renewals.authorities(connection) - configured
        for authority in gone:
            after = ""
            while True:
                with self._database.read() as connection:
                    found = renewals.of_authority(connection, authority, after, AT_ONCE)
                if not found:
                    break
                after = found[-1]
                self._plan(found)

    def _plan(self, certificate_ids: list[str]) -> None:
        for start in range(0, len(certificate_ids), AT_ONCE):
            config, now = self._config(), self._clock.now()
            with self._database.write() as connection:
                for one in certificate_ids[start : start + AT_ONCE]:
                    certificate = certificates.get(connection, one)
                    known = renewals.get(connection, one)
                    # Another worker may have been here; and where no authority is left, one row is as good as another.
                    if known is None or known.authority != renewing_authority(config, certificate):
                        plan(connection, config, certificate, now)
