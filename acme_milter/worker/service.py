# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker role: puts the parts together, listens, and works until it is told to stop."""

import os
import queue
import secrets
import signal
import socket
import threading
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from acme_milter.clock import Clock, JumpWatch
from acme_milter.config.schema import Config
from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.ipc.server import FrameServer
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.keys.sealing import sealing_key_id
from acme_milter.store import identity
from acme_milter.store.database import Database, StoreUnusable, in_words
from acme_milter.worker.account_keeping import AccountKeeping
from acme_milter.worker.answer import Answerer
from acme_milter.worker.authorities import Authorities
from acme_milter.worker.bulk_calls import BulkCalls
from acme_milter.worker.bulk_feeder import EVERY as FEED_EVERY
from acme_milter.worker.bulk_feeder import BulkFeeder
from acme_milter.worker.caa import CaaCheck, CaaLookup
from acme_milter.worker.chores import Chore, Chores
from acme_milter.worker.control import Control
from acme_milter.worker.custody import DeliverOnce
from acme_milter.worker.delivering import EVERY as DELIVER_EVERY
from acme_milter.worker.delivering import Delivering
from acme_milter.worker.delivery_calls import DeliveryCalls
from acme_milter.worker.delivery_check import DeliveryCheck
from acme_milter.worker.departure import EVERY as LOOK_FOR_REPLIES_EVERY
from acme_milter.worker.departure import DepartureWatch
from acme_milter.worker.dkim_verifier import ArithmeticPool, DkimVerifier
from acme_milter.worker.enrolling import Enrolling
from acme_milter.worker.failover import EVERY as MOVE_EVERY
from acme_milter.worker.failover import Failover
from acme_milter.worker.intake import Intake
from acme_milter.worker.intake_service import IntakeService
from acme_milter.worker.janitor import EVERY, Janitor
from acme_milter.worker.key_lookup import KeyLookup
from acme_milter.worker.order_desk import OrderDesk
from acme_milter.worker.order_driver import OrderDriver
from acme_milter.worker.people import People
from acme_milter.worker.reload import Reloader
from acme_milter.worker.renewing import Renewing
from acme_milter.worker.request_call import RequestCall
from acme_milter.worker.responder import Responder
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
        self._delivering: Delivering | None = None
        permissions = CaaLookup(config.dns.nameservers, timeout=config.dns.timeout.total_seconds())
        self._caa = CaaCheck(permissions, self._clock)
        self._reloader: Reloader | None = None
        self._scheduler: Scheduler | None = None
        self._chores: Chores | None = None
        self._bulk: Chores | None = None
        self._departures: Chores | None = None
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
        renewing = Renewing(
            config=self.config, database=self._database, authorities=self._authorities, clock=self._clock
        )
        vault = Vault(data_key)
        config = self.config()
        self._scheduler = scheduler = self._make_scheduler(vault, renewing)
        self._delivering = delivering = self._make_delivering(vault)
        lookup = KeyLookup(config.dns.nameservers, timeout=config.dns.timeout.total_seconds())
        answerer = Answerer(self.config, vault)
        self._reloader = reloader = Reloader(self._standing, answerer.prepare, self._clock.now)
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
        self._bulk = self._make_bulk(scheduler, renewing)
        self._departures = self._make_departures(scheduler)
        scheduler.enrollment_ended = self._enrollment_ended
        to_deliver = Chore("deliveries", DELIVER_EVERY, delivering.work)
        self._chores = self._make_chores([*renewing.chores(scheduler.wake), to_deliver])
        # In a thread of its own: an authority may be silent.
        accounts = self._make_account_keeping(vault, scheduler)
        self._asking = Chores([*accounts.chores(), *renewing.asking()], self._clock)
        control = self._make_control(scheduler, renewing, reloader, accounts, vault)
        self._servers = [
            FrameServer(
                config.worker.intake_socket,
                INTAKE_MODE,
                IntakeService(self.config, intake, wait_while=self._standing.wait_while).handle,
                threads=INTAKE_THREADS,
                on_error=_on_error,
            ),
            FrameServer(config.worker.control_socket, CONTROL_MODE, control.handle, threads=4, on_error=_on_error),
        ]
        # The sockets first: holding them proves that no other worker holds leases at this place.
        for server in self._servers:
            server.start()
        delivering.start()
        scheduler.start()
        for chores in (self._chores, self._asking, self._bulk, self._departures):
            chores.start()

    def reload(self) -> None:
        """Take over what the configuration file says now, or keep what is in force and log why."""
        if self._reloader is not None and self._reloader.reload():
            self._ask_for("mailboxes")

    def stop(self) -> None:
        """Polite, but nothing depends on it: a start recovers from any kind of end."""
        self._standing.stop_waiting()
        for server in self._servers:
            server.stop()
        for chores in (self._chores, self._asking, self._bulk, self._departures):
            if chores is not None:
                chores.stop()
        if self._scheduler is not None:
            self._scheduler.stop()
        if self._delivering is not None:
            self._delivering.stop()
        self._people.stop()
        self._pool.close()
        self._smime.close()
        self._caa.close()
        self._authorities.close()
        self._keyd.close()
        self._database.close()

    def catch_up(self) -> None:
        """Do the chores that are due, and look for orders at once: for whoever moves the clock, as a rehearsal does."""
        for chores in (self._chores, self._asking, self._bulk, self._departures):
            if chores is not None:
                chores.do_what_is_due()
        if self._scheduler is not None:
            self._scheduler.wake()

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
        self, scheduler: Scheduler, renewing: Renewing, reloader: Reloader, accounts: AccountKeeping, vault: Vault
    ) -> Control:
        enrolling = Enrolling(
            config=self.config,
            database=self._database,
            clock=self._clock.now,
            work_is_due=scheduler.wake,
            choosing=renewing.choosing,
        )
        views = ViewCall(config=self.config, database=self._database, clock=self._clock.now)
        bulk = BulkCalls(config=self.config, database=self._database, clock=self._clock.now, feed_soon=self._feed_soon)
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

    def _make_bulk(self, scheduler: Scheduler, renewing: Renewing) -> Chores:
        """A thread of its own: a source that takes minutes to be read must hold up no run, and no way to elsewhere."""

        def places(connection: sa.Connection, now: datetime) -> dict[str, int]:
            return {name: room.places for name, room in renewing.pacer.rooms(connection, now).items()}

        feeder = BulkFeeder(
            config=self.config,
            database=self._database,
            clock=self._clock.now,
            places=places,
            work_is_due=scheduler.wake,
            choosing=renewing.choosing,
        )
        failover = Failover(
            config=self.config,
            database=self._database,
            clock=self._clock,
            choosing=renewing.choosing,
            work_is_due=scheduler.wake,
        )
        scheduler.breaker.changed = renewing.prober.changed = self._move_soon
        chores = [Chore("failover", MOVE_EVERY, failover.look), Chore("bulk", FEED_EVERY, feeder.feed)]
        return Chores(chores, self._clock)

    def _move_soon(self) -> None:
        if self._bulk is not None:
            self._bulk.ask_for("failover")

    def _feed_soon(self) -> None:
        if self._bulk is not None:
            self._bulk.ask_for("bulk")

    def _enrollment_ended(self) -> None:
        self._feed_soon()
        self._ask_for("deliveries")

    def _make_delivering(self, vault: Vault) -> Delivering:
        return Delivering(
            owner=self._new_owner(),
            config=self.config,
            database=self._database,
            vault=vault,
            keyd=self._keyd,
            clock=self._clock.now,
            when_done=DeliverOnce(self.config, self._clock.now).look,
        )

    @property
    def _place(self) -> str:
        return f"{socket.gethostname()}:{self.config().worker.control_socket}"

    def _new_owner(self) -> str:
        """A predecessor that is still asleep somewhere must not pass for us."""
        return f"{self._place}#{secrets.token_hex(4)}"

    def _make_chores(self, more: list[Chore]) -> Chores:
        janitor = Janitor(database=self._database, clock=self._clock.now)
        watch = JumpWatch(self._clock)

        def tidy() -> None:
            # What is forgotten stays forgotten, so not by a clock that has just jumped (F-13).
            if not watch.jumped():
                janitor.tidy()

        return Chores([Chore("janitor", EVERY, tidy), *self._people.chores(), *more], self._clock)

    def _make_departures(self, scheduler: Scheduler) -> Chores:
        """A thread of its own: a Postfix that takes its time with its queue holds up nothing else."""
        watch = DepartureWatch(
            place=self._place,
            config=self.config,
            database=self._database,
            clock=self._clock,
            work_is_due=scheduler.wake,
        )
        return Chores([Chore("departures", LOOK_FOR_REPLIES_EVERY, watch.look)], self._clock)

    def _make_scheduler(self, vault: Vault, renewing: Renewing) -> Scheduler:
        owner = self._new_owner()
        desk = OrderDesk(
            config=self.config,
            database=self._database,
            vault=vault,
            keyd=self._keyd,
            authorities=self._authorities,
            clock=self._clock.now,
            mail_arrives=DeliveryCheck(config=self.config, database=self._database, clock=self._clock),
            may_issue=self._caa,
        )
        responder = Responder(
            owner=owner,
            config=self.config,
            database=self._database,
            vault=vault,
            authorities=self._authorities,
            clock=self._clock.now,
        )
        return Scheduler(
            place=self._place,
            owner=owner,
            config=self.config,
            database=self._database,
            driver=OrderDriver(desk, renewing.choosing),
            responder=responder,
            pacer=renewing.pacer,
            clock=self._clock.now,
            threads=self.config().worker.threads,
            choosing=renewing.choosing,
        )


def run_worker(config: Config) -> None:
    """Run the role until SIGTERM or SIGINT; SIGHUP reads the configuration again. Raises as ``Worker.start`` does."""
    stop = threading.Event()
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()  # may be put into from a signal's handler

    def hear(number: int, _: object) -> None:
        if number != signal.SIGHUP:
            stop.set()
        heard.put(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, hear)
    os.umask(0o077)
    for path in (config.worker.intake_socket, config.worker.control_socket):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    worker = Worker(config)
    log_event(Event.ROLE_STARTED, role="worker", pid=os.getpid())
    try:
        worker.start(stop)
        log_event(Event.ROLE_READY, role="worker")
        while not stop.is_set():
            if heard.get() == signal.SIGHUP:
                _reload(worker)
    except StoppedEarly:
        pass
    finally:
        worker.stop()
    log_event(Event.ROLE_STOPPED, role="worker")


def _reload(worker: Worker) -> None:
    try:
        worker.reload()
    except Exception as error:  # noqa: BLE001 -- the role goes on with what it has, whatever is wrong with a file
        log_exception(Event.CONFIG_RELOAD_FAILED, error)


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
