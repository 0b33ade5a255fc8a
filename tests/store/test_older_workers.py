# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker writes that knows nothing of taking back, beside one that does, as long as an upgrade takes."""

from typing import Any

import pytest
import sqlalchemy as sa

from acme_milter.store import deliveries, withdrawals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.deliveries import DeliveryState
from acme_milter.store.schema import delivery
from tests.store.test_deliveries import NOW, SOON, ask, certificate
from tests.store.test_withdrawals import LATER, bring, row, take_back

BRINGS = {"done_at": SOON, "outcome": "there", "next_attempt_at": None, "last_error": None}
ENDS = {**BRINGS, "outcome": None, "last_error": "the mailbox has left"}


def older(connection: sa.Connection, stored: StoredCertificate, values: dict[str, Any]) -> None:
    """The one to `hook`, written by such a worker."""
    one = row(connection, stored)
    connection.execute(delivery.update().where(delivery.c.id == one.id).values(**values))


def test_what_it_has_brought_may_be_there_and_took_the_place_of_what_was(database: Database) -> None:
    with database.write() as connection:
        before, after = certificate(connection), certificate(connection, at=SOON)
        for one in (before, after):
            ask(connection, one)
        bring(connection)
        older(connection, after, BRINGS)
        withdrawals.take_over(connection, LATER)
        assert row(connection, after).delivered_at == SOON
        assert withdrawals.is_replaced(connection, row(connection, before).id)
        assert take_back(connection, after) == ["hook", "webmail"]
        assert row(connection, after).state is DeliveryState.WAITING


def test_what_it_has_tried_may_be_there_and_what_nobody_tried_is_not(database: Database) -> None:
    with database.write() as connection:
        stored = certificate(connection)
        ask(connection, stored)
        older(connection, stored, {"attempts": 1, "last_error": "away"})
        withdrawals.take_over(connection, LATER)
        assert [row(connection, stored, title).begun_at for title in ("hook", "webmail")] == [NOW, None]


@pytest.mark.parametrize("said", [BRINGS, ENDS])
def test_what_it_took_for_something_to_bring_is_to_go_still(database: Database, said: dict[str, Any]) -> None:
    with database.write() as connection:
        stored = certificate(connection)
        ask(connection, stored)
        bring(connection)
        take_back(connection, stored)
        older(connection, stored, said)
        withdrawals.take_over(connection, LATER)
        assert (row(connection, stored).state, row(connection, stored).next_attempt_at) == (
            DeliveryState.WAITING,
            LATER,
        )


def test_what_workers_of_now_have_written_stays_as_it_is(database: Database) -> None:
    with database.write() as connection:
        there, gone, waits = certificate(connection), certificate(connection), certificate(connection)
        for one in (there, gone):
            ask(connection, one)
            bring(connection)
        take_back(connection, gone)
        withdrawals.settle(connection, row(connection, gone).id, "removed", SOON)
        ask(connection, waits)
        before = [deliveries.of_certificate(connection, one.id) for one in (there, gone, waits)]
        withdrawals.take_over(connection, LATER)
        assert [deliveries.of_certificate(connection, one.id) for one in (there, gone, waits)] == before
