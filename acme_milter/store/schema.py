# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables. Alembic's migrations must lead to exactly this; a test compares them."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from acme_milter.enrollment.model import OPEN_STATES

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Instant(sa.types.TypeDecorator[datetime]):
    """An aware UTC time, stored as whole microseconds since 1970: it sorts, and means the same in both databases."""

    impl = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # STRICT tables know INTEGER, which holds 64 bits
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + value * _MICROSECOND


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _text(name: str, *, nullable: bool = False, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable, primary_key=primary_key)


def _blob(name: str, *, nullable: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=nullable)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, Instant, nullable=nullable)


def _reference(name: str, target: str, *, nullable: bool = False, unique: bool = False) -> sa.Column[str]:
    # Checked at the commit: a step writes its enrollment first, and then the rows that this one points to.
    key = sa.ForeignKey(target, deferrable=True, initially="DEFERRED")
    return sa.Column(name, sa.Text, key, nullable=nullable, unique=unique or None)


def _integer(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


identity = sa.Table(
    "identity",  # what this store is bound to, so that nobody works on it with the wrong key
    metadata,
    _text("name", primary_key=True),
    _text("value"),
    sqlite_strict=True,
)

account = sa.Table(
    "account",
    metadata,
    _text("id", primary_key=True),
    _text("authority"),
    _text("directory_url"),
    _blob("sealed_key"),
    _text("jwk"),  # the public half, JSON
    _text("thumbprint"),  # RFC 7638, base64url: replies need it while keyd is away
    _text("url", nullable=True),  # None until the authority has answered newAccount
    _text("terms_url", nullable=True),
    _instant("created_at"),
    sa.UniqueConstraint("authority", "directory_url"),
    sqlite_strict=True,
)

mailbox_key = sa.Table(
    "mailbox_key",
    metadata,
    _text("id", primary_key=True),
    _text("principal"),
    _text("algorithm"),
    _blob("sealed_key"),
    _blob("spki"),
    _blob("csr"),
    _instant("created_at"),
    sqlite_strict=True,
)

_open_states = sa.text("state IN ({})".format(", ".join(f"'{state}'" for state in sorted(OPEN_STATES))))

enrollment = sa.Table(
    "enrollment",
    metadata,
    _text("id", primary_key=True),
    _text("address"),
    _text("authority"),
    _text("state"),
    _integer("version"),
    _integer("generation"),
    _instant("opened_at"),
    _instant("state_since"),
    _instant("next_attempt_at", nullable=True),
    _integer("attempts"),
    _text("last_error", nullable=True),
    _text("successor_id", nullable=True),
    _reference("key_id", "mailbox_key.id", nullable=True),
    _instant("began_ordering_at", nullable=True),
    _text("order_url", nullable=True),
    _instant("order_expires_at", nullable=True),
    _text("authorization_url", nullable=True),
    _text("finalize_url", nullable=True),
    _text("challenge_url", nullable=True),
    _text("challenge_sender", nullable=True),
    _blob("token_part2", nullable=True),
    _instant("challenge_posted_at", nullable=True),
    _instant("finalize_sent_at", nullable=True),
    _text("certificate_url", nullable=True),
    _text("certificate_id", nullable=True),
    # The lease is the scheduler's, not the enrollment's: who works on the row just now, and until when.
    _text("lease_owner", nullable=True),
    _instant("lease_until", nullable=True),
    sqlite_strict=True,
)
sa.Index("ix_enrollment_due", enrollment.c.next_attempt_at)
sa.Index("ix_enrollment_address", enrollment.c.address)
sa.Index("ix_enrollment_authority_state", enrollment.c.authority, enrollment.c.state)
sa.Index(
    "uq_enrollment_open",  # nothing in a challenge mail names its order, so a second open one could not be told apart
    enrollment.c.address,
    enrollment.c.authority,
    unique=True,
    sqlite_where=_open_states,
    postgresql_where=_open_states,
)

challenge_mail = sa.Table(
    "challenge_mail",
    metadata,
    _text("id", primary_key=True),
    _reference("enrollment_id", "enrollment.id"),
    _blob("token_digest"),  # SHA-256 of token-part1: the token itself is only inside the sealed mail
    _blob("sealed_mail"),
    _text("queue_id", nullable=True),
    _text("dkim_domain"),
    _text("dkim_selector"),
    _text("disposition"),
    _instant("accepted_at"),
    sa.UniqueConstraint("enrollment_id", "token_digest"),
    sqlite_strict=True,
)

outbox = sa.Table(
    "outbox",
    metadata,
    _text("id", primary_key=True),
    _reference("enrollment_id", "enrollment.id"),
    _reference("challenge_mail_id", "challenge_mail.id", unique=True),
    _text("envelope_sender"),
    _text("envelope_recipient"),
    _text("message_id"),
    _blob("sealed_reply"),
    _integer("attempts"),
    _instant("created_at"),
    _instant("next_attempt_at", nullable=True),  # None: nothing more to do
    _instant("handover_began_at", nullable=True),  # set while Postfix may or may not have the reply already
    _integer("handovers"),
    _instant("sent_at", nullable=True),
    _text("queue_id", nullable=True),
    _text("last_error", nullable=True),
    _text("lease_owner", nullable=True),
    _instant("lease_until", nullable=True),
    sqlite_strict=True,
)
sa.Index("ix_outbox_due", outbox.c.next_attempt_at)
sa.Index("ix_outbox_enrollment", outbox.c.enrollment_id)

certificate = sa.Table(
    "certificate",
    metadata,
    _text("id", primary_key=True),
    _reference("enrollment_id", "enrollment.id"),
    _text("address"),
    _text("authority"),
    _reference("key_id", "mailbox_key.id"),
    _text("serial"),
    _text("issuer"),
    _instant("not_before"),
    _instant("not_after"),
    _blob("chain_pem"),
    _instant("stored_at"),
    sqlite_strict=True,
)
sa.Index("ix_certificate_address", certificate.c.address)
sa.Index("ix_certificate_enrollment", certificate.c.enrollment_id)

doubt = sa.Table(
    "doubt",  # rule T: since when a challenge mail has been put off, by its token's digest
    metadata,
    sa.Column("token_digest", sa.LargeBinary, primary_key=True),
    _instant("first_seen_at"),
    sqlite_strict=True,
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    _instant("at"),
    _text("event"),
    _text("enrollment_id", nullable=True),
    _text("address", nullable=True),
    _text("details"),  # JSON, never a secret
    sqlite_strict=True,
)
sa.Index("ix_audit_enrollment", audit.c.enrollment_id)
