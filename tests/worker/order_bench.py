# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker's parts put together as the role does it, on a store of their own, in the surroundings of a Site."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
import yaml

from acme_milter.clock import Clock
from acme_milter.config.loader import load_text
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import advance
from acme_milter.keys.client import KeydClient
from acme_milter.lab.processes import wait_until
from acme_milter.report.forecast import Forecast
from acme_milter.store import certificates, enrollments, outbox
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.schema import certificate as certificate_table
from acme_milter.worker.answer import Answerer
from acme_milter.worker.authorities import Authorities
from acme_milter.worker.background import Background
from acme_milter.worker.breaker import Prober
from acme_milter.worker.choice import Choosing
from acme_milter.worker.clock_watch import ClockWatch
from acme_milter.worker.dkim_verifier import ArithmeticPool, DkimVerifier
from acme_milter.worker.failover import Failover
from acme_milter.worker.intake import Intake
from acme_milter.worker.key_lookup import KeyLookup
from acme_milter.worker.order_desk import OrderDesk
from acme_milter.worker.order_driver import OrderDriver
from acme_milter.worker.pacer import Pacer
from acme_milter.worker.renewal_information import RenewalInformation
from acme_milter.worker.responder import Responder
from acme_milter.worker.scheduler import Scheduler
from acme_milter.worker.smime_verifier import SmimeVerifier
from acme_milter.worker.vault import Vault
from tests.fresh_store import open_store
from tests.worker.site import DOMAIN, SELECTOR, Site

END_STATES = frozenset({State.ACTIVE, State.FAILED, State.CANCELLED})


