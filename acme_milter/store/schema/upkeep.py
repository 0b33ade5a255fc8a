# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows an issue: renewals, revocations, and how the authorities are."""

import sqlalchemy as sa

from acme_milter.store.schema.columns import instant, integer, metadata, text

renewal = sa.Table(
    "renewal",  # one row for each active certificate: when it is due, and what the authority says (RFC 9773)
    metadata,
    text("certificate_id", primary_key=True),
    text("authority"),
    text("address"),
    instant("due_at"),
    integer("day"),  # of due_at, in days since 1970, as counted in renewal_day
    instant("urgent_at"),  # from then on it does not wait for the background's pace
    instant("window_start", nullable=True),
    instant("window_end", nullable=True),
    text("explanation_url", nullable=True),
    instant("ask_at", nullable=True),  # when to ask the authority again; None: it has no renewal information
    instant("opened_at", nullable=True),  # when the successor's enrollment was opened
    sqlite_strict=True,
)
sa.Index("ix_renewal_due", renewal.c.authority, renewal.c.due_at)
sa.Index("ix_renewal_urgent", renewal.c.authority, renewal.c.urgent_at)
sa.Index("ix_renewal_ask", renewal.c.authority, renewal.c.ask_at)
sa.Index("ix_renewal_address", renewal.c.address)

renewal_day = sa.Table(
    "renewal_day",  # the forecast: how many renewals fall on each day
    metadata,
    text("authority", primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    integer("planned"),
    sqlite_strict=True,
)

revocation = sa.Table(
    "revocation",  # a wish to have a certificate revoked, kept until the authority has done it
    metadata,
    text("certificate_id", primary_key=True),
    text("authority"),
    integer("reason"),  # RFC 5280 §5.3.1
    instant("asked_at"),
    instant("next_attempt_at", nullable=True),  # None: done, or given up
    integer("attempts"),
    text("last_error", nullable=True),
    instant("done_at", nullable=True),
    sqlite_strict=True,
)
sa.Index("ix_revocation_due", revocation.c.next_attempt_at)

authority_pause = sa.Table(
    "authority_pause",
    metadata,
    text("authority", primary_key=True),
    text("reason"),
    instant("since"),
    instant("until", nullable=True),  # None: until a person resumes it
    sqlite_strict=True,
)

authority_health = sa.Table(
    "authority_health",  # the circuit breaker of each authority, for all hosts
    metadata,
    text("authority", primary_key=True),
    integer("failures"),  # in a row
    instant("failed_at", nullable=True),
    text("last_error", nullable=True),
    instant("open_since", nullable=True),  # None: closed
    instant("probe_at", nullable=True),  # when to ask whether it has healed; None while open: it answers again
    integer("openings"),  # without a success in between: each waits longer
    text("trial_id", nullable=True),  # the one enrollment that may begin with it, until probe_at
    sqlite_strict=True,
)
