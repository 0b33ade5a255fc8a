# SPDX-License-Identifier: GPL-3.0-or-later
"""Alembic runs this; the connection is the caller's (store.database), inside his transaction."""

from alembic import context

from acme_milter.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter most things in place
)
with context.begin_transaction():
    context.run_migrations()
