# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows that a clock that was ahead has dated, in both kinds of database."""

from datetime import timedelta

from acme_milter.store import accounts, dated_ahead, deliveries, revocations
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.database import Database
from acme_milter.store.deliveries import DeliveryState
from tests.store.test_deliveries import NOW, SOON, certificate

LATER = NOW + timedelta(days=300)


def test_deliveries_that_wait_or_are_leased_are_due_and_what_was_given_up_stays_so(database: Database) -> None:
    with database.write() as connection:
        boxes = [certificate(connection, f"box{number}@org.example") for number in range(4)]
        for stored in boxes:
            deliveries.ask(connection, stored.id, stored.address, {"hook": "hook"}, NOW)
        for number, until in enumerate([SOON, SOON, LATER, SOON]):
            one = deliveries.claim(connection, "hook", owner=f"w#1.{number}", now=NOW, until=until)
            assert one is not None
            if number < 2:
                again = LATER if number == 0 else None
                assert deliveries.failed(connection, one.id, "no", again, owner=f"w#1.{number}")
        assert dated_ahead.deliveries(connection, "ca", NOW, SOON, 10) == 2
        assert dated_ahead.deliveries(connection, "ca", NOW, SOON, 10) == 0
        states = [one.state for stored in boxes for one in deliveries.of_certificate(connection, stored.id)]
        wanted = [DeliveryState.FAILED, DeliveryState.RETRYING, DeliveryState.WAITING, DeliveryState.WAITING]
        assert sorted(states) == wanted
        for number in range(2):
            assert deliveries.claim(connection, "hook", owner=f"w#2.{number}", now=NOW, until=SOON) is not None
        assert deliveries.claim(connection, "hook", owner="w#2.2", now=NOW, until=SOON) is None, "a lease that is right"


def test_exchanges_and_revocations_of_that_authority_are_due(database: Database) -> None:
    with database.write() as connection:
        for name in ("ca", "other"):
            account = StoredAccount(
                id=name, authority=name, directory_url="https://ca.example/d", sealed_key=b"", jwk="{}",
                thumbprint=name, url=f"https://ca.example/{name}", terms_url=None, created_at=NOW,
            )  # fmt: skip
            accounts.insert(connection, account)
            accounts.begin_exchange(connection, name, sealed_key=b"", jwk="{}", thumbprint="next", at=LATER)
            stored = certificate(connection, f"{name}@org.example", authority=name)
            revocations.ask(connection, stored, 1, LATER, by="test")
        for call_back in (dated_ahead.exchanges, dated_ahead.revocations):
            assert [call_back(connection, "ca", NOW, SOON, 10) for _ in range(2)] == [1, 0]
        assert accounts.exchanges_due(connection, NOW, 10) == ["ca"]
        assert revocations.authorities_due(connection, NOW) == ["ca"]
