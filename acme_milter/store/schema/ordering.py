# SPDX-License-Identifier: GPL-3.0-or-later
"""From an account to a certificate: what an order leaves in the store."""

import sqlalchemy as sa

from acme_milter.enrollment.model import OPEN_STATES
from acme_milter.store.schema.columns import blob, instant, integer, metadata, reference, text

identity = sa.Table(
    "identity",  # what this store is bound to, so that nobody works on it with the wrong key
    metadata,
    text("name", primary_key=True),
    text("value"),
    sqlite_strict=True,
)

account = sa.Table(
    "account",
    metadata,
    text("id", primary_key=True),
    text("authority"),
    text("directory_url"),
    blob("sealed_key"),
    text("jwk"),  # the public half, JSON
    text("thumbprint"),  # RFC 7638, base64url: replies need it while keyd is away
    text("url", nullable=True),  # None until the authority has answered newAccount
    text("terms_url", nullable=True),  # what was agreed to
    instant("created_at"),
    sa.Column("scope", sa.Text, nullable=False, server_default=""),  # whose it is: everybody's, a domain's, a mailbox's
    instant("terms_agreed_at", nullable=True),
    instant("deactivated_at", nullable=True),  # RFC 8555 §7.3.6: for good
    # RFC 8555 §7.3.5: the key that is to replace this one, kept before the authority hears of it.
    blob("next_sealed_key", nullable=True),
    text("next_jwk", nullable=True),
    text("next_thumbprint", nullable=True),
    instant("next_attempt_at", nullable=True),  # when the exchange is tried; ahead of now while somebody tries it
    text("last_error", nullable=True),  # what became of the latest exchange that was given up or put off
    instant("key_since", nullable=True),  # None: since it was created
    sqlite_strict=True,
)
_in_use = sa.text("deactivated_at IS NULL")
sa.Index(
    "uq_account_in_use",
    account.c.authority,
    account.c.directory_url,
    account.c.scope,
    unique=True,
    sqlite_where=_in_use,
    postgresql_where=_in_use,
)
_deactivated = sa.text("deactivated_at IS NOT NULL")
sa.Index(
    "ix_account_deactivated",
    account.c.authority,
    account.c.directory_url,
    account.c.scope,
    account.c.deactivated_at,
    sqlite_where=_deactivated,
    postgresql_where=_deactivated,
)
_changing = sa.text("next_sealed_key IS NOT NULL")
sa.Index(
    "ix_account_changing",
    account.c.authority,
    account.c.next_attempt_at,
    sqlite_where=_changing,
    postgresql_where=_changing,
)
# Whether a request's key is an account's: with an account for each mailbox there are as many as these.
sa.Index("ix_account_thumbprint", account.c.thumbprint)
_next = sa.text("next_thumbprint IS NOT NULL")
sa.Index("ix_account_next_thumbprint", account.c.next_thumbprint, sqlite_where=_next, postgresql_where=_next)

mailbox_key = sa.Table(
    "mailbox_key",
    metadata,
    text("id", primary_key=True),
    text("principal"),
    text("algorithm"),
    blob("sealed_key"),
    blob("spki"),
    blob("csr"),
    instant("created_at"),
    instant("destroyed_at", nullable=True),  # custody deliver_once: sealed_key is empty since then; csr: it always was
    sqlite_strict=True,
)
sa.Index("ix_mailbox_key_spki", mailbox_key.c.spki)  # whose a request's key is that somebody brings

_open_states = sa.text("state IN ({})".format(", ".join(f"'{state}'" for state in sorted(OPEN_STATES))))

