# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs for many mailboxes."""

import sqlalchemy as sa

from acme_milter.store.schema.columns import instant, integer, metadata, text

bulk_run = sa.Table(
    "bulk_run",
    metadata,
    text("id", primary_key=True),
    text("kind"),
    text("state"),
    text("description"),
    instant("created_at"),
    instant("counted_from"),  # failures before this moment do not stop the run: a person has started it since
    instant("ended_at", nullable=True),
    text("stopped_authorities"),  # JSON: authority to the reason why nothing more is opened with it
    sa.Column("revoke_reason", sa.Integer, nullable=True),  # RFC 5280 §5.3.1, of what is replaced; None: not revoked
    sqlite_strict=True,
)

bulk_item = sa.Table(
    "bulk_item",  # one mailbox of a run; its enrollment is opened when there is room for it
    metadata,
    text("run_id", primary_key=True),
    text("address", primary_key=True),
    integer("position"),
    text("domain"),
    text("authority"),
    text("principal"),  # whose it was when the plan was made
    text("replaces_id", nullable=True),
    text("also_replaces_id", nullable=True),  # where a mailbox has one certificate to sign and one to encrypt
    text("enrollment_id", nullable=True),
    text("outcome"),
    text("reason", nullable=True),
    instant("ended_at", nullable=True),
    sqlite_strict=True,
)
sa.Index("ix_bulk_item_waiting", bulk_item.c.run_id, bulk_item.c.outcome, bulk_item.c.authority, bulk_item.c.position)
sa.Index("ix_bulk_item_enrollment", bulk_item.c.enrollment_id)
sa.Index("ix_bulk_item_address", bulk_item.c.address)
