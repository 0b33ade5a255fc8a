# SPDX-License-Identifier: GPL-3.0-or-later
"""A real store with mailboxes and orders in any state, for the views."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from acme_milter.config.loader import load_text
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import Cause, State
from acme_milter.store import accounts, certificates, enrollments, mailbox_keys, mailboxes
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.store.schema import enrollment as enrollment_table

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)

CONFIGURATION = """
authorities: {{ca: {{directory: 'https://ca.example/d', agree_tos: true}}}}
sources: {{staff: {{type: csv, path: staff.csv}}}}
domains:
  org.example: {{mailboxes: {{list: [alice@org.example, bob@org.example]}}}}
  staff.example: {{source: staff, mailboxes: {{exclude: ['svc-*@*']}}{more}}}
"""


def configuration(directory: Path, more: str = "") -> Config:
    """alice and bob are listed; staff.example has what the source brought."""
    return load_text(CONFIGURATION.format(more=more), directory / "acme-milter.yaml")


class Story:
    """What has happened so far."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def arrived(self, address: str, **facts: object) -> None:
        """The source ``staff`` lists the mailbox; ``facts`` are columns of it."""
        values: dict[str, object] = {"came_as": "import", "first_seen_at": NOW - DAY, "principal": f"staff:{address}"}
        domain = address.rpartition("@")[2]
        row = StoredMailbox(
            address=address,
            folded=address,
            domain=domain,
            source="staff",
            **(values | facts),  # type: ignore[arg-type]  # a test's keywords
        )
        with self.database.write() as connection:
            mailboxes.save(connection, [row])

    def ordered(
        self, address: str, state: State, *, ends: timedelta | None = None, principal: str = "", **facts: object
    ) -> str:
        """An order in ``state``; with a certificate that ``ends`` so long from now. Returns the enrollment's id."""
        principal = principal or address
        with self.database.write() as connection:
            opened = enrollments.open_new(
                connection, address=address, authority="ca", principal=principal, now=NOW - DAY, cause=Cause.ASKED
            )
            values = {"state": state.value, "state_since": NOW - DAY, **facts}
            if ends is not None:
                values["certificate_id"] = uuid.uuid4().hex
            connection.execute(enrollment_table.update().where(enrollment_table.c.id == opened.id).values(**values))
            if ends is not None:
                self._certificate(connection, opened.id, str(values["certificate_id"]), address, principal, NOW + ends)
        return opened.id

    def exchanges_its_key(self, last_error: str | None = None, again: datetime = NOW) -> None:
        """The account at the authority has a next key that is not in use yet; tried ``again`` then."""
        account = StoredAccount(
            id="a",
            authority="ca",
            directory_url="https://ca.example/d",
            url="https://ca.example/a",
            terms_url=None,
            created_at=NOW - DAY,
            sealed_key=b"sealed",
            jwk="{}",
            thumbprint="old",
            next_sealed_key=b"sealed",
            next_jwk="{}",
            next_thumbprint="new",
            next_attempt_at=again,
            last_error=last_error,
        )
        with self.database.write() as connection:
            accounts.insert(connection, account)

    def _certificate(
        self,
        connection: sa.Connection,
        enrollment_id: str,
        certificate_id: str,
        address: str,
        principal: str,
        not_after: datetime,
    ) -> None:
        key = StoredMailboxKey(
            id=uuid.uuid4().hex,
            principal=principal,
            algorithm="p256",
            sealed_key=b"sealed",
            spki=b"",
            csr=b"",
            created_at=NOW - DAY,
        )
        mailbox_keys.insert(connection, key)
        stored = StoredCertificate(
            id=certificate_id,
            enrollment_id=enrollment_id,
            address=address,
            principal=principal,
            authority="ca",
            key_id=key.id,
            serial=uuid.uuid4().hex,
            issuer="CN=ca",
            not_before=NOW - DAY,
            not_after=not_after,
            chain_pem=b"",
            stored_at=NOW - DAY,
        )
        certificates.insert(connection, stored)
