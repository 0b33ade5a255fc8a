# SPDX-License-Identifier: GPL-3.0-or-later
"""A store with certificates in use, keyd, and a delivering worker's parts; what the targets are, a test decides."""

import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import TargetCommon
from acme_milter.config.loader import load_text
from acme_milter.config.schema import Config
from acme_milter.delivery.target import Target
from acme_milter.delivery.targets import make_target
from acme_milter.enrollment.model import State
from acme_milter.ipc.server import FrameServer
from acme_milter.keys.client import KeydClient
from acme_milter.keys.keyd import Keyd
from acme_milter.keys.pool import KeyPool
from acme_milter.keys.wrapping_key import WrappingKey
from acme_milter.lab.processes import wait_until
from acme_milter.store import certificates, deliveries, delivery_lists, enrollments, mailbox_keys
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import Delivery
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.schema import enrollment as enrollment_table
from acme_milter.worker.control import Control
from acme_milter.worker.delivering import Delivering
from acme_milter.worker.delivery_calls import DeliveryCalls
from acme_milter.worker.delivery_plan import plan_deliveries
from acme_milter.worker.vault import Vault
from tests.fresh_store import open_store

ALICE, BOB = "alice@org.example", "bob@org.example"
_CA_KEY = ec.generate_private_key(ec.SECP256R1())
_CA_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "depot CA")])


