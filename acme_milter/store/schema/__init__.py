# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables. Alembic's migrations must lead to exactly this; a test compares them."""

from acme_milter.store.schema.bulk import bulk_item, bulk_run
from acme_milter.store.schema.columns import Instant, metadata
from acme_milter.store.schema.delivery import delivery, passphrase
from acme_milter.store.schema.ordering import (
    account,
    audit,
    certificate,
    challenge_mail,
    doubt,
    enrollment,
    identity,
    mailbox_key,
    outbox,
)
from acme_milter.store.schema.organization import hold, mailbox, source_run
from acme_milter.store.schema.upkeep import authority_health, authority_pause, renewal, renewal_day, revocation

__all__ = [
    "Instant",
    "account",
    "audit",
    "authority_health",
    "authority_pause",
    "bulk_item",
    "bulk_run",
    "certificate",
    "challenge_mail",
    "delivery",
    "doubt",
    "enrollment",
    "hold",
    "identity",
    "mailbox",
    "mailbox_key",
    "metadata",
    "outbox",
    "passphrase",
    "renewal",
    "renewal_day",
    "revocation",
    "source_run",
]
