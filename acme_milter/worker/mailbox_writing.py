# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing what has changed in a source into the store, in transactions that a challenge mail's commit can wait for."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.eventlog import Event
from acme_milter.mailboxes.sync import Difference
from acme_milter.store import audit, mailboxes
from acme_milter.store.database import Database
from acme_milter.store.mailboxes import AT_ONCE, StoredMailbox
from acme_milter.store.withdrawals import LEFT, REASSIGNED
from acme_milter.worker.leaving import part_with

RESPELLED_AT_ONCE = 10
"""Fewer than of others in one transaction: each is looked for in five tables."""

PARTED_AT_ONCE = 20
"""Of those whose time is over each may have certificates of years, and each of these is taken back from each target."""

_WHY_PARTED: Mapping[str | None, str] = {Event.MAILBOX_LEFT: LEFT, Event.MAILBOX_REASSIGNED: REASSIGNED}


def write_difference(database: Database, config: Config, applied: Difference, now: datetime) -> None:
    """Store it. A crash in between leaves the rest for the next look, which comes to the same difference.

    Whose time is over by it has everything taken back and revoked in the same transaction, where ``config`` says so:
    what is out of use already is nobody's to find later.
    """
    before = {after.folded: row for row, after in applied.moved}
    for part in _parts(applied.joined, AT_ONCE):
        with database.write() as connection:
            _insert(connection, part)
    for word, rows in _by_audit_word(applied).items():
        why = _WHY_PARTED.get(word)
        for part in _parts(rows, AT_ONCE if why is None else PARTED_AT_ONCE):
            with database.write() as connection:
                mailboxes.save(connection, part)
                for row in part if why is not None else ():
                    part_with(connection, config, before.get(row.folded, row), why or "", now)
                for row in part if word is not None else ():
                    audit.record(connection, word or "", at=now, address=row.address, details={"source": row.source})
    for start in range(0, len(applied.respelled), RESPELLED_AT_ONCE):
        with database.write() as connection:
            for old, new in applied.respelled[start : start + RESPELLED_AT_ONCE]:
                # An open order's challenge is recognized by the spelling that was ordered: then another time.
                if not mailboxes.has_open_enrollment(connection, old):
                    mailboxes.respell(connection, old, new)


def _by_audit_word(applied: Difference) -> dict[str | None, Sequence[StoredMailbox]]:
    """What is to be stored besides the new ones, by the word for the audit trail."""
    return {
        None: (*applied.changed, *applied.let_through),
        "mailbox-rejoined": applied.rejoined,
        "mailbox-returned": applied.returned,
        "mailbox-missing": applied.missing,
        Event.MAILBOX_LEFT: applied.left,
        Event.MAILBOX_REASSIGNED: tuple(after for _, after in applied.moved),
    }


def _parts(rows: Sequence[StoredMailbox], at_once: int) -> Iterator[Sequence[StoredMailbox]]:
    for start in range(0, len(rows), at_once):
        yield rows[start : start + at_once]


def _insert(connection: sa.Connection, rows: Sequence[StoredMailbox]) -> None:
    """Mailboxes that the table has not had. A certificate older than the table belongs to its address; whoever has
    that address now is taken for the one who ordered it, and goes on under that name.
    """
    holders = mailboxes.held_by(connection, [row.address for row in rows])
    mailboxes.save(
        connection,
        [
            dataclasses.replace(row, principal=row.address) if holders.get(row.address) == row.address else row
            for row in rows
        ],
    )
