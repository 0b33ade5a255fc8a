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
    _instant("counted_at", nullable=True),  # days later than that, where an outage lay between the two
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
    sa.Column("principal", sa.Text, nullable=False, server_default=""),
    sa.Column("cause", sa.Text, nullable=False, server_default="asked"),
    _text("replaces_id", nullable=True),  # the certificate that this one is to take the place of
    _text("bulk_run_id", nullable=True),
    _instant("not_after", nullable=True),  # its certificate's, written with it: an overview must not open a million
    # The lease is the scheduler's, not the enrollment's: who works on the row just now, and until when.
    _text("lease_owner", nullable=True),
    _instant("lease_until", nullable=True),
    sqlite_strict=True,
)
# What is due, with those apart that have not begun: a hundred thousand of them must not stand in the others' way.
_begun = sa.text("state <> 'planned'")
sa.Index("ix_enrollment_due", enrollment.c.next_attempt_at, sqlite_where=_begun, postgresql_where=_begun)
sa.Index(
    "ix_enrollment_authority_waiting",
    enrollment.c.authority,
    enrollment.c.state,
    enrollment.c.cause,
    enrollment.c.next_attempt_at,
)
_leased = sa.text("lease_until IS NOT NULL")
sa.Index("ix_enrollment_leased", enrollment.c.lease_until, sqlite_where=_leased, postgresql_where=_leased)
sa.Index("ix_enrollment_address", enrollment.c.address)
# What an authority's budgets are counted from: enrollments opened, orders begun, and orders that ended.
sa.Index("ix_enrollment_authority_opened", enrollment.c.authority, enrollment.c.cause, enrollment.c.opened_at)
sa.Index("ix_enrollment_authority_began", enrollment.c.authority, enrollment.c.began_ordering_at, enrollment.c.cause)
sa.Index("ix_enrollment_authority_counted", enrollment.c.authority, enrollment.c.counted_at, enrollment.c.cause)
sa.Index("ix_enrollment_authority_state_since", enrollment.c.authority, enrollment.c.state, enrollment.c.state_since)
# Who has a certificate, and until when: answered from the index alone (`state` is in it because SQLite wants it so).
_active = sa.text("state = 'active'")
sa.Index(
    "ix_enrollment_active",
    enrollment.c.not_after,
    enrollment.c.address,
    enrollment.c.principal,
    enrollment.c.state,
    sqlite_where=_active,
    postgresql_where=_active,
)
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

sa.Index("ix_challenge_mail_accepted", challenge_mail.c.accepted_at)

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
sa.Index("ix_outbox_sent", outbox.c.sent_at)

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
    sa.Column("principal", sa.Text, nullable=False, server_default=""),
    sqlite_strict=True,
)
sa.Index("ix_certificate_authority_not_after", certificate.c.authority, certificate.c.not_after)
sa.Index("ix_certificate_stored", certificate.c.stored_at)
sa.Index("ix_certificate_serial", certificate.c.serial)
# A new key is looked for in the tables that refer to keys: without these, by reading them whole.
sa.Index("ix_enrollment_key", enrollment.c.key_id)
sa.Index("ix_certificate_key", certificate.c.key_id)
sa.Index("ix_certificate_address", certificate.c.address)
sa.Index("ix_certificate_enrollment", certificate.c.enrollment_id)
sa.Index("ix_certificate_principal", certificate.c.principal)

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
sa.Index("ix_audit_address", audit.c.address)

mailbox = sa.Table(
    "mailbox",  # what the sources have said, so that a change can be told from a fault
    metadata,
    _text("address", primary_key=True),
    sa.Column("folded", sa.Text, nullable=False, unique=True),  # lower case: what comparisons go by
    _text("domain"),
    _text("source"),
    _text("principal"),  # whose keys: the source's id for the person, or the address where it has none
    _text("person_id", nullable=True),  # what the source calls the person now; the principal may be older than that
    _text("person_name", nullable=True),
    _text("groups"),  # JSON list
    _text("came_as"),  # mailboxes.record.CameAs: there from the first day on, or joined later
    _instant("first_seen_at"),
    _instant("missing_since", nullable=True),
    _instant("left_at", nullable=True),
    _instant("handed_over_at", nullable=True),  # when it became another person's the last time
    sqlite_strict=True,
)
sa.Index("ix_mailbox_domain", mailbox.c.domain)
sa.Index("ix_mailbox_came", mailbox.c.came_as, mailbox.c.first_seen_at)
sa.Index("ix_mailbox_missing", mailbox.c.missing_since)

