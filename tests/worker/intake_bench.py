# SPDX-License-Identifier: GPL-3.0-or-later
"""An intake with a real store, real DNS, real DKIM children and a real configuration, and orders to answer for."""

import base64
import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
import yaml

from acme_milter.config.loader import load_text
from acme_milter.enrollment.gate import Envelope
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import ChallengeKnown, OrderingBegan, OrderPlaced, advance
from acme_milter.lab.name_server import NameServer
from acme_milter.store import accounts, enrollments, mailbox_keys, outbox
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.outbox import OutboxEntry
from acme_milter.store.schema import metadata
from acme_milter.worker.answer import Answerer
from acme_milter.worker.dkim_verifier import ArithmeticPool, DkimVerifier
from acme_milter.worker.intake import Candidate, Decision, Intake
from acme_milter.worker.key_lookup import KeyLookup
from acme_milter.worker.smime_verifier import SmimeVerifier
from acme_milter.worker.vault import Vault
from tests.fresh_store import open_store
from tests.protocol.sample_mail import NOW, ORDER_CREATED, RECIPIENT, SENDER, good_mail, good_zone

TOKEN_PART2 = "DGyRejmCefe7v4NfDGDKfA"
THUMBPRINT = "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"
DATA_KEY = b"a key of the store, 32 octets ..."[:32]
OTHER_MAILBOX = "bob@example.com"
QUEUE_ID = "4Qz7Jk0001"