enrollment = sa.Table(
    "enrollment",
    metadata,
    text("id", primary_key=True),
    text("address"),
    text("authority"),
    text("state"),
    integer("version"),
    integer("generation"),
    instant("opened_at"),
    instant("state_since"),
    instant("next_attempt_at", nullable=True),
    integer("attempts"),
    text("last_error", nullable=True),
    text("successor_id", nullable=True),
    reference("key_id", "mailbox_key.id", nullable=True),
    instant("began_ordering_at", nullable=True),
    instant("counted_at", nullable=True),  # days later than that, where an outage lay between the two
    text("order_url", nullable=True),
    instant("order_expires_at", nullable=True),
    text("authorization_url", nullable=True),
    text("finalize_url", nullable=True),
    text("challenge_url", nullable=True),
    text("challenge_sender", nullable=True),
    blob("token_part2", nullable=True),
    instant("challenge_posted_at", nullable=True),
    instant("finalize_sent_at", nullable=True),
    text("certificate_url", nullable=True),
    text("certificate_id", nullable=True),
    sa.Column("principal", sa.Text, nullable=False, server_default=""),
    sa.Column("cause", sa.Text, nullable=False, server_default="asked"),
    text("replaces_id", nullable=True),  # the certificate that this one is to take the place of
    text("bulk_run_id", nullable=True),
    sa.Column("usage", sa.Text, nullable=False, server_default="dual"),  # certificate.csr.KeyUsageKind
    text("account_id", nullable=True),  # with which it was ordered: the reply's digest is of its key
    sa.Column("aliases", sa.Text, nullable=False, server_default="[]"),  # JSON list: further addresses of its order
    text("proving", nullable=True),  # of these, the one whose authorization is at hand
    sa.Column("proofs", sa.Text, nullable=False, server_default="[]"),  # JSON: address, authorization, sender of each
    instant("not_after", nullable=True),  # its certificate's, written with it: an overview must not open a million
    # The lease is the scheduler's, not the enrollment's: who works on the row just now, and until when.
    text("lease_owner", nullable=True),
    instant("lease_until", nullable=True),
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
# What another authority could take over, by id: a hundred thousand of them are looked at page by page.
_unplaced = sa.text("state IN ('planned', 'ordering') AND order_url IS NULL")
sa.Index(
    "ix_enrollment_unplaced",
    enrollment.c.authority,
    enrollment.c.id,
    sqlite_where=_unplaced,
    postgresql_where=_unplaced,
)
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
_one_purpose = sa.text("state = 'active' AND usage <> 'dual'")
sa.Index(
    "ix_enrollment_active_one_purpose",  # who has one of two certificates only
    enrollment.c.address,
    enrollment.c.usage,
    enrollment.c.not_after,
    sqlite_where=_one_purpose,
    postgresql_where=_one_purpose,
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
    text("id", primary_key=True),
    reference("enrollment_id", "enrollment.id"),
    blob("token_digest"),  # SHA-256 of token-part1: the token itself is only inside the sealed mail
    blob("sealed_mail"),
    text("queue_id", nullable=True),
    text("dkim_domain"),
    text("dkim_selector"),
    text("smime_signer", nullable=True),  # the serial number of the certificate that proved it instead
    text("disposition"),
    instant("accepted_at"),
    sa.UniqueConstraint("enrollment_id", "token_digest"),
    sqlite_strict=True,
)

sa.Index("ix_challenge_mail_accepted", challenge_mail.c.accepted_at)
sa.Index("ix_challenge_mail_token", challenge_mail.c.token_digest)

outbox = sa.Table(
    "outbox",
    metadata,
    text("id", primary_key=True),
    reference("enrollment_id", "enrollment.id"),
    reference("challenge_mail_id", "challenge_mail.id", unique=True),
    text("envelope_sender"),
    text("envelope_recipient"),
    text("message_id"),
    blob("sealed_reply"),
    integer("attempts"),
    instant("created_at"),
    instant("next_attempt_at", nullable=True),  # None: nothing more to do
    instant("handover_began_at", nullable=True),  # set while Postfix may or may not have the reply already
    integer("handovers"),
    instant("sent_at", nullable=True),
    text("queue_id", nullable=True),
    text("last_error", nullable=True),
    # What became of it after Postfix had taken it, as far as its queue or its log tells.
    text("departure", nullable=True),  # sent, deferred, bounced, unknown; None: nobody has looked yet
    instant("departure_at", nullable=True),
    text("departure_words", nullable=True),  # the other side's
    text("place", nullable=True),  # the worker whose Postfix took it: no other host can look after it
    instant("followed_since", nullable=True),  # it looks for its departure; None: nothing more is to be found out
    text("lease_owner", nullable=True),
    instant("lease_until", nullable=True),
    sqlite_strict=True,
)
sa.Index("ix_outbox_due", outbox.c.next_attempt_at)
sa.Index("ix_outbox_enrollment", outbox.c.enrollment_id)
sa.Index("ix_outbox_sent", outbox.c.sent_at)
_followed = sa.text("followed_since IS NOT NULL")
sa.Index("ix_outbox_followed", outbox.c.place, sqlite_where=_followed, postgresql_where=_followed)

certificate = sa.Table(
    "certificate",
    metadata,
    text("id", primary_key=True),
    reference("enrollment_id", "enrollment.id"),
    text("address"),
    text("authority"),
    reference("key_id", "mailbox_key.id"),
    text("serial"),
    text("issuer"),
    instant("not_before"),
    instant("not_after"),
    blob("chain_pem"),
    instant("stored_at"),
    sa.Column("principal", sa.Text, nullable=False, server_default=""),
    sa.Column("usage", sa.Text, nullable=False, server_default="dual"),
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
    instant("first_seen_at"),
    sqlite_strict=True,
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    instant("at"),
    text("event"),
    text("enrollment_id", nullable=True),
    text("address", nullable=True),
    text("details"),  # JSON, never a secret
    sqlite_strict=True,
)
sa.Index("ix_audit_enrollment", audit.c.enrollment_id)
sa.Index("ix_audit_address", audit.c.address)