source_run = sa.Table(
    "source_run",  # how reading each source went the last time
    metadata,
    _text("source", primary_key=True),
    _instant("attempted_at"),
    _instant("succeeded_at", nullable=True),
    _integer("number"),  # of mailboxes, at the last success
    _text("error", nullable=True),
    _instant("changed_at", nullable=True),  # of a mailbox, by this source: other hosts then look what is new
    _text("excluded"),  # JSON: what it lists and nobody manages, by domain and reason, at the last success
    sqlite_strict=True,
)

hold = sa.Table(
    "hold",  # a guard stopped something and asks; it goes on when a person releases it, once
    metadata,
    _text("name", primary_key=True),
    _instant("since"),
    _text("reason"),
    _integer("size"),  # how many it is about: a release lets that many through, not any number
    _instant("released_at", nullable=True),
    sqlite_strict=True,
)

renewal = sa.Table(
    "renewal",  # one row for each active certificate: when it is due, and what the authority says (RFC 9773)
    metadata,
    _text("certificate_id", primary_key=True),
    _text("authority"),
    _text("address"),
    _instant("due_at"),
    _integer("day"),  # of due_at, in days since 1970, as counted in renewal_day
    _instant("urgent_at"),  # from then on it does not wait for the background's pace
    _instant("window_start", nullable=True),
    _instant("window_end", nullable=True),
    _text("explanation_url", nullable=True),
    _instant("ask_at", nullable=True),  # when to ask the authority again; None: it has no renewal information
    _instant("opened_at", nullable=True),  # when the successor's enrollment was opened
    sqlite_strict=True,
)
sa.Index("ix_renewal_due", renewal.c.authority, renewal.c.due_at)
sa.Index("ix_renewal_urgent", renewal.c.authority, renewal.c.urgent_at)
sa.Index("ix_renewal_ask", renewal.c.authority, renewal.c.ask_at)
sa.Index("ix_renewal_address", renewal.c.address)

renewal_day = sa.Table(
    "renewal_day",  # the forecast: how many renewals fall on each day
    metadata,
    _text("authority", primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    _integer("planned"),
    sqlite_strict=True,
)

revocation = sa.Table(
    "revocation",  # a wish to have a certificate revoked, kept until the authority has done it
    metadata,
    _text("certificate_id", primary_key=True),
    _text("authority"),
    _integer("reason"),  # RFC 5280 §5.3.1
    _instant("asked_at"),
    _instant("next_attempt_at", nullable=True),  # None: done, or given up
    _integer("attempts"),
    _text("last_error", nullable=True),
    _instant("done_at", nullable=True),
    sqlite_strict=True,
)
sa.Index("ix_revocation_due", revocation.c.next_attempt_at)

authority_pause = sa.Table(
    "authority_pause",
    metadata,
    _text("authority", primary_key=True),
    _text("reason"),
    _instant("since"),
    _instant("until", nullable=True),  # None: until a person resumes it
    sqlite_strict=True,
)

bulk_run = sa.Table(
    "bulk_run",
    metadata,
    _text("id", primary_key=True),
    _text("kind"),
    _text("state"),
    _text("description"),
    _instant("created_at"),
    _instant("counted_from"),  # failures before this moment do not stop the run: a person has started it since
    _instant("ended_at", nullable=True),
    _text("stopped_authorities"),  # JSON: authority to the reason why nothing more is opened with it
    sa.Column("revoke_reason", sa.Integer, nullable=True),  # RFC 5280 §5.3.1, of what is replaced; None: not revoked
    sqlite_strict=True,
)

bulk_item = sa.Table(
    "bulk_item",  # one mailbox of a run; its enrollment is opened when there is room for it
    metadata,
    _text("run_id", primary_key=True),
    _text("address", primary_key=True),
    _integer("position"),
    _text("domain"),
    _text("authority"),
    _text("principal"),  # whose it was when the plan was made
    _text("replaces_id", nullable=True),
    _text("enrollment_id", nullable=True),
    _text("outcome"),
    _text("reason", nullable=True),
    _instant("ended_at", nullable=True),
    sqlite_strict=True,
)
sa.Index("ix_bulk_item_waiting", bulk_item.c.run_id, bulk_item.c.outcome, bulk_item.c.authority, bulk_item.c.position)
sa.Index("ix_bulk_item_enrollment", bulk_item.c.enrollment_id)
sa.Index("ix_bulk_item_address", bulk_item.c.address)