class Clock:
    """A clock that stands until it is set."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


class IntakeBench:
    """`authority`, `defaults` and `milter` change the configuration; `replies_due` are the outbox ids announced.

    `known_account`: the store is there already, from another bench in the same directory.
    """

    def __init__(
        self,
        directory: Path,
        pool: ArithmeticPool,
        *,
        authority: Mapping[str, object] | None = None,
        defaults: Mapping[str, object] | None = None,
        milter: Mapping[str, object] | None = None,
        mailboxes: tuple[str, ...] = (RECIPIENT, OTHER_MAILBOX),
        dns_timeout: str = "1s",
        known_account: bool = False,
    ) -> None:
        self.clock = Clock()
        self.store_path = directory / "store.db"
        self.names = NameServer({name: [text.decode() for text in texts] for name, texts in good_zone().items()})
        self.names.start()
        self._mailboxes = mailboxes
        self._dns_timeout = dns_timeout
        self.configure(authority=authority or {}, defaults=defaults or {}, milter=milter or {})
        self.database = open_store(self.config.store.url)
        self.vault = Vault(DATA_KEY)
        self.replies_due: list[str] = []
        lookup = KeyLookup(self.config.dns.nameservers, timeout=self.config.dns.timeout.total_seconds())
        self.verifier = DkimVerifier(pool, lookup)
        self.smime = SmimeVerifier()
        self.intake = Intake(
            config=lambda: self.config,
            database=self.database,
            verifier=self.verifier,
            smime=self.smime,
            answerer=Answerer(lambda: self.config, self.vault),
            clock=self.clock,
            reply_is_due=self.replies_due.append,
        )
        if not known_account:
            self._add_account()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.smime.close()
        self.database.close()
        self.names.stop()

    def configure(self, name: str = "ca", **changes: Mapping[str, object]) -> None:
        """Swap the configuration; `changes` are to authority, defaults and milter; `name` is the authority's."""
        domains: dict[str, Any] = {}
        for address in self._mailboxes:
            listed = domains.setdefault(address.rpartition("@")[2], {"mailboxes": {"list": []}})
            listed["mailboxes"]["list"].append(address)
        authority = {"directory": "https://ca.example/directory", "agree_tos": True, **changes.get("authority", {})}
        document = {
            "version": 1,
            "store": {"url": f"sqlite:///{self.store_path}"},
            "dns": {"nameservers": [self.names.address], "timeout": self._dns_timeout},
            "authorities": {name: authority},
            "defaults": {"certificate": {"key": "p256"}, **changes.get("defaults", {})},
            "milter": {**changes.get("milter", {})},
            "domains": domains,
        }
        self.config = load_text(yaml.safe_dump(document), self.store_path.with_name("acme-milter.yaml"))

    def _add_account(self) -> None:
        account = StoredAccount(
            id="account",
            authority="ca",
            directory_url="https://ca.example/directory",
            sealed_key=b"sealed",
            jwk="{}",
            thumbprint=THUMBPRINT,
            url="https://ca.example/account/1",
            terms_url=None,
            created_at=ORDER_CREATED,
        )
        with self.database.write() as connection:
            accounts.insert(connection, account)

    def begin(self, address: str = RECIPIENT, *, at: datetime = ORDER_CREATED, authority: str = "ca") -> Enrollment:
        """An enrollment whose newOrder is under way."""
        with self.database.write() as connection:
            planned = enrollments.open_new(connection, address=address, authority=authority, now=at)
            key = StoredMailboxKey(
                id=f"key of {planned.id}",
                principal=address,
                algorithm="p256",
                sealed_key=b"sealed",
                spki=b"spki",
                csr=b"csr",
                created_at=at,
            )
            mailbox_keys.insert(connection, key)
            ordering = advance(planned, OrderingBegan(key_id=key.id, began_ordering_at=at), at)
            enrollments.save(connection, ordering)
        return ordering

    def place(self, ordering: Enrollment, *, sender: str = SENDER) -> Enrollment:
        """The same enrollment once its authorization was read."""
        at = ordering.state_since
        base = f"https://ca.example/{ordering.id}"
        placed = advance(
            ordering,
            OrderPlaced(
                order_url=base,
                order_expires_at=at + timedelta(days=7),
                authorization_url=f"{base}/authz",
                finalize_url=f"{base}/finalize",
            ),
            at,
        )
        known = ChallengeKnown(
            challenge_url=f"{base}/challenge",
            challenge_sender=sender,
            token_part2=self.vault.seal_token(ordering.id, TOKEN_PART2),
            next_attempt_at=at + timedelta(minutes=30),
        )
        awaiting = advance(placed, known, at)
        with self.database.write() as connection:
            enrollments.save(connection, placed)
            enrollments.save(connection, awaiting)
        return awaiting

    def expect(self, address: str = RECIPIENT, *, sender: str = SENDER, at: datetime = ORDER_CREATED) -> Enrollment:
        """An enrollment that awaits its challenge mail."""
        return self.place(self.begin(address, at=at), sender=sender)

    def set_state(self, enrollment: Enrollment, state: State) -> None:
        """Put it into any state, as if by other events."""
        with self.raw_connection() as connection:
            connection.execute("UPDATE enrollment SET state = ? WHERE id = ?", (state.value, enrollment.id))

    def decide(
        self,
        raw: bytes | None = None,
        *recipients: str,
        authenticated: bool = False,
        truncated: bool = False,
    ) -> Decision:
        """Bring a mail (the good one by default) to the intake, for RECIPIENT unless others are named."""
        envelope = Envelope(
            sender=SENDER, recipients=recipients or (RECIPIENT,), authenticated=authenticated, queue_id=QUEUE_ID
        )
        mail = good_mail().signed() if raw is None else raw
        return self.intake.decide(Candidate(envelope=envelope, raw=mail, truncated=truncated))

    def enrollment(self, enrollment_id: str) -> Enrollment:
        with self.database.read() as connection:
            found = enrollments.get(connection, enrollment_id)
        assert found is not None
        return found

    def outbox_of(self, enrollment: Enrollment) -> list[OutboxEntry]:
        with self.database.read() as connection:
            return outbox.of_enrollment(connection, enrollment.id)

    def contents(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row of every table."""
        with self.database.read() as connection:
            return {
                table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
                for table in metadata.tables.values()
            }

    def stored_octets(self) -> bytes:
        """The database's files as they lie on the disk."""
        return b"".join(path.read_bytes() for path in sorted(self.store_path.parent.glob("store.db*")))

    @contextmanager
    def raw_connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that is none of the program's; commits when the block ends."""
        with contextlib.closing(sqlite3.connect(self.store_path, timeout=5)) as connection, connection:
            yield connection

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another program holds the write lock."""
        with contextlib.closing(sqlite3.connect(self.store_path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


def expected_digest(part1: str, part2: str = TOKEN_PART2, thumbprint: str = THUMBPRINT) -> str:
    """RFC 8823 §3 step 6, written a second time: the base64url texts joined, padding off."""
    authorization = f"{part1.rstrip('=')}{part2}.{thumbprint}"
    return base64.urlsafe_b64encode(hashlib.sha256(authorization.encode()).digest()).decode().rstrip("=")


def digest_in(raw: bytes) -> str:
    """The one line of a reply that counts."""
    lines = raw.split(b"\r\n")
    return lines[lines.index(b"-----BEGIN ACME RESPONSE-----") + 1].decode()


def token(number: int) -> str:
    """A token-part1 of 32 octets for each number."""
    octets = hashlib.sha256(number.to_bytes(4, "big")).digest()
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")
