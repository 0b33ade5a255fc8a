# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's parts that order: from the scheduler, which takes every step, to bulk runs, moves and replies' ways."""

import secrets
import socket
from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.keys.client import KeydClient
from acme_milter.store.database import Database
from acme_milter.worker.authorities import Authorities
from acme_milter.worker.bulk_feeder import EVERY as FEED_EVERY
from acme_milter.worker.bulk_feeder import BulkFeeder
from acme_milter.worker.caa import CaaCheck
from acme_milter.worker.chores import Chore, Chores
from acme_milter.worker.delivery_check import DeliveryCheck
from acme_milter.worker.departure import EVERY as LOOK_FOR_REPLIES_EVERY
from acme_milter.worker.departure import DepartureWatch
from acme_milter.worker.failover import EVERY as MOVE_EVERY
from acme_milter.worker.failover import Failover
from acme_milter.worker.order_desk import OrderDesk
from acme_milter.worker.order_driver import OrderDriver
from acme_milter.worker.renewing import Renewing
from acme_milter.worker.responder import Responder
from acme_milter.worker.scheduler import Scheduler
from acme_milter.worker.vault import Vault


class Place:
    """Where this worker listens: what it holds is known by that after a restart, too."""

    def __init__(self, config: Config) -> None:
        self.name = f"{socket.gethostname()}:{config.worker.control_socket}"

    def new_owner(self) -> str:
        """A predecessor that is still asleep somewhere must not pass for us."""
        return f"{self.name}#{secrets.token_hex(4)}"


class Ordering:
    """Everything between an enrollment that is opened and one that has ended."""

    def __init__(
        self,
        *,
        place: Place,
        config: Callable[[], Config],
        database: Database,
        vault: Vault,
        keyd: KeydClient,
        authorities: Authorities,
        caa: CaaCheck,
        clock: Clock,
        renewing: Renewing,
    ) -> None:
        self._place = place
        self._config = config
        self._database = database
        self._clock = clock
        self._renewing = renewing
        desk = OrderDesk(
            config=config,
            database=database,
            vault=vault,
            keyd=keyd,
            authorities=authorities,
            clock=clock.now,
            mail_arrives=DeliveryCheck(config=config, database=database, clock=clock),
            may_issue=caa,
        )
        owner = place.new_owner()
        responder = Responder(
            owner=owner, config=config, database=database, vault=vault, authorities=authorities, clock=clock.now
        )
        self.scheduler = Scheduler(
            place=place.name,
            owner=owner,
            config=config,
            database=database,
            driver=OrderDriver(desk, renewing.choosing),
            responder=responder,
            pacer=renewing.pacer,
            clock=clock.now,
            threads=config().worker.threads,
            choosing=renewing.choosing,
        )
        self._many = self._make_many()
        # Each in a thread of its own: a source that takes minutes to be read must hold up no run and no way to
        # elsewhere, and a Postfix that takes its time with its queue nothing else.
        self.chores = [self._many, self._make_departures()]

    def feed_soon(self) -> None:
        """Bulk runs may have room."""
        self._many.ask_for("bulk")

    def _make_many(self) -> Chores:
        renewing, scheduler = self._renewing, self.scheduler

        def places(connection: sa.Connection, now: datetime) -> dict[str, int]:
            return {name: room.places for name, room in renewing.pacer.rooms(connection, now).items()}

        feeder = BulkFeeder(
            config=self._config,
            database=self._database,
            clock=self._clock.now,
            places=places,
            work_is_due=scheduler.wake,
            choosing=renewing.choosing,
        )
        failover = Failover(
            config=self._config,
            database=self._database,
            clock=self._clock,
            choosing=renewing.choosing,
            work_is_due=scheduler.wake,
        )
        scheduler.breaker.changed = renewing.prober.changed = lambda: self._many.ask_for("failover")
        chores = [Chore("failover", MOVE_EVERY, failover.look), Chore("bulk", FEED_EVERY, feeder.feed)]
        return Chores(chores, self._clock)

    def _make_departures(self) -> Chores:
        watch = DepartureWatch(
            place=self._place.name,
            config=self._config,
            database=self._database,
            clock=self._clock,
            work_is_due=self.scheduler.wake,
        )
        return Chores([Chore("departures", LOOK_FOR_REPLIES_EVERY, watch.look)], self._clock)
