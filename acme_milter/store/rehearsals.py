# SPDX-License-Identifier: GPL-3.0-or-later
"""The condition of a query that leaves rehearsals out: what was ordered at a staging service counts for nothing."""

import sqlalchemy as sa

from acme_milter.enrollment.staging import SUFFIX


def in_earnest(authority: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether the authority named in this column is none for trials: `enrollment.staging.is_staging`, in SQL."""
    return ~authority.endswith(SUFFIX, autoescape=True)
