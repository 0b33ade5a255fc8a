# SPDX-License-Identifier: GPL-3.0-or-later
"""What was delivered is taken back; a token is known again, whichever order it was answered for."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

INSTANT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _withdrawals()
    op.create_index("ix_challenge_mail_token", "challenge_mail", ["token_digest"])


def _withdrawals() -> None:
    """What is undone may have begun: until now nobody wrote that down, and one time too many harms nobody."""
    op.add_column("delivery", sa.Column("withdraw_why", sa.Text(), nullable=True))
    op.add_column("delivery", sa.Column("begun_at", INSTANT, nullable=True))
    op.add_column("delivery", sa.Column("delivered_at", INSTANT, nullable=True))
    op.add_column("delivery", sa.Column("location", sa.Text(), nullable=True))
    op.execute("UPDATE delivery SET begun_at = done_at, delivered_at = done_at WHERE outcome IS NOT NULL")
    op.execute("UPDATE delivery SET begun_at = asked_at WHERE done_at IS NULL")
