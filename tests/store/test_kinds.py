# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on certificates for one use each, on every kind of store."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.store import bulk_items, holders, imports, mailbox_keys, overview, plan_facts, revocations, tallies
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
DUAL, SIGN, ENCRYPT = KeyUsageKind.DUAL, KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT
MAILBOXES = {
    "single@org.example": (DUAL,),
    "both@org.example": (SIGN, ENCRYPT),
    "signs@org.example": (SIGN,),
    "reads@org.example": (ENCRYPT,),
    "moving@org.example": (DUAL, SIGN),
}


def give(connection: sa.Connection, address: str, usage: KeyUsageKind, days: int) -> str:
    """A key and an active certificate; the key's id."""
    name = f"{address}.{usage}"
    key = StoredMailboxKey(
        id=name, principal=address, algorithm="p256", sealed_key=b"sealed" * 20, spki=name.encode(), csr=b"csr",
        created_at=NOW,
    )  # fmt: skip
    imports.insert(
        connection, key, address=address, serial=name, issuer="CN=ca", not_before=NOW,
        not_after=NOW + timedelta(days=days), chain_pem=b"pem", in_use=True, now=NOW, usage=usage,
    )  # fmt: skip
    return name


@pytest.fixture
def filled(database: Database) -> Database:
    with database.write() as connection:
        for address, usages in MAILBOXES.items():
            for place, usage in enumerate(usages):
                give(connection, address, usage, 10 - place)
    return database


def test_who_can_sign_and_be_written_to_is_counted_and_nobody_else(filled: Database) -> None:
    whole = {"single@org.example", "both@org.example", "moving@org.example"}
    with filled.read() as connection:
        assert tallies.with_certificate(connection, NOW) == whole
        found = plan_facts.certified(connection, NOW)
    assert set(found.covered) == whole
    partly = {address: usages for (address, _), usages in found.partly.items() if address not in whole}
    assert partly == {"signs@org.example": {SIGN}, "reads@org.example": {ENCRYPT}}


def test_of_two_the_one_that_ends_first_says_until_when(filled: Database) -> None:
    with filled.read() as connection:
        ends = holders.ends(connection, NOW)
        soon = {one.address for one in holders.expiring(connection, NOW, NOW + timedelta(days=9))}
    assert ends["both@org.example"].not_after == NOW + timedelta(days=9)
    assert ends["moving@org.example"].not_after == NOW + timedelta(days=10)
    assert soon == {"both@org.example", "moving@org.example"}


def test_the_rest_of_what_kinds_and_custody_ask_is_understood(filled: Database) -> None:
    key_id = "both@org.example.sign"
    with filled.write() as connection:
        assert [key.id for key in mailbox_keys.with_public_key(connection, key_id.encode())] == [key_id]
        assert not revocations.is_compromised(connection, key_id)
        assert bulk_items.also_replaced(connection, "run-1", "both@org.example") is None
        assert overview.after(connection, overview.latest_of_each_mailbox(connection)) == []
        assert mailbox_keys.destroy(connection, key_id, NOW)
        assert not mailbox_keys.destroy(connection, key_id, NOW)
        assert mailbox_keys.get(connection, key_id).sealed_key == b""
