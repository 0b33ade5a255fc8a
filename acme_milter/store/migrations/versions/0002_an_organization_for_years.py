# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes from sources, people, renewals, revocations, holds, pauses and bulk runs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INSTANT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _people()
    _queues()
    _overviews()
    _mailboxes()
    _renewals()
    _runs()


def _people() -> None:
    """Until now a certificate belonged to its address; from now on to a person: the address, where none is known."""
    op.add_column("enrollment", sa.Column("principal", sa.Text(), nullable=False, server_default=""))
    op.add_column("enrollment", sa.Column("cause", sa.Text(), nullable=False, server_default="asked"))
    op.add_column("enrollment", sa.Column("replaces_id", sa.Text(), nullable=True))
    op.add_column("enrollment", sa.Column("bulk_run_id", sa.Text(), nullable=True))
    op.add_column("certificate", sa.Column("principal", sa.Text(), nullable=False, server_default=""))
    op.add_column("enrollment", sa.Column("counted_at", INSTANT, nullable=True))
    op.execute("UPDATE enrollment SET principal = address, counted_at = began_ordering_at")
    op.execute("UPDATE certificate SET principal = address")
    op.create_index("ix_enrollment_authority_opened", "enrollment", ["authority", "cause", "opened_at"])
    op.create_index("ix_enrollment_authority_began", "enrollment", ["authority", "began_ordering_at", "cause"])
    op.create_index("ix_enrollment_authority_counted", "enrollment", ["authority", "counted_at", "cause"])
    op.create_index("ix_enrollment_authority_state_since", "enrollment", ["authority", "state", "state_since"])
    op.create_index("ix_certificate_authority_not_after", "certificate", ["authority", "not_after"])
    op.create_index("ix_certificate_serial", "certificate", ["serial"])
    op.create_index("ix_enrollment_key", "enrollment", ["key_id"])
    op.create_index("ix_certificate_key", "certificate", ["key_id"])
    op.create_index("ix_audit_address", "audit", ["address"])


def _queues() -> None:
    """What is due, apart from what has not begun: each is found without reading the other."""
    op.drop_index("ix_enrollment_due", "enrollment")
    op.drop_index("ix_enrollment_authority_state", "enrollment")
    begun, leased = sa.text("state <> 'planned'"), sa.text("lease_until IS NOT NULL")
    op.create_index("ix_enrollment_due", "enrollment", ["next_attempt_at"], sqlite_where=begun, postgresql_where=begun)
    op.create_index("ix_enrollment_authority_waiting", "enrollment", ["authority", "state", "cause", "next_attempt_at"])
    op.create_index("ix_enrollment_leased", "enrollment", ["lease_until"], sqlite_where=leased, postgresql_where=leased)


def _overviews() -> None:
    """What a screen shows of many mailboxes has to be found without reading their history."""
    op.add_column("enrollment", sa.Column("not_after", INSTANT, nullable=True))
    op.execute(
        "UPDATE enrollment SET not_after ="
        " (SELECT certificate.not_after FROM certificate WHERE certificate.id = enrollment.certificate_id)"
    )
    active = sa.text("state = 'active'")
    op.create_index(
        "ix_enrollment_active",
        "enrollment",
        ["not_after", "address", "principal", "state"],
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_index("ix_challenge_mail_accepted", "challenge_mail", ["accepted_at"])
    op.create_index("ix_outbox_sent", "outbox", ["sent_at"])
    op.create_index("ix_certificate_stored", "certificate", ["stored_at"])
    op.create_index("ix_certificate_principal", "certificate", ["principal"])


def _mailboxes() -> None:
    op.create_table(
        "mailbox",
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=True),
        sa.Column("person_name", sa.Text(), nullable=True),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.Column("came_as", sa.Text(), nullable=False),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("missing_since", INSTANT, nullable=True),
        sa.Column("left_at", INSTANT, nullable=True),
        sa.Column("handed_over_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("address", name=op.f("pk_mailbox")),
        sa.UniqueConstraint("folded", name=op.f("uq_mailbox_folded")),
        sqlite_strict=True,
    )
    op.create_index("ix_mailbox_domain", "mailbox", ["domain"])
    op.create_index("ix_mailbox_came", "mailbox", ["came_as", "first_seen_at"])
    op.create_index("ix_mailbox_missing", "mailbox", ["missing_since"])
    op.create_table(
        "source_run",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("attempted_at", INSTANT, nullable=False),
        sa.Column("succeeded_at", INSTANT, nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("changed_at", INSTANT, nullable=True),
        sa.Column("excluded", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_source_run")),
        sqlite_strict=True,
    )
    op.create_table(
        "hold",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("released_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_hold")),
        sqlite_strict=True,
    )


def _renewals() -> None:
    op.create_table(
        "renewal",
        sa.Column("certificate_id", sa.Text(), nullable=False),
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("urgent_at", INSTANT, nullable=False),
        sa.Column("window_start", INSTANT, nullable=True),
        sa.Column("window_end", INSTANT, nullable=True),
        sa.Column("explanation_url", sa.Text(), nullable=True),
        sa.Column("ask_at", INSTANT, nullable=True),
        sa.Column("opened_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_renewal")),
        sqlite_strict=True,
    )
    op.create_index("ix_renewal_due", "renewal", ["authority", "due_at"])
    op.create_index("ix_renewal_urgent", "renewal", ["authority", "urgent_at"])
    op.create_index("ix_renewal_ask", "renewal", ["authority", "ask_at"])
    op.create_index("ix_renewal_address", "renewal", ["address"])
    op.create_table(
        "renewal_day",
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("planned", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("authority", "day", name=op.f("pk_renewal_day")),
        sqlite_strict=True,
    )
    op.create_table(
        "revocation",
        sa.Column("certificate_id", sa.Text(), nullable=False),
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("reason", sa.Integer(), nullable=False),
        sa.Column("asked_at", INSTANT, nullable=False),
        sa.Column("next_attempt_at", INSTANT, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("done_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_revocation")),
        sqlite_strict=True,
    )
    op.create_index("ix_revocation_due", "revocation", ["next_attempt_at"])
    op.create_table(
        "authority_pause",
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("until", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("authority", name=op.f("pk_authority_pause")),
        sqlite_strict=True,
    )


def _runs() -> None:
    op.create_table(
        "bulk_run",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("counted_from", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("stopped_authorities", sa.Text(), nullable=False),
        sa.Column("revoke_reason", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bulk_run")),
        sqlite_strict=True,
    )
    op.create_table(
        "bulk_item",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("replaces_id", sa.Text(), nullable=True),
        sa.Column("enrollment_id", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("run_id", "address", name=op.f("pk_bulk_item")),
        sqlite_strict=True,
    )
    op.create_index("ix_bulk_item_waiting", "bulk_item", ["run_id", "outcome", "authority", "position"])
    op.create_index("ix_bulk_item_enrollment", "bulk_item", ["enrollment_id"])
    op.create_index("ix_bulk_item_address", "bulk_item", ["address"])
