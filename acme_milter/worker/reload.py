# SPDX-License-Identifier: GPL-3.0-or-later
"""A changed configuration file: taken over whole when it has no fault, not at all when it has one."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from acme_milter.config.fault import ConfigFaults, Fault
from acme_milter.config.loader import load
from acme_milter.config.schema import Config
from acme_milter.eventlog import Event, log_event
from acme_milter.worker.answer import SigningKeyUnavailable
from acme_milter.worker.standing_config import StandingConfig

MOST_TOLD = 50
"""Faults that are logged one by one; `acme-milter config check` shows all of them."""

ONLY_AT_START = ("store", "milter", "worker", "keys", "dns")
"""Sections whose sockets, processes and connections are made when a role starts."""


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What came of the last reload: since when the file is refused, and the keys that wait for a restart."""

    refused_since: datetime | None = None
    needs_restart: tuple[str, ...] = ()


class Reloader:
    """``prepare`` is called with a configuration that is about to be in force; it may raise SigningKeyUnavailable and
    ConfigFaults.
    """

    def __init__(
        self, standing: StandingConfig, prepare: Callable[[Config], object], clock: Callable[[], datetime]
    ) -> None:
        self._standing = standing
        self._prepare = prepare
        self._clock = clock
        self._judgement = _Judgement()

    def answer(self, _header: dict[str, object]) -> dict[str, object]:
        """The control socket's call ``configuration``: what of the file is not in force, and why.

        ``refused``: the faults of the last reload, MOST_TOLD of ``faults``; ``since`` when each reload was refused.
        """
        judgement, faults = self._judgement, self._standing.last_faults
        since = judgement.refused_since
        return {
            "file": str(self._standing.file().path),
            "refused": [str(fault) for fault in faults[:MOST_TOLD]],
            "faults": len(faults),
            "since": None if since is None else since.isoformat(),
            "needs_restart": list(judgement.needs_restart),
        }

    def reload(self) -> bool:
        """Read the file again. Returns whether its configuration is in force now; otherwise the old one still is."""
        old = self._standing.file()
        try:
            new = load(old.path, certificates=True)
            self._prepare(new)
        except ConfigFaults as found:
            return self._refuse(found.faults)
        except SigningKeyUnavailable as error:
            return self._refuse([Fault(0, "reply.dkim", str(error), old.path)])
        waiting = tuple(_only_at_start(old, new))
        self._judgement = _Judgement(needs_restart=waiting)
        kept = {name: getattr(old, name) for name in ONLY_AT_START}
        self._standing.replace_file(dataclasses.replace(new, **kept))
        current = self._standing.current()
        log_event(
            Event.CONFIG_LOADED,
            file=new.path,
            mailboxes=len(current.members),
            domains=len(new.domains),
            authorities=len(new.authorities),
            sources=len(new.sources),
        )
        if waiting:
            log_event(
                Event.CONFIG_LOADED,
                level=logging.WARNING,
                file=new.path,
                needs_restart=",".join(waiting),
                advice="these keys count from the next start of the roles",
            )
        return True

    def _refuse(self, faults: "tuple[Fault, ...] | list[Fault]") -> bool:
        self._standing.refused(faults)
        self._judgement = _Judgement(self._judgement.refused_since or self._clock(), self._judgement.needs_restart)
        for fault in faults[:MOST_TOLD]:
            log_event(Event.CONFIG_RELOAD_FAILED, level=logging.ERROR, fault=str(fault))
        log_event(
            Event.CONFIG_RELOAD_FAILED,
            level=logging.ERROR,
            faults=len(faults),
            kept="the configuration before",
            advice="run: acme-milter config check",
        )
        return False


def _only_at_start(old: Config, new: Config) -> Iterator[str]:
    """The keys whose new values have to wait."""
    for section in ONLY_AT_START:
        before, after = getattr(old, section), getattr(new, section)
        for key in type(before).model_fields:
            if getattr(before, key) != getattr(after, key):
                yield f"{section}.{key}"
