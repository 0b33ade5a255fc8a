# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker: its parts put together, listening, and working until it is told to stop."""

import threading

from acme_milter.clock import Clock, JumpWatch
from acme_milter.config.schema import Config
from acme_milter.eventlog import Event, log_exception
from acme_milter.ipc.server import FrameServer
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.keys.sealing import sealing_key_id
from acme_milter.store import identity
from acme_milter.store.database import Database, StoreUnusable, in_words
from acme_milter.worker.account_keeping import AccountKeeping
from acme_milter.worker.answer import Answerer
from acme_milter.worker.authorities import Authorities
from acme_milter.worker.bulk_calls import BulkCalls
from acme_milter.worker.caa import CaaCheck, CaaLookup
from acme_milter.worker.chores import Chore, Chores
from acme_milter.worker.control import Control
from acme_milter.worker.custody import DeliverOnce
from acme_milter.worker.delivering import EVERY as DELIVER_EVERY
from acme_milter.worker.delivering import Delivering
from acme_milter.worker.delivery_calls import DeliveryCalls
from acme_milter.worker.dkim_verifier import ArithmeticPool, DkimVerifier
from acme_milter.worker.enrolling import Enrolling
from acme_milter.worker.intake import Intake
from acme_milter.worker.intake_service import IntakeService
from acme_milter.worker.janitor import EVERY, Janitor
from acme_milter.worker.key_lookup import KeyLookup
from acme_milter.worker.ordering import Ordering, Place
from acme_milter.worker.people import People
from acme_milter.worker.reload import Reloader
from acme_milter.worker.renewing import Renewing
from acme_milter.worker.request_call import RequestCall
from acme_milter.worker.scheduler import Scheduler
from acme_milter.worker.smime_verifier import SmimeVerifier
from acme_milter.worker.standing_config import StandingConfig
from acme_milter.worker.vault import Vault
from acme_milter.worker.view_call import ViewCall

INTAKE_MODE = 0o660  # the milter runs as another user, in the socket's group
CONTROL_MODE = 0o600
INTAKE_THREADS = 16
KEYD_TIMEOUT = 60.0
"""Seconds; an RSA-4096 key that was not made ahead can take that long on a small machine."""


class StoppedEarly(Exception):
    """The worker was told to stop while it still waited for keyd."""