class RunningClock:
    """The real time, moved ahead as a test wishes."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)
        self.jumped = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def advance(self, **by: float) -> None:
        self.ahead += timedelta(**by)

    def jump(self, **by: float) -> None:
        """Say another time although none has passed."""
        self.ahead += timedelta(**by)
        self.jumped += timedelta(**by)


class BenchClock(Clock):
    """A RunningClock as the parts take it that measure pauses, too: what a test moves has passed."""

    def __init__(self, clock: RunningClock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return self._clock()

    def monotonic(self) -> float:
        return time.monotonic() + self._clock.ahead.total_seconds() - self._clock.jumped.total_seconds()


class OrderBench:
    """`mailboxes` is how many there are, `aliases` how many further addresses the first of them has; the rest changes
    the configuration: `others` adds authorities by name.
    """

    def __init__(
        self,
        site: Site,
        directory: Path,
        pool: ArithmeticPool,
        *,
        mailboxes: int = 1,
        aliases: int = 0,
        authority: Mapping[str, object] | None = None,
        others: Mapping[str, Mapping[str, object]] | None = None,
        milter: Mapping[str, object] | None = None,
        reply_port: int | None = None,
        renewal: Mapping[str, object] | None = None,
        policy: Mapping[str, object] | None = None,
        minds_the_clock: bool = False,
        reply: Mapping[str, object] | None = None,
        dns_port: int | None = None,
    ) -> None:
        self.site = site
        self.clock = RunningClock()
        self.addresses = site.addresses(mailboxes)
        self.aliases = site.addresses(aliases)
        self._directory = directory
        self._milter = dict(milter or {})
        self._renewal = dict(renewal or {})
        self._policy = dict(policy or {})
        self._reply = dict(reply or {})
        self.minds_the_clock = minds_the_clock
        self._reply_port = reply_port or site.replies_to
        self._dns_port = dns_port or site.authority.dns_port
        self.configure(authority or {}, others or {})
        self.database = open_store(self.config.store.url)
        self.keyd = KeydClient(site.keyd_socket, timeout=20)
        self.vault = Vault(self.keyd.data_key())
        lookup = KeyLookup(self.config.dns.nameservers, timeout=self.config.dns.timeout.total_seconds())
        self.authorities = self._authorities()
        self._make_driver()
        self._make_pacer()
        self.responder = self.make_responder("bench")
        self.replies_due: list[str] = []
        self._smime = SmimeVerifier()
        self.intake = Intake(
            config=lambda: self.config,
            database=self.database,
            verifier=DkimVerifier(pool, lookup),
            smime=self._smime,
            answerer=Answerer(lambda: self.config, self.vault),
            clock=self.clock,
            reply_is_due=self.replies_due.append,
        )
        site.mx.intakes.update(dict.fromkeys([*self.addresses, *self.aliases], self.intake.decide))
        self._schedulers: list[Scheduler] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for scheduler in self._schedulers:
            scheduler.stop()
        self._smime.close()
        for address in [*self.addresses, *self.aliases]:
            del self.site.mx.intakes[address]
        self.authorities.close()
        self.keyd.close()
        self.database.close()

    def configure(self, authority: Mapping[str, object], others: Mapping[str, Mapping[str, object]]) -> None:
        """Swap the configuration."""
        ca = self.site.authority
        base: dict[str, Any] = {
            "directory": ca.directory_url,
            "ca_bundle": str(ca.ca_bundle),
            "contact": [f"postmaster@{DOMAIN}"],
            "agree_tos": True,
            "challenge_wait": "30m",
            "post_delay": "0s",
        }
        mailboxes: dict[str, Any] = {"list": self.addresses}
        if self.aliases:
            mailboxes["aliases"] = {self.addresses[0]: self.aliases}
        document = {
            "version": 1,
            "store": {"url": f"sqlite:///{self._directory / 'store.db'}"},
            "milter": self._milter,
            "dns": {"nameservers": [f"127.0.0.1:{self._dns_port}"]},
            "authorities": {"ca": {**base, **authority}, **{name: {**base, **more} for name, more in others.items()}},
            "defaults": {
                "authorities": ["ca"],
                "certificate": {"key": "p256"},
                "renewal": self._renewal,
                "reply": {
                    "host": "127.0.0.1",
                    "port": self._reply_port,
                    "dkim": {"selector": SELECTOR, "key_file": str(self.site.key_file)},
                    "follow": "none",  # there is no Postfix
                    **self._reply,
                },
            },
            "domains": {DOMAIN: {**self._policy, "mailboxes": mailboxes}},
        }
        self._written = yaml.safe_dump({**document, "keys": {"socket": str(self.site.keyd_socket)}})
        self.config: Config = load_text(self._written, self._directory / "acme-milter.yaml")

    def change_policy(self, **policy: object) -> None:
        """What the domain's part of the configuration says besides its mailboxes."""
        self._policy = policy
        self.configure({}, {})

    def write_configuration(self, file: Path) -> None:
        """For commands."""
        file.write_text(self._written, encoding="utf-8")
        file.chmod(0o600)

    def _authorities(self) -> Authorities:
        # The CA's clock is the machine's: what a test does with ours is no skew, unless it is about that.
        clock = self.clock if self.minds_the_clock else lambda: datetime.now(UTC)
        return Authorities(config=lambda: self.config, database=self.database, keyd=self.keyd, clock=clock)

    def _make_pacer(self) -> None:
        self.jumps = BenchClock(self.clock)
        self.watch = ClockWatch(lambda: self.config, self.authorities, self.jumps, patience=60.0)
        self.forecast = Forecast(lambda: self.config)
        self.pacer = Pacer(lambda: self.config, objection=self.watch.objection, pace=self.forecast.pace)

    def make_background(self) -> Background:
        """The chore that opens renewals; its scheduler, if any, looks for work by itself."""
        return Background(
            config=lambda: self.config,
            database=self.database,
            clock=self.jumps,
            watch=self.watch,
            forecast=self.forecast,
            work_is_due=lambda: None,
            choosing=self.choosing,
        )

    def make_failover(self) -> Failover:
        """The chore that moves what belongs to another authority; its scheduler, if any, looks for work by itself."""
        return Failover(
            config=lambda: self.config,
            database=self.database,
            clock=self.jumps,
            choosing=self.choosing,
            work_is_due=lambda: None,
        )

    def make_prober(self) -> Prober:
        return Prober(config=lambda: self.config, database=self.database, clock=self.clock)

    def make_renewal_information(self) -> RenewalInformation:
        return RenewalInformation(
            config=lambda: self.config, database=self.database, clock=self.jumps, authorities=self.authorities
        )

    def _make_driver(self) -> None:
        self.desk = OrderDesk(
            config=lambda: self.config,
            database=self.database,
            vault=self.vault,
            keyd=self.keyd,
            authorities=self.authorities,
            clock=self.clock,
        )
        self.choosing = Choosing(lambda: self.config, self.authorities.clock_skew)
        self.driver = OrderDriver(self.desk, self.choosing)

    def make_responder(self, owner: str) -> Responder:
        return Responder(
            owner=owner,
            config=lambda: self.config,
            database=self.database,
            vault=self.vault,
            authorities=self.authorities,
            clock=self.clock,
        )

    def start_scheduler(self, owner: str = "bench", threads: int = 8) -> Scheduler:
        """Run the worker's own loop until the test ends."""
        scheduler = Scheduler(
            place=owner,
            owner=f"{owner}#1",
            config=lambda: self.config,
            database=self.database,
            driver=self.driver,
            responder=self.make_responder(f"{owner}#1"),
            pacer=self.pacer,
            clock=self.clock,
            threads=threads,
            choosing=self.choosing,
        )
        scheduler.order_became_known = self.intake.order_became_known
        self.intake._reply_is_due = scheduler.reply_is_due
        scheduler.start()
        self._schedulers.append(scheduler)
        return scheduler

    def open(self, address: str | None = None, authority: str = "ca") -> Enrollment:
        with self.database.write() as connection:
            return enrollments.open_new(
                connection, address=address or self.addresses[0], authority=authority, now=self.clock()
            )

    def open_all(self) -> list[str]:
        return [self.open(address).id for address in self.addresses]

    def step(self, enrollment: Enrollment) -> Enrollment:
        """One step of the driver, saved as the scheduler saves it: once more where a mail was kept meanwhile."""
        step = self.driver.take_step(enrollment)
        after = advance(enrollment, step.event, self.clock())
        try:
            with self.database.write() as connection:
                enrollments.save(connection, after)
                step.also(connection)
        except enrollments.StaleVersion:
            known = self.get(enrollment.id)
            if not known.aliases or known.state is not enrollment.state:
                raise
            return self.step(known)
        step.afterwards()
        return after

    def step_until(self, enrollment: Enrollment, *states: State) -> Enrollment:
        while enrollment.state not in states:
            enrollment = self.step(enrollment)
        return enrollment

    def get(self, enrollment_id: str) -> Enrollment:
        with self.database.read() as connection:
            found = enrollments.get(connection, enrollment_id)
        assert found is not None
        return found

    def await_state(self, enrollment_id: str, *states: State, timeout: float = 10) -> Enrollment:
        wait_until(lambda: self.get(enrollment_id).state in states, f"state {states}", timeout=timeout)
        return self.get(enrollment_id)

    def await_end(self, ids: Sequence[str], timeout: float = 30) -> dict[str, Enrollment]:
        """The enrollments by address, once each of them has ended."""

        wait_until(
            lambda: all(self.get(one).state in END_STATES for one in ids),
            "the end of every enrollment",
            timeout=timeout,
        )
        return {found.address: found for found in map(self.get, ids)}

    def answer_mail(self, enrollment: Enrollment) -> Enrollment:
        """Wait until the intake took the mail, hand the reply over."""
        taken = self.await_state(enrollment.id, State.REPLYING)
        self.responder.work_off(self.next_reply())
        return self.get(taken.id)

    def next_reply(self) -> str:
        """The outbox id that the intake announces once its commit is there for all to see."""
        wait_until(lambda: bool(self.replies_due), "a reply to be announced")
        return self.replies_due.pop()

    def outbox_count(self, enrollment: Enrollment) -> int:
        with self.database.read() as connection:
            return len(outbox.of_enrollment(connection, enrollment.id))

    @contextmanager
    def moved_ahead(self, **by: float) -> Iterator[None]:
        """A while in the future, where the CA is as well: it takes no reply that was signed tomorrow."""
        before = self.clock.ahead
        self.clock.advance(**by)
        self.site.authority.set_clock(self.clock.ahead.total_seconds())
        yield
        self.site.authority.set_clock(before.total_seconds())
        self.clock.ahead = before

    def restart(self) -> None:
        """What a new process knows of the authorities: nothing but the store."""
        self.authorities.close()
        self.authorities = self._authorities()
        self._make_driver()
        self._make_pacer()

    def store_files(self) -> list[Path]:
        return sorted(self._directory.glob("store.db*"))

    def certificates(self) -> list[StoredCertificate]:
        with self.database.read() as connection:
            ids = connection.execute(sa.select(certificate_table.c.id)).scalars().all()
            return [certificates.get(connection, found) for found in ids]

    def happened(self, *kinds: str, address: str | None = None) -> list[dict[str, Any]]:
        """The CA's history of one mailbox of ours."""
        wanted = address or self.addresses[0]
        events = self.site.authority.history(*kinds)
        return [
            event
            for event in events
            if wanted == event.get("identifier")
            or wanted == event.get("recipient")
            or wanted in event.get("identifiers", ())
        ]
