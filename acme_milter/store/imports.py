# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking in a certificate and key from elsewhere, as if they had been ordered here."""

import uuid
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import Cause, State
from acme_milter.eventlog import Event
from acme_milter.store import audit, certificates, mailbox_keys
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.schema import certificate, enrollment
from acme_milter.store.timeline import IMPORTED


def is_known(connection: sa.Connection, serial: str, issuer: str) -> bool:
    """Whether this very certificate is in the store, wherever it came from."""
    query = sa.select(certificate.c.id).where(certificate.c.serial == serial, certificate.c.issuer == issuer)
    return connection.execute(query).first() is not None


def insert(
    connection: sa.Connection,
    key: StoredMailboxKey,
    *,
    address: str,
    serial: str,
    issuer: str,
    not_before: datetime,
    not_after: datetime,
    chain_pem: bytes,
    in_use: bool,
    now: datetime,
    usage: KeyUsageKind = KeyUsageKind.DUAL,
) -> str:
    """Store a key with its certificate and an enrollment, active or (not ``in_use``) superseded; returns that one's id.

    It is the key's principal's. The authority is IMPORTED, which no configuration has: its successor is ordered from
    whatever authority the policy names.
    """
    ids = {"enrollment": uuid.uuid4().hex, "certificate": uuid.uuid4().hex}
    connection.execute(
        enrollment.insert().values(
            id=ids["enrollment"],
            address=address,
            principal=key.principal,
            authority=IMPORTED,
            state=(State.ACTIVE if in_use else State.SUPERSEDED).value,
            version=1,
            generation=1,
            opened_at=now,
            state_since=now,
            attempts=0,
            cause=Cause.ASKED.value,
            key_id=key.id,
            certificate_id=ids["certificate"],
            usage=usage.value,
        )
    )
    mailbox_keys.insert(connection, key)
    stored = StoredCertificate(
        id=ids["certificate"],
        enrollment_id=ids["enrollment"],
        address=address,
        principal=key.principal,
        authority=IMPORTED,
        key_id=key.id,
        serial=serial,
        issuer=issuer,
        not_before=not_before,
        not_after=not_after,
        chain_pem=chain_pem,
        stored_at=now,
        usage=usage,
    )
    certificates.insert(connection, stored)
    details = {"serial": serial, "in_use": in_use}
    audit.record(
        connection,
        Event.CERTIFICATE_IMPORTED,
        at=now,
        enrollment_id=ids["enrollment"],
        address=address,
        details=details,
    )
    return ids["enrollment"]
