# SPDX-License-Identifier: GPL-3.0-or-later
"""Where certificates and keys have gone, and where they are still to go."""

import sqlalchemy as sa

from acme_milter.store.schema.columns import blob, instant, integer, metadata, reference, text

delivery = sa.Table(
    "delivery",  # one certificate and one target: a job of its own, whatever becomes of the others
    metadata,
    text("id", primary_key=True),
    reference("certificate_id", "certificate.id"),
    text("address"),
    text("target"),  # the title of the target in the mailbox's policy
    text("kind"),  # its `to`
    instant("asked_at"),
    instant("next_attempt_at", nullable=True),  # None: done, or given up
    integer("attempts"),
    text("last_error", nullable=True),
    instant("done_at", nullable=True),
    text("outcome", nullable=True),  # where it is now, in words; of one that was taken back, what was done
    text("lease_owner", nullable=True),
    instant("lease_until", nullable=True),
    text("withdraw_why", nullable=True),  # None: it is to be there
    instant("begun_at", nullable=True),  # None: it cannot be there
    instant("delivered_at", nullable=True),  # when it was put there last
    text("location", nullable=True),  # the paths by which its target was told from others of that name, as configured
    sa.UniqueConstraint("certificate_id", "target"),
    sqlite_strict=True,
)
_UNDONE = sa.text("done_at IS NULL")
sa.Index("ix_delivery_due", delivery.c.next_attempt_at, sqlite_where=_UNDONE, postgresql_where=_UNDONE)
sa.Index(
    "ix_delivery_turn", delivery.c.target, delivery.c.next_attempt_at, sqlite_where=_UNDONE, postgresql_where=_UNDONE
)
sa.Index("ix_delivery_address", delivery.c.address)
sa.Index("ix_delivery_asked", delivery.c.asked_at)

passphrase = sa.Table(
    "passphrase",  # of the files that a delivery has made, sealed, until somebody has asked for it
    metadata,
    text("delivery_id", primary_key=True),
    text("format", primary_key=True),
    blob("sealed"),
    instant("made_at"),
    instant("shown_at", nullable=True),
    sqlite_strict=True,
)
