# SPDX-License-Identifier: GPL-3.0-or-later
"""A delivery beside the others of its mailbox to its target: whose certificate is the newer one, and for which use."""

import sqlalchemy as sa

from acme_milter.store.schema import certificate, delivery

OTHER = delivery.alias("other")
MINE = certificate.alias("mine")
THEIRS = certificate.alias("theirs")

BESIDE = (
    delivery.join(MINE, MINE.c.id == delivery.c.certificate_id)
    .join(OTHER, sa.and_(OTHER.c.address == delivery.c.address, OTHER.c.target == delivery.c.target))
    .join(THEIRS, THEIRS.c.id == OTHER.c.certificate_id)
)
"""Each delivery with every one for the same mailbox and target, itself among them."""

MY_AGE = sa.tuple_(MINE.c.stored_at, MINE.c.id)
THEIR_AGE = sa.tuple_(THEIRS.c.stored_at, THEIRS.c.id)
"""What is greater is newer."""