class Worker:
    """All parts of the role, in the order in which they need each other. Ready once ``start`` returns."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self._standing = StandingConfig(config)
        self._clock = clock or Clock()
        self._database = Database(config.store.url)
        self._keyd = KeydClient(config.keys.socket, timeout=KEYD_TIMEOUT)
        self._pool = ArithmeticPool(config.worker.verifiers)
        signed = any(authority.accept_smime_signed for authority in config.authorities.values())
        self._smime = SmimeVerifier(expected=signed)
        self._authorities = Authorities(
            config=self.config, database=self._database, keyd=self._keyd, clock=self._clock.now
        )
        self._people = People(
            standing=self._standing,
            database=self._database,
            authorities=self._authorities,
            clock=self._clock,
            ask_for=self._ask_for,
        )
        self._place = Place(config)
        self._delivering: Delivering | None = None
        permissions = CaaLookup(config.dns.nameservers, timeout=config.dns.timeout.total_seconds())
        self._caa = CaaCheck(permissions, self._clock)
        self._reloader: Reloader | None = None
        self._renewing: Renewing | None = None
        self._ordering: Ordering | None = None
        self._chores: Chores | None = None
        self._asking: Chores | None = None
        self._servers: list[FrameServer] = []

    def config(self) -> Config:
        """The configuration in force; every part asks for it anew, so that it can be swapped whole."""
        return self._standing.current()

    def start(self, stop: threading.Event) -> None:
        """Raises StoreUnusable, SealedUnderAnotherKey, AddressInUse, SigningKeyUnavailable, and StoppedEarly."""
        self._database.make_place()
        self._database.upgrade()
        data_key = _await_data_key(self._keyd, stop)
        with self._database.write() as connection:
            identity.bind(connection, sealing_key_id(data_key))
        self._people.load()
        self._renewing = renewing = Renewing(
            config=self.config, database=self._database, authorities=self._authorities, clock=self._clock
        )
        vault = Vault(data_key)
        config = self.config()
        self._ordering = ordering = self._make_ordering(vault, renewing)
        scheduler = ordering.scheduler
        self._delivering = delivering = self._make_delivering(vault)
        lookup = KeyLookup(config.dns.nameservers, timeout=config.dns.timeout.total_seconds())
        answerer = Answerer(self.config, vault)

        def prepare(new: Config) -> None:
            answerer.prepare(new)
            self._authorities.prepare(new)

        self._reloader = reloader = Reloader(self._standing, prepare, self._clock.now)
        intake = Intake(
            config=self.config,
            database=self._database,
            verifier=DkimVerifier(self._pool, lookup),
            smime=self._smime,
            answerer=answerer,
            clock=self._clock.now,
            reply_is_due=scheduler.reply_is_due,
        )
        scheduler.order_became_known = intake.order_became_known

        def enrollment_ended() -> None:
            ordering.feed_soon()
            self._ask_for("deliveries")

        scheduler.enrollment_ended = enrollment_ended
        to_deliver = Chore("deliveries", DELIVER_EVERY, delivering.work)
        self._chores = self._make_chores([*renewing.chores(scheduler.wake), to_deliver])
        # In a thread of its own: an authority may be silent.
        accounts = self._make_account_keeping(vault, scheduler)
        self._asking = Chores([*accounts.chores(), *renewing.asking()], self._clock)
        control = self._make_control(ordering, renewing, reloader, accounts, vault)
        self._servers = [
            FrameServer(
                config.worker.intake_socket,
                INTAKE_MODE,
                IntakeService(self.config, intake, wait_while=self._standing.wait_while).handle,
                threads=INTAKE_THREADS,
                on_error=_on_error,
            ),
            FrameServer(
                config.worker.control_socket,
                CONTROL_MODE,
                control.handle,
                threads=4,
                on_error=_on_error,
                tell_peer=True,
            ),
        ]
        # The sockets first: holding them proves that no other worker holds leases at this place.
        for server in self._servers:
            server.start()
        delivering.start()
        scheduler.start()
        for chores in self._all_chores():
            chores.start()

    def reload(self) -> None:
        """Take over what the configuration file says now, or keep what is in force and log why."""
        if self._reloader is not None and self._reloader.reload():
            self._ask_for("mailboxes")

    def stop(self) -> None:
        """Polite, but nothing depends on it: a start recovers from any kind of end."""
        self._standing.stop_waiting()
        if self._delivering is not None:  # first: if the rest takes too long we are killed, and programs go on
            self._delivering.stop()
        for server in self._servers:
            server.stop()
        for chores in self._all_chores():
            chores.stop()
        if self._renewing is not None:
            self._renewing.stop()
        if self._ordering is not None:
            self._ordering.scheduler.stop()
        self._people.stop()
        self._pool.close()
        self._smime.close()
        self._caa.close()
        self._authorities.close()
        self._keyd.close()
        self._database.close()

    def catch_up(self) -> None:
        """Do the chores that are due, and look for orders at once: for whoever moves the clock, as a rehearsal does."""
        for chores in self._all_chores():
            chores.do_what_is_due()
        if self._renewing is not None:
            self._renewing.settle()
        if self._ordering is not None:
            self._ordering.scheduler.wake()

    def _all_chores(self) -> list[Chores]:
        own = [chores for chores in (self._chores, self._asking) if chores is not None]
        return own if self._ordering is None else [*own, *self._ordering.chores]

    def _make_ordering(self, vault: Vault, renewing: Renewing) -> Ordering:
        return Ordering(
            place=self._place,
            config=self.config,
            database=self._database,
            vault=vault,
            keyd=self._keyd,
            authorities=self._authorities,
            caa=self._caa,
            clock=self._clock,
            renewing=renewing,
        )

    def _make_account_keeping(self, vault: Vault, scheduler: Scheduler) -> AccountKeeping:
        def ask_for(chore: str) -> None:
            if self._asking is not None:
                self._asking.ask_for(chore)

        return AccountKeeping(
            standing=self._standing,
            database=self._database,
            authorities=self._authorities,
            keyd=self._keyd,
            vault=vault,
            clock=self._clock,
            ask_for=ask_for,
            work_is_due=scheduler.wake,
        )

    def _make_control(
        self, ordering: Ordering, renewing: Renewing, reloader: Reloader, accounts: AccountKeeping, vault: Vault
    ) -> Control:
        scheduler = ordering.scheduler
        enrolling = Enrolling(
            config=self.config,
            database=self._database,
            clock=self._clock.now,
            work_is_due=scheduler.wake,
            choosing=renewing.choosing,
        )
        views = ViewCall(config=self.config, database=self._database, clock=self._clock.now)
        bulk = BulkCalls(
            config=self.config, database=self._database, clock=self._clock.now, feed_soon=ordering.feed_soon
        )
        requests = RequestCall(
            config=self.config, database=self._database, clock=self._clock.now, work_is_due=scheduler.wake
        )
        deliveries = DeliveryCalls(
            config=self.config,
            database=self._database,
            vault=vault,
            clock=self._clock.now,
            work_is_due=lambda: self._ask_for("deliveries"),
        )
        return Control(
            {
                "enroll": enrolling.answer,
                "view": views.answer,
                "configuration": reloader.answer,
                **bulk.calls,
                "certificate-request": requests.answer,
                **deliveries.answers(),
                **self._people.answers(),
                **renewing.answers(scheduler.wake),
                **accounts.answers(),
            }
        )

    def _ask_for(self, chore: str) -> None:
        if self._chores is not None:
            self._chores.ask_for(chore)

    def _make_delivering(self, vault: Vault) -> Delivering:
        return Delivering(
            owner=self._place.new_owner(),
            config=self.config,
            database=self._database,
            vault=vault,
            keyd=self._keyd,
            clock=self._clock.now,
            when_done=DeliverOnce(self.config, self._clock.now).look,
        )

    def _make_chores(self, more: list[Chore]) -> Chores:
        janitor = Janitor(database=self._database, clock=self._clock.now)
        watch = JumpWatch(self._clock)

        def tidy() -> None:
            # What is forgotten stays forgotten, so not by a clock that has just jumped (F-13).
            if not watch.jumped():
                janitor.tidy()

        return Chores([Chore("janitor", EVERY, tidy), *self._people.chores(), *more], self._clock)


def _await_data_key(keyd: KeydClient, stop: threading.Event) -> bytes:
    """keyd may start after us, or be restarted at this very moment. Raises StoppedEarly."""
    told = False
    while not stop.wait(0.2 if told else 0):
        try:
            return keyd.data_key()
        except KeydUnavailable as error:
            if not told:
                log_exception(Event.KEYD_UNREACHABLE, error)
                told = True
    raise StoppedEarly


def _on_error(error: Exception) -> None:
    said = in_words(error)
    log_exception(Event.STORE_UNAVAILABLE if isinstance(said, StoreUnusable) else Event.INTERNAL_ERROR, said)
