# SPDX-License-Identifier: GPL-3.0-or-later
"""The laboratory of a run of years: all is real, as in the demo, but the worker and the CA go by a virtual clock.

The worker's parts live in this process, so that they can be given that clock; keyd and the milter are processes.
"""

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from acme_milter.eventlog import configure_logging
from acme_milter.ipc.client import FrameClient
from acme_milter.lab.processes import ChildProcess, ProcessFault
from acme_milter.lab.system import AUTHORITY, Lab
from acme_milter.lab.virtual_clock import VirtualClock
from acme_milter.lab.years_people import DOMAIN, Person
from acme_milter.report.plan import Selection, make_plan
from acme_milter.report.plan_file import REASONS
from acme_milter.store.bulk_items import AT_ONCE
from acme_milter.store.bulk_runs import Kind
from acme_milter.store.database import Database
from acme_milter.worker.service import Worker

SOURCE = "people"
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the organization has configured and what the CA grants.

    `pace` is limits.background_per_hour; `bulk_pace` is limits.orders_per_hour, which a bulk run meets first.
    """

    lifetime: timedelta = 180 * DAY
    renew_at: float = 0.67
    grace: timedelta = 7 * DAY
    reads_source: timedelta = timedelta(hours=6)
    pace: int = 1
    bulk_pace: int = 200
    largest_change: float = 0.1
    """safety.max_source_change: in a small organization one person is a large part."""

    @property
    def mean_renewal(self) -> timedelta:
        """A certificate's mean age when it is renewed: up to a third of the lifetime before `renew_at`."""
        return self.lifetime * (self.renew_at - 1 / 6)


def terms_for(mailboxes: int, lifetime: timedelta, monthly: float) -> Terms:
    """Background orders at nearly twice the mean that is to be expected, in whole numbers."""
    renewals = mailboxes / (Terms(lifetime=lifetime).mean_renewal / timedelta(hours=1))
    joiners = mailboxes * monthly / (30 * 24)
    return Terms(
        lifetime=lifetime,
        pace=max(1, int(1.9 * (renewals + joiners))),
        bulk_pace=max(20, mailboxes // 10),
        largest_change=max(0.1, min(1.0, 3 / mailboxes)),
    )


class YearsSite(Lab):
    """A mail system in `directory` for everybody who will ever work there; `clock` is the worker's and the CA's."""

    def __init__(self, directory: Path, people: Sequence[Person], terms: Terms, clock: VirtualClock) -> None:
        self.csv_path = directory / "people.csv"
        self.clock = clock
        self.terms = terms
        self.worker: Worker
        local_parts = dict.fromkeys(person.address.partition("@")[0] for person in people)
        limits = {
            "in_flight": 32,
            "orders_per_hour": terms.bulk_pace,
            "background_per_hour": terms.pace,
            "failed_per_hour": 1000,
        }
        super().__init__(
            directory,
            # Postfix knows everybody from the start: whose mailbox it is now is the source's to say.
            domains={DOMAIN: list(local_parts)},
            reply_dkim="own",
            authority={
                # A mail takes as long as ever, but in that time hours pass: the longest patience that is allowed.
                "challenge_wait": "20h",
                "order_lifetime": "24h",
                "use_ari": False,  # its window would be the CA's wish; the policy's own spread is to be proved
                "limits": limits,
            },
            defaults={
                "renewal": {"at": terms.renew_at, "spread": "auto", "key": "rotate"},
                "leavers": {"after": _hours(terms.grace), "revoke": True, "reason": "affiliation-changed"},
                "safety": {"max_source_change": terms.largest_change},
            },
            policies={DOMAIN: {"source": SOURCE, "mailboxes": {}}},
            sections={
                "sources": {
                    SOURCE: {"type": "csv", "path": str(self.csv_path), "every": _hours(terms.reads_source)},
                },
                "keys": {"pool": {"rsa3072": 0}},  # all keys here are P-256
                # The Postfix that would be asked is the machine's own, which knows nobody here.
                "worker": {"verification": "none"},
            },
            knobs={"CERT_LIFETIME": terms.lifetime.total_seconds(), "RETRY_AFTER_SECONDS": 0},
            testca_options={"options": ["--events", "5000", "--first-pause", "0.2"]},
        )

    def start_roles(self) -> None:
        """keyd and the milter as processes, the worker's parts here. Raises ProcessFault."""
        self.clock.follow(self.authority.set_clock)
        self._start("keyd", self.command("keyd"))
        self.roles = self._start("milter", self.command("milter"))
        self._log = self.run_log.open("a", encoding="utf-8")
        configure_logging("worker", stream=self._log)
        self.worker = Worker(self.config, self.clock)
        self._started.append(self.worker)
        self.worker.start(threading.Event())
        self.wait_for_roles()

    def stop_worker(self) -> None:
        """End the worker's parts alone: the store stays as it is, and the CA can still be asked."""
        self._started.remove(self.worker)
        self.worker.stop()

    def _start(self, name: str, argv: list[str]) -> ChildProcess:
        role = ChildProcess(argv, log=self.run_log, name=name)
        role.start()
        self._started.append(role)
        return role

    def bulk(self, selection: Selection, kind: Kind, revoke: str | None) -> int:
        """Plan and run, as `bulk plan` and `bulk run` do; the plan is made by the virtual clock. Returns its size."""
        database = Database(self.config.store.url)
        with contextlib.closing(database), database.read() as connection:
            plan = make_plan(connection, self.config, self.clock.now(), selection, kind=kind, revoke=revoke)
        items = [[item.address, item.authority, item.principal, item.replaces_id] for item in plan.items]
        request: dict[str, object] = {"call": "bulk-open", "run": f"years-{kind.value}", "kind": kind.value}
        request |= {"description": kind.value, "revoke": None if revoke is None else int(REASONS[revoke])}
        parts = [items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE)]
        with FrameClient(self.config.worker.control_socket, timeout=60.0) as worker:
            for number, part in enumerate(parts):
                last = number + 1 == len(parts)
                answer, _ = worker.call({**request, "items": part, "start": number * AT_ONCE, "last": last})
                if "error" in answer:
                    raise ProcessFault(f"bulk-open: {answer}")
        return len(items)

    @property
    def store_path(self) -> Path:
        """The SQLite file."""
        return self.directory / "store.db"

    def outage(self, *, begins: bool) -> None:
        """The CA answers every request with 500 or 503, or comes back."""
        self.authority.set_knobs(HTTP_5XX=100 if begins else 0)


def _hours(span: timedelta) -> str:
    return f"{span / timedelta(hours=1):.0f}h"


__all__ = ["AUTHORITY", "SOURCE", "Terms", "YearsSite", "terms_for"]
