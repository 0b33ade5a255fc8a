# SPDX-License-Identifier: GPL-3.0-or-later
"""A reply in the outbox, the server it goes to, and an authority that can be asked whether it has it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from acme_milter.acme.authorization import Authorization, AuthorizationStatus, ChallengeStatus, EmailChallenge
from acme_milter.acme.order import Identifier
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.store import outbox
from acme_milter.store.outbox import OutboxEntry
from acme_milter.worker.responder import Responder
from tests.protocol.sample_mail import RECIPIENT, SENDER
from tests.worker.fickle_smtp import FickleSmtp
from tests.worker.intake_bench import IntakeBench

PLACE = "here"
OWNER = f"{PLACE}#1"


@dataclass
class Authority:
    """What the order's authority would say of the authorization; `asked` counts."""

    status: AuthorizationStatus = AuthorizationStatus.PENDING
    challenge: ChallengeStatus = ChallengeStatus.PENDING
    trouble: Exception | None = None
    asked: int = 0

    def client_of(self, _enrollment: Enrollment) -> "Authority":
        return self

    def fetch_authorization(self, url: str) -> Authorization:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        challenge = EmailChallenge(f"{url}/c", self.challenge, "part2", SENDER)
        return Authorization(url, self.status, None, Identifier("email", RECIPIENT), challenge)


@dataclass
class Post:
    """A stored reply, the server it goes to, and the responder between them."""

    bench: IntakeBench
    smtp: FickleSmtp
    enrollment: Enrollment
    authority: Authority = field(default_factory=Authority)

    def work_off(self) -> OutboxEntry:
        """One look at the entry; how it stands afterwards."""
        responder = Responder(
            owner=OWNER,
            config=lambda: self.bench.config,
            database=self.bench.database,
            vault=self.bench.vault,
            authorities=self.authority,  # type: ignore[arg-type]  # the outside world, as far as the responder asks it
            clock=self.bench.clock,
        )
        responder.work_off(self.bench.outbox_of(self.enrollment)[0].id)
        return self.entry

    @property
    def entry(self) -> OutboxEntry:
        return self.bench.outbox_of(self.enrollment)[0]

    @property
    def state(self) -> State:
        return self.bench.enrollment(self.enrollment.id).state

    @property
    def due(self) -> datetime:
        assert self.entry.next_attempt_at is not None
        return self.entry.next_attempt_at

    def crash_while_handing_over(self) -> None:
        """As a worker that was killed between its last word to Postfix and its next to the store, and came back."""
        with self.bench.database.write() as connection:
            until = self.bench.clock() + timedelta(minutes=5)
            claimed = outbox.claim(connection, self.entry.id, owner=OWNER, now=self.bench.clock(), until=until)
            assert claimed is not None
            assert outbox.begin_handover(connection, claimed.id, owner=OWNER, at=self.bench.clock(), most=2)
        with self.bench.database.write() as connection:
            outbox.release_all(connection, place=PLACE, but="another")
