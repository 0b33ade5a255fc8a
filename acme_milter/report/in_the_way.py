# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps orders waiting outside of us: replies that the other side puts off, CAA records that forbid, an
authority that does not take an account's next key.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.enrollment.lost_account import remedy_in
from acme_milter.report.key_exchange import try_at_once
from acme_milter.report.rows import Row, counted
from acme_milter.store import accounts, departures, queue

LATE = timedelta(minutes=15)
"""Greylisting is over by then: a reply that still waits is worth a look."""

BROKEN = timedelta(hours=1)
"""What is broken for so long needs a person, whatever it is."""

MOST = 20
CAA = "CAA of "
"""How such an enrollment's last_error begins."""


def replies(connection: sa.Connection, now: datetime) -> Row:
    """Replies that Postfix has and the other side has not: those it tries again, and those it gave up today (UTC)."""
    late = departures.deferred(connection)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return {
        "deferred": 0 if late is None else late.number,
        "oldest_since": None if late is None else late.since.isoformat(),
        "words": None if late is None else late.words,
        "bounced_today": departures.bounced_since(connection, midnight),
    }


def forbidden(connection: sa.Connection, authorities: Sequence[str]) -> list[Row]:
    """What CAA records have to do with orders that are not placed, each once, with the number of mailboxes."""
    found = queue.planned_errors(connection, authorities, CAA, MOST)
    return [{"text": text, "mailboxes": number} for text, number in found]


def needs(connection: sa.Connection, document: Mapping[str, object], now: datetime) -> Iterator[tuple[str, str, str]]:
    """Of these, what goes no further without a person: kind, text and what to run."""
    late = departures.deferred(connection)
    if late is not None and now - late.since > LATE:
        minutes = int((now - late.since).total_seconds() // 60)
        waiting = f"{late.number} replies wait in Postfix's queue, the oldest"
        if late.number == 1:
            waiting = "1 reply waits in Postfix's queue,"
        yield "reply", f"{waiting} for {minutes} minutes: {late.words}", "postqueue -p"
    rows = document["caa"]
    assert isinstance(rows, list)
    for row in rows:
        yield (
            "caa",
            f"{row['text']} ({counted(row['mailboxes'], 'mailbox waits', 'mailboxes wait')})",
            "acme-milter check --online",
        )
    yield from _lost_accounts(document, now)
    for account in accounts.exchanges_that_fail(connection, MOST):
        where = f"{account.authority} for {account.scope}" if account.scope else account.authority
        text = f"nothing begins with {where} before its account's next key is in use: {account.last_error}"
        yield "account", text, try_at_once(account)


def _lost_accounts(document: Mapping[str, object], now: datetime) -> Iterator[tuple[str, str, str]]:
    """Authorities that have lost our account, in the hour before `status` tells of them as of any broken one."""
    rows = document["authorities"]
    assert isinstance(rows, list)
    for row in rows:
        health = row["health"]
        remedy, since = remedy_in(health["last_error"]), health["since"]
        if remedy is not None and (since is None or datetime.fromisoformat(since) > now - BROKEN):
            yield "account", health["last_error"], remedy
