# SPDX-License-Identifier: GPL-3.0-or-later
"""What every export does: whose keys may leave, the audit record before the file, and files that are private."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.eventlog import Event
from acme_milter.keys.client import KeydClient
from acme_milter.report.member import look_up
from acme_milter.store import audit, mailbox_keys, mailboxes
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.worker.custody import destroy, why_withheld

CHAIN = "chain"
"""The format that holds no key."""

Contents = tuple[dict[str, bytes], str]
"""Files by name, and the passphrase that opens them; empty where there is no key in them."""


class NotExportable(Exception):
    """This mailbox has nothing to export; the text says why."""

    safe_text = True


class OutUnusable(Exception):
    """The files cannot be written; the text says where and why."""

    safe_text = True


def holder_of(database: Database, mailbox: str) -> tuple[str, str]:
    """The mailbox as the store spells it, and whose keys its keys are now; nobody else's leave here (T30, N9).

    Raises NotExportable for a mailbox that has left.
    """
    with database.read() as connection:
        known = mailboxes.find(connection, mailbox)
    if known is None:
        return mailbox, mailbox
    if known.left_at is not None:
        raise NotExportable(f"{known.address} has left on {known.left_at:%Y-%m-%d}; its keys stay in the store")
    return known.address, known.principal


class Exporter:
    """Writes one certificate after the other, each noted in the audit trail before its files are there."""

    def __init__(self, config: Config, database: Database, keyd: KeydClient, out: Path) -> None:
        self._config = config
        self._database = database
        self._keyd = keyd
        self._out = out
        self._once: list[StoredCertificate] = []

    def export(
        self,
        certificate: StoredCertificate,
        form: str,
        make: Callable[[KeydClient, StoredCertificate, StoredMailboxKey], Contents],
    ) -> tuple[list[Path], str]:
        """(the files, the passphrase) of what `make` makes. Raises OutUnusable, NotExportable and what keyd raises.

        With custody deliver_once the first export of a key is the last one: see `settle`.
        """
        with self._database.read() as connection:
            key = mailbox_keys.get(connection, certificate.key_id)
            policy = look_up(connection, self._config, certificate.address).policy
        custody = None if policy is None else policy.custody
        withheld = None if form == CHAIN else why_withheld(custody, key)
        if withheld is not None:
            raise NotExportable(
                f"{certificate.address}: {certificate.serial}: {withheld}; the certificate alone: --format {CHAIN}"
            )
        contents, passphrase = make(self._keyd, certificate, key)
        with self._database.write() as connection:
            audit.record(
                connection,
                Event.CERTIFICATE_EXPORTED,
                at=Clock().now(),
                enrollment_id=certificate.enrollment_id,
                address=certificate.address,
                details={"format": form, "serial": certificate.serial, "uid": os.getuid()},
            )
        written = [write_private(self._out, name, content) for name, content in contents.items()]
        if custody == "deliver_once" and form != CHAIN:
            self._once.append(certificate)
        return written, passphrase

    def settle(self) -> None:
        """Destroy the keys that were to be given out once. To be called when their passphrases have been told: until
        then the files are worth nothing, and the export can be done again.
        """
        while self._once:
            with self._database.write() as connection:
                destroy(connection, self._once.pop(), Clock().now(), "it was exported")


def write_private(directory: Path, name: str, content: bytes) -> Path:
    """The file's path: 0600 from the first octet on, and whole or not at all. Raises OutUnusable."""
    file = directory / name
    part = directory / f".{name}.{secrets.token_hex(4)}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
        except BaseException:  # Ctrl-C included: no half-written key stays
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutUnusable(f"{directory}: cannot be written: {error.strerror}; choose another directory") from error
    return file
