# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliveries, accounts of their own, authorities that fail, certificates for one use, replies that have left."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INSTANT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _accounts()
    _certificates()
    _replies()
    _authorities()
    _unplaced()
    _deliveries()
    _aliases()


def _aliases() -> None:
    op.add_column("mailbox", sa.Column("aliases", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("mailbox", sa.Column("alias_of", sa.Text(), nullable=True))
    op.add_column("enrollment", sa.Column("aliases", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("enrollment", sa.Column("proving", sa.Text(), nullable=True))
    op.add_column("enrollment", sa.Column("proofs", sa.Text(), nullable=False, server_default="[]"))


def _accounts() -> None:
    """Until now an authority had one account; from now on one for each scope, and one that is over may be followed."""
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_without_constraint()
    else:
        op.drop_constraint("uq_account_authority_directory_url", "account")
    op.add_column("account", sa.Column("scope", sa.Text(), nullable=False, server_default=""))
    op.add_column("account", sa.Column("terms_agreed_at", INSTANT, nullable=True))
    op.add_column("account", sa.Column("deactivated_at", INSTANT, nullable=True))
    op.add_column("account", sa.Column("next_sealed_key", sa.LargeBinary(), nullable=True))
    op.add_column("account", sa.Column("next_jwk", sa.Text(), nullable=True))
    op.add_column("account", sa.Column("next_thumbprint", sa.Text(), nullable=True))
    op.add_column("account", sa.Column("next_attempt_at", INSTANT, nullable=True))
    op.add_column("account", sa.Column("last_error", sa.Text(), nullable=True))
    op.add_column("account", sa.Column("key_since", INSTANT, nullable=True))
    op.execute("UPDATE account SET terms_agreed_at = created_at WHERE terms_url IS NOT NULL")
    in_use = sa.text("deactivated_at IS NULL")
    columns = ["authority", "directory_url", "scope"]
    op.create_index("uq_account_in_use", "account", columns, unique=True, sqlite_where=in_use, postgresql_where=in_use)
    closed = sa.text("deactivated_at IS NOT NULL")
    columns += ["deactivated_at"]
    op.create_index("ix_account_deactivated", "account", columns, sqlite_where=closed, postgresql_where=closed)
    changing = sa.text("next_sealed_key IS NOT NULL")
    columns = ["authority", "next_attempt_at"]
    op.create_index("ix_account_changing", "account", columns, sqlite_where=changing, postgresql_where=changing)
    op.create_index("ix_account_thumbprint", "account", ["thumbprint"])
    following = sa.text("next_thumbprint IS NOT NULL")
    columns = ["next_thumbprint"]
    op.create_index(
        "ix_account_next_thumbprint", "account", columns, sqlite_where=following, postgresql_where=following
    )


def _rebuild_without_constraint() -> None:
    """SQLite cannot drop a constraint. Nothing refers to this table."""
    op.rename_table("account", "account_before")
    op.create_table(
        "account",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("directory_url", sa.Text(), nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.Column("jwk", sa.Text(), nullable=False),
        sa.Column("thumbprint", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("terms_url", sa.Text(), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sqlite_strict=True,
    )
    names = "id, authority, directory_url, sealed_key, jwk, thumbprint, url, terms_url, created_at"
    op.execute(f"INSERT INTO account ({names}) SELECT {names} FROM account_before")  # noqa: S608 -- constants
    op.drop_table("account_before")


def _certificates() -> None:
    """What there is so far signs and encrypts."""
    op.add_column("enrollment", sa.Column("usage", sa.Text(), nullable=False, server_default="dual"))
    op.add_column("enrollment", sa.Column("account_id", sa.Text(), nullable=True))
    op.add_column("certificate", sa.Column("usage", sa.Text(), nullable=False, server_default="dual"))
    op.add_column("mailbox_key", sa.Column("destroyed_at", INSTANT, nullable=True))
    op.create_index("ix_mailbox_key_spki", "mailbox_key", ["spki"])
    op.add_column("bulk_item", sa.Column("also_replaces_id", sa.Text(), nullable=True))
    one_purpose = sa.text("state = 'active' AND usage <> 'dual'")
    columns = ["address", "usage", "not_after"]
    op.create_index(
        "ix_enrollment_active_one_purpose",
        "enrollment",
        columns,
        sqlite_where=one_purpose,
        postgresql_where=one_purpose,
    )


def _unplaced() -> None:
    unplaced = sa.text("state IN ('planned', 'ordering') AND order_url IS NULL")
    columns = ["authority", "id"]
    op.create_index("ix_enrollment_unplaced", "enrollment", columns, sqlite_where=unplaced, postgresql_where=unplaced)


def _replies() -> None:
    op.add_column("challenge_mail", sa.Column("smime_signer", sa.Text(), nullable=True))
    op.add_column("outbox", sa.Column("departure", sa.Text(), nullable=True))
    op.add_column("outbox", sa.Column("departure_at", INSTANT, nullable=True))
    op.add_column("outbox", sa.Column("departure_words", sa.Text(), nullable=True))
    op.add_column("outbox", sa.Column("place", sa.Text(), nullable=True))
    op.add_column("outbox", sa.Column("followed_since", INSTANT, nullable=True))
    followed = sa.text("followed_since IS NOT NULL")
    op.create_index("ix_outbox_followed", "outbox", ["place"], sqlite_where=followed, postgresql_where=followed)


def _authorities() -> None:
    op.create_table(
        "authority_health",
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failed_at", INSTANT, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("open_since", INSTANT, nullable=True),
        sa.Column("probe_at", INSTANT, nullable=True),
        sa.Column("openings", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("authority", name=op.f("pk_authority_health")),
        sqlite_strict=True,
    )


def _deliveries() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("certificate_id", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("asked_at", INSTANT, nullable=False),
        sa.Column("next_attempt_at", INSTANT, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("done_at", INSTANT, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(
            ["certificate_id"],
            ["certificate.id"],
            name=op.f("fk_delivery_certificate_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("certificate_id", "target", name=op.f("uq_delivery_certificate_id_target")),
        sqlite_strict=True,
    )
    undone = sa.text("done_at IS NULL")
    op.create_index("ix_delivery_due", "delivery", ["next_attempt_at"], sqlite_where=undone, postgresql_where=undone)
    op.create_index(
        "ix_delivery_turn", "delivery", ["target", "next_attempt_at"], sqlite_where=undone, postgresql_where=undone
    )
    op.create_index("ix_delivery_address", "delivery", ["address"])
    op.create_index("ix_delivery_asked", "delivery", ["asked_at"])
    op.create_table(
        "passphrase",
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", INSTANT, nullable=False),
        sa.Column("shown_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("delivery_id", "format", name=op.f("pk_passphrase")),
        sqlite_strict=True,
    )
