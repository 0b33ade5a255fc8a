# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on challenge mails that were let in, and on the doubt that put some off (rule T)."""

from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import challenge_mail as table
from acme_milter.store.schema import doubt, outbox


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChallengeMail:
    """``sealed_mail`` holds the raw bytes; ``token_digest`` is SHA-256 of token-part1.

    ``smime_signer`` is the serial number of the certificate whose signature proved the mail, None when DKIM did.
    """

    id: str
    enrollment_id: str
    token_digest: bytes = field(repr=False)
    sealed_mail: bytes = field(repr=False)
    queue_id: str | None
    dkim_domain: str
    dkim_selector: str
    disposition: str
    accepted_at: datetime
    smime_signer: str | None = None


def insert(connection: sa.Connection, mail: StoredChallengeMail) -> None:
    connection.execute(table.insert().values({column.name: getattr(mail, column.name) for column in table.columns}))


def digests_of(connection: sa.Connection, enrollment_id: str) -> frozenset[bytes]:
    """Digests of the tokens that were answered for this enrollment."""
    rows = connection.execute(sa.select(table.c.token_digest).where(table.c.enrollment_id == enrollment_id))
    return frozenset(row.token_digest for row in rows)


def was_answered_for_another(connection: sa.Connection, digest: bytes, enrollment_id: str) -> bool:
    """Whether the token was ever answered for another enrollment than this one, of whichever mailbox: an alias may have
    been another one's, or have had orders of its own.
    """
    asked = sa.select(table.c.id).where(table.c.token_digest == digest, table.c.enrollment_id != enrollment_id).limit(1)
    return connection.execute(asked).scalar() is not None


def digests_by_address(connection: sa.Connection, enrollment_id: str) -> dict[str, frozenset[bytes]]:
    """As `digests_of`, of an order for several addresses: by the address, folded, that the reply was from."""
    found: dict[str, frozenset[bytes]] = {}
    rows = connection.execute(
        sa.select(outbox.c.envelope_sender, table.c.token_digest)
        .join(outbox, outbox.c.challenge_mail_id == table.c.id)
        .where(table.c.enrollment_id == enrollment_id)
    )
    for row in rows:
        folded = row.envelope_sender.lower()
        found[folded] = found.get(folded, frozenset()) | {row.token_digest}
    return found


def of_enrollment(connection: sa.Connection, enrollment_id: str) -> list[StoredChallengeMail]:
    rows = connection.execute(
        sa.select(table).where(table.c.enrollment_id == enrollment_id).order_by(table.c.accepted_at)
    )
    return [StoredChallengeMail(**row._asdict()) for row in rows]


def doubted_since(connection: sa.Connection, digest: bytes, now: datetime) -> datetime:
    """When this token was first put off; now, and remembered, when it never was."""
    known = connection.execute(sa.select(doubt.c.first_seen_at).where(doubt.c.token_digest == digest)).scalar()
    if known is None:
        connection.execute(doubt.insert().values(token_digest=digest, first_seen_at=now))
    return known or now


def forget_doubts(connection: sa.Connection, before: datetime) -> None:
    connection.execute(doubt.delete().where(doubt.c.first_seen_at < before))


def forget_mails(connection: sa.Connection, before: datetime) -> None:
    """Empty the stored bytes of old mails; that they were answered, and when, stays known."""
    connection.execute(
        table.update().where(table.c.accepted_at < before, table.c.sealed_mail != b"").values(sealed_mail=b"")
    )
