# SPDX-License-Identifier: GPL-3.0-or-later
"""A store as an organization of any size has it after years, written without ordering anything."""

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from acme_milter.enrollment.model import Cause, State
from acme_milter.enrollment.renewal import day_of
from acme_milter.store.database import Database
from acme_milter.store.schema import certificate, enrollment, mailbox, mailbox_key, renewal, renewal_day

ROWS = 1000
"""Mailboxes written in one transaction."""

LIFETIME = timedelta(days=365)
CHAIN = b"-----BEGIN CERTIFICATE-----\n" + b"A" * 3000 + b"\n-----END CERTIFICATE-----\n"
"""No certificate, but as long as one with its issuer."""


def fill(
    database: Database,
    *,
    mailboxes: int,
    certificates: int | None = None,
    now: datetime,
    domains: Sequence[str] = ("org.example",),
    source: str = "staff",
    authority: str = "ca",
) -> None:
    """Write ``mailboxes`` rows of ``source``, user0 of the first domain, user1 of the second and so on, and an active
    certificate for the first ``certificates`` of them (default: all), issued over the year before ``now``. Their
    renewals are planned level over the coming year, and none is due yet.
    """
    issued = mailboxes if certificates is None else certificates
    for start in range(0, mailboxes, ROWS):
        numbers = range(start, min(start + ROWS, mailboxes))
        with database.write() as connection:
            _insert(connection, mailbox, (_mailbox(number, now, domains, source) for number in numbers))
            made = [
                _issued(number, mailboxes, now, domains, source, authority) for number in numbers if number < issued
            ]
            for table in (mailbox_key, enrollment, certificate, renewal):
                _insert(connection, table, (rows[table.name] for rows in made))
            for day, planned in Counter(rows["renewal"]["day"] for rows in made).items():
                _count(connection, authority, day, planned)


def address_of(number: int, domains: Sequence[str]) -> str:
    """The address of mailbox ``number`` of an organization with these domains."""
    return f"user{number}@{domains[number % len(domains)]}"


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterator[Mapping[str, object]]) -> None:
    values = [dict(row) for row in rows]
    if values:
        connection.execute(table.insert(), values)


def _count(connection: sa.Connection, authority: str, day: int, planned: int) -> None:
    this = (renewal_day.c.authority == authority, renewal_day.c.day == day)
    changed = connection.execute(renewal_day.update().where(*this).values(planned=renewal_day.c.planned + planned))
    if changed.rowcount == 0:
        connection.execute(renewal_day.insert().values(authority=authority, day=day, planned=planned))


def _mailbox(number: int, now: datetime, domains: Sequence[str], source: str) -> dict[str, Any]:
    address = address_of(number, domains)
    return {
        "address": address,
        "folded": address.lower(),
        "domain": address.rpartition("@")[2],
        "source": source,
        "principal": f"{source}:{number}",
        "person_id": str(number),
        "person_name": None,
        "groups": json.dumps([]),
        "came_as": "import",
        "first_seen_at": now - LIFETIME,
        "missing_since": None,
        "left_at": None,
    }


def _issued(
    number: int, of: int, now: datetime, domains: Sequence[str], source: str, authority: str
) -> dict[str, dict[str, Any]]:
    """The rows of one issued certificate, by table."""
    ids = {name: uuid.UUID(int=number << 8 | place).hex for place, name in enumerate(("key", "enrollment", "cert"))}
    address, principal = address_of(number, domains), f"{source}:{number}"
    began = now - LIFETIME * ((number + 1) / (of + 1))
    done = began + timedelta(seconds=30)
    return {
        "mailbox_key": {
            "id": ids["key"],
            "principal": principal,
            "algorithm": "p256",
            "sealed_key": bytes(200),
            "spki": bytes(91),
            "csr": bytes(250),
            "created_at": began,
        },
        "enrollment": {
            "id": ids["enrollment"],
            "address": address,
            "principal": principal,
            "authority": authority,
            "cause": Cause.BULK.value,
            "state": State.ACTIVE.value,
            "version": 12,
            "generation": 1,
            "opened_at": began,
            "state_since": done,
            "next_attempt_at": None,
            "attempts": 0,
            "key_id": ids["key"],
            "began_ordering_at": began,
            "certificate_id": ids["cert"],
            "not_after": began + LIFETIME,
        },
        "certificate": {
            "id": ids["cert"],
            "enrollment_id": ids["enrollment"],
            "address": address,
            "principal": principal,
            "authority": authority,
            "key_id": ids["key"],
            "serial": f"{number + 1:x}",
            "issuer": "CN=Bench CA",
            "not_before": began,
            "not_after": began + LIFETIME,
            "chain_pem": CHAIN,
            "stored_at": done,
        },
        "renewal": {
            "certificate_id": ids["cert"],
            "authority": authority,
            "address": address,
            "due_at": began + LIFETIME,
            "day": day_of(began + LIFETIME),
            "urgent_at": began + LIFETIME,
        },
    }
