# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for one mailbox, one delivery or one page reads no more of the store than that."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from acme_milter.store import accounts, certificates, challenge_mails, deliveries, departures, movable
from acme_milter.store.database import Database

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
PlansOf = Callable[[Callable[[sa.Connection], object]], list[list[str]]]


@pytest.fixture
def plans_of(sqlite: Database) -> Iterator[PlansOf]:
    """The steps of SQLite's plan for each query that a function asks."""
    with sqlite.read() as connection:

        def plans(ask: Callable[[sa.Connection], object]) -> list[list[str]]:
            asked: list[tuple[str, object]] = []

            def note(_connection: object, _cursor: object, text: str, values: object, *_: object) -> None:
                if text.startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
                    asked.append((text, values))

            sa.event.listen(connection, "before_cursor_execute", note)
            ask(connection)
            sa.event.remove(connection, "before_cursor_execute", note)
            return [
                [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)]  # type: ignore[arg-type]  # as asked
                for text, values in asked
            ]

        yield plans


def whole_tables(steps: list[str]) -> list[str]:
    return [step for step in steps if step.startswith("SCAN")]


@pytest.mark.parametrize("ask", [deliveries.in_use, certificates.in_use, certificates.current])
def test_what_somebody_has_in_use_is_found_by_whose_it_is(
    plans_of: PlansOf, ask: Callable[[sa.Connection, str, str], object]
) -> None:
    (steps,) = plans_of(lambda connection: ask(connection, "alice@org.example", "alice"))
    assert whole_tables(steps) == []
    assert any("SEARCH certificate USING INDEX ix_certificate_" in step for step in steps), steps
    assert any("enrollment USING INDEX sqlite_autoindex_enrollment" in step for step in steps), steps


def test_whether_a_key_is_an_accounts_is_looked_up_by_its_thumbprint(plans_of: PlansOf) -> None:
    (steps,) = plans_of(lambda connection: accounts.has_key(connection, "t"))
    assert whole_tables(steps) == []
    assert {"ix_account_thumbprint", "ix_account_next_thumbprint"} <= {word for step in steps for word in step.split()}


def test_a_page_of_what_can_be_moved_is_read_in_its_order(plans_of: PlansOf) -> None:
    """Sorting all that is planned for each page of a hundred is a square of it."""
    (steps,) = plans_of(lambda connection: movable.page(connection, "ca", after="a", now=NOW, limit=100))
    assert steps == ["SEARCH enrollment USING INDEX ix_enrollment_unplaced (authority=? AND id>?)"]


def test_the_account_that_was_closed_last_is_found_by_its_scope(plans_of: PlansOf) -> None:
    (steps,) = plans_of(
        lambda connection: accounts.latest_deactivated(connection, "ca", "https://ca.example/", "a@org.example")
    )
    assert len(steps) == 1, steps
    assert "USING INDEX ix_account_deactivated (authority=? AND directory_url=? AND scope=?" in steps[0]


@pytest.mark.parametrize("ask", [departures.deferred, departures.forget_ended])
def test_of_all_that_was_ever_sent_only_what_is_followed_is_looked_at(
    plans_of: PlansOf, ask: Callable[[sa.Connection], object]
) -> None:
    (steps,) = plans_of(ask)
    assert whole_tables(steps) == ["SCAN outbox USING INDEX ix_outbox_followed"]
    assert any("enrollment USING INDEX sqlite_autoindex_enrollment" in step for step in steps), steps


def test_whether_a_token_was_answered_before_is_looked_up_by_it(plans_of: PlansOf) -> None:
    (steps,) = plans_of(lambda connection: challenge_mails.was_answered_for_another(connection, b"digest", "e1"))
    assert len(steps) == 1, steps
    assert "INDEX ix_challenge_mail_token (token_digest=?" in steps[0]
