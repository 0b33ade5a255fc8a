# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliveries as lines of a mailbox's timeline."""

from collections.abc import Callable, Iterator
from datetime import datetime

import sqlalchemy as sa

from acme_milter.eventlog import Event
from acme_milter.report.rows import Row
from acme_milter.store import deliveries, delivery_lists
from acme_milter.store.deliveries import DeliveryState

TOLD_BY_DELIVERIES = frozenset({Event.DELIVERY_ASKED, Event.DELIVERY_BEGUN, Event.DELIVERY_DONE})
"""What the audit trail notes, and these lines tell better."""

NEWEST = 50


def delivery_entries(
    connection: sa.Connection, address: str, now: datetime, entry: Callable[..., Row]
) -> Iterator[Row]:
    """The newest ones; ``entry`` makes a line of a time, a word and a text."""
    rows = deliveries.of_mailbox(connection, address)[-NEWEST:]
    serials = delivery_lists.serials(connection, [one.certificate_id for one in rows])
    for one in rows:
        what, again = f"{serials[one.certificate_id]} to {one.target}", one.next_attempt_at
        if one.done_at is not None and one.state is DeliveryState.DONE:
            yield entry(one.done_at, "delivery-done", f"delivered {what}: {one.outcome}")
        elif one.done_at is not None:
            yield entry(one.done_at, "delivery-ended", f"not delivered {what}: {one.last_error}")
        elif again is None:
            text = f"delivery of {what} failed, and waits for a person: {one.last_error}"
            yield entry(one.asked_at, "delivery-failed", text)
        elif one.last_error is not None:
            yield entry(
                again, "delivery-again", f"next delivery of {what}, after: {one.last_error}", planned=again > now
            )
        else:
            yield entry(again, "delivery-waiting", f"delivery of {what}", planned=True)
