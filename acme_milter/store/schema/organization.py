# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose mailboxes there are, and what a guard has stopped."""

import sqlalchemy as sa

from acme_milter.store.schema.columns import instant, integer, metadata, text

mailbox = sa.Table(
    "mailbox",  # what the sources have said, so that a change can be told from a fault
    metadata,
    text("address", primary_key=True),
    sa.Column("folded", sa.Text, nullable=False, unique=True),  # lower case: what comparisons go by
    text("domain"),
    text("source"),
    text("principal"),  # whose keys: the source's id for the person, or the address where it has none
    text("person_id", nullable=True),  # what the source calls the person now; the principal may be older than that
    text("person_name", nullable=True),
    text("groups"),  # JSON list
    text("came_as"),  # mailboxes.record.CameAs: there from the first day on, or joined later
    instant("first_seen_at"),
    instant("missing_since", nullable=True),
    instant("left_at", nullable=True),
    instant("handed_over_at", nullable=True),  # when it became another person's the last time
    sa.Column("aliases", sa.Text, nullable=False, server_default="[]"),  # JSON list, where the policy wants any
    text("alias_of", nullable=True),  # the mailbox whose alias it is, with certificates of its own
    sqlite_strict=True,
)
sa.Index("ix_mailbox_domain", mailbox.c.domain)
sa.Index("ix_mailbox_came", mailbox.c.came_as, mailbox.c.first_seen_at)
sa.Index("ix_mailbox_missing", mailbox.c.missing_since)

source_run = sa.Table(
    "source_run",  # how reading each source went the last time
    metadata,
    text("source", primary_key=True),
    instant("attempted_at"),
    instant("succeeded_at", nullable=True),
    integer("number"),  # of mailboxes, at the last success
    text("error", nullable=True),
    instant("changed_at", nullable=True),  # of a mailbox, by this source: other hosts then look what is new
    text("excluded"),  # JSON: what it lists and nobody manages, by domain and reason, at the last success
    sqlite_strict=True,
)

hold = sa.Table(
    "hold",  # a guard stopped something and asks; it goes on when a person releases it, once
    metadata,
    text("name", primary_key=True),
    instant("since"),
    text("reason"),
    integer("size"),  # how many it is about: a release lets that many through, not any number
    instant("released_at", nullable=True),
    sqlite_strict=True,
)
