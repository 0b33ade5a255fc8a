# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue ids by which people find an enrollment's mails in Postfix's log, for statements that list enrollments."""

import sqlalchemy as sa

from acme_milter.store.schema import challenge_mail, outbox


def first_challenge(enrollment_id: sa.Column[str]) -> sa.ScalarSelect[str | None]:
    """The queue id of the enrollment's first challenge mail."""
    return (
        sa.select(challenge_mail.c.queue_id)
        .where(challenge_mail.c.enrollment_id == enrollment_id)
        .order_by(challenge_mail.c.accepted_at)
        .limit(1)
        .scalar_subquery()
    )


def first_reply(enrollment_id: sa.Column[str]) -> sa.ScalarSelect[str | None]:
    """The queue id of the enrollment's first reply."""
    return (
        sa.select(outbox.c.queue_id)
        .where(outbox.c.enrollment_id == enrollment_id)
        .order_by(outbox.c.created_at)
        .limit(1)
        .scalar_subquery()
    )