class Depot:
    """`deliver` is org.example's list of targets. Make a certificate with `issue`; the clock stands until moved."""

    def __init__(self, deliver: Sequence[dict[str, Any]], *, mailboxes: Sequence[str] = (ALICE, BOB)) -> None:
        self._stack = ExitStack()
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="depot-")))
        self.now = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
        self.config_path = self.directory / "acme-milter.yaml"
        self.configure(deliver, mailboxes)
        self.database = open_store(self.config.store.url)
        self._stack.callback(self.database.close)
        keyd = Keyd(WrappingKey(b"0123456789abcdefghijklmnopqrstuv"), KeyPool({}))
        socket = self.directory / "keyd.sock"
        self._stack.enter_context(FrameServer(socket, 0o600, keyd.handle, threads=2, handle_file=keyd.handle))
        self.keyd = self._stack.enter_context(KeydClient(socket, timeout=20))
        self.vault = Vault(self.keyd.data_key())
        self.calls = DeliveryCalls(
            config=lambda: self.config,
            database=self.database,
            vault=self.vault,
            clock=lambda: self.now,
            work_is_due=lambda: None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def configure(self, deliver: Sequence[dict[str, Any]], mailboxes: Sequence[str] = (ALICE, BOB)) -> None:
        """Swap the configuration."""
        document = {
            "version": 1,
            "store": {"url": f"sqlite:///{self.directory / 'store.db'}"},
            "worker": {"control_socket": str(self.directory / "control.sock")},
            "keys": {"socket": str(self.directory / "keyd.sock")},
            "authorities": {"ca": {"directory": "https://ca.example/d", "agree_tos": True}},
            "domains": {"org.example": {"mailboxes": {"list": list(mailboxes)}, "deliver": list(deliver)}},
        }
        text = yaml.safe_dump(document)
        self.config_path.write_text(text)
        self.config_path.chmod(0o600)
        self.config: Config = load_text(text, self.config_path)

    def delivering(
        self, target: Target | Callable[[TargetCommon], Target] | None = None, owner: str = "depot#1", **more: Any
    ) -> Delivering:
        """The worker's part; with `target`, every section is served by it, or by what it makes of the section."""

        def make(section: TargetCommon) -> Target:
            if target is None:
                return make_target(section)
            return target(section) if callable(target) else target

        delivering = Delivering(
            owner=owner,
            config=lambda: self.config,
            database=self.database,
            vault=self.vault,
            keyd=self.keyd,
            clock=lambda: self.now,
            make=make,
            **more,
        )
        self._stack.callback(delivering.stop)
        return delivering

    def listen(self) -> None:
        """Answer commands as a worker does."""
        control = Control(self.calls.answers())
        socket = self.config.worker.control_socket
        self._stack.enter_context(FrameServer(socket, 0o600, control.handle, threads=2, tell_peer=True))

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)

    def issue(
        self,
        address: str = ALICE,
        *,
        principal: str | None = None,
        usage: KeyUsageKind = KeyUsageKind.DUAL,
        authority: str = "ca",
        planned: bool = True,
    ) -> StoredCertificate:
        """A certificate in use, and unless not `planned`, its deliveries. Each is newer than the one before."""
        self.advance(seconds=1)
        key_id, whose = uuid.uuid4().hex, principal or address
        made = self.keyd.new_mailbox_key(key_id, whose, "p256", [address], usage)
        chain_pem, serial = self._signed(made.csr)
        key = StoredMailboxKey(
            id=key_id,
            principal=whose,
            algorithm="p256",
            sealed_key=made.sealed,
            spki=made.spki,
            csr=made.csr,
            created_at=self.now,
        )
        with self.database.write() as connection:
            opened = enrollments.open_new(
                connection, address=address, authority=authority, principal=whose, now=self.now
            )
            mailbox_keys.insert(connection, key)
            stored = StoredCertificate(
                id=uuid.uuid4().hex,
                enrollment_id=opened.id,
                address=address,
                principal=whose,
                authority=authority,
                key_id=key_id,
                serial=serial,
                issuer="CN=depot CA",
                not_before=self.now - timedelta(hours=1),
                not_after=self.now + timedelta(days=365),
                chain_pem=chain_pem,
                stored_at=self.now,
                usage=usage,
            )
            self._set(connection, opened.id, state=State.ACTIVE.value, certificate_id=stored.id)
            certificates.insert(connection, stored)
            if planned:
                plan_deliveries(connection, self.config, stored, self.now)
        return stored

    def set_state(self, certificate: StoredCertificate, state: State) -> None:
        with self.database.write() as connection:
            self._set(connection, certificate.enrollment_id, state=state.value)

    def rows(self, address: str = ALICE) -> list[Delivery]:
        with self.database.read() as connection:
            return deliveries.of_mailbox(connection, address)

    def row(self, certificate: StoredCertificate, target: str = "hook") -> Delivery:
        with self.database.read() as connection:
            (found,) = [one for one in deliveries.of_certificate(connection, certificate.id) if one.target == target]
        return found

    def undone(self) -> dict[str, int]:
        with self.database.read() as connection:
            going = delivery_lists.undone(connection, withdrawals=True)
            return {state.value: count + going[state] for state, count in delivery_lists.undone(connection).items()}

    def settle(self, delivering: Delivering) -> None:
        """Work until nothing waits for its first attempt."""

        def settled() -> bool:
            delivering.work()
            return self.undone()["waiting"] == 0

        wait_until(settled, "every delivery to be tried")

    def _set(self, connection: Any, enrollment_id: str, **values: object) -> None:
        connection.execute(enrollment_table.update().where(enrollment_table.c.id == enrollment_id).values(**values))

    def _signed(self, csr: bytes) -> tuple[bytes, str]:
        """The request's certificate with its CA's behind it, and its serial."""
        request = x509.load_der_x509_csr(csr)
        builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(_CA_NAME)
        builder = builder.public_key(request.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(self.now - timedelta(hours=1))
        builder = builder.not_valid_after(self.now + timedelta(days=365))
        for extension in request.extensions:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        leaf = builder.sign(_CA_KEY, hashes.SHA256())
        issuer = x509.CertificateBuilder().subject_name(_CA_NAME).issuer_name(_CA_NAME)
        issuer = issuer.public_key(_CA_KEY.public_key()).serial_number(1)
        issuer = issuer.not_valid_before(self.now - timedelta(days=9)).not_valid_after(self.now + timedelta(days=999))
        issuer = issuer.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        chain = (leaf, issuer.sign(_CA_KEY, hashes.SHA256()))
        return b"".join(one.public_bytes(Encoding.PEM) for one in chain), format(leaf.serial_number, "x")
