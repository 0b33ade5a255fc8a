# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliveries as lines of a mailbox's timeline."""

from collections.abc import Callable, Iterator
from datetime import datetime

import sqlalchemy as sa

from acme_milter.eventlog import Event
from acme_milter.report.rows import Row
from acme_milter.store import deliveries, delivery_lists
from acme_milter.store.deliveries import Delivery, DeliveryState

TOLD_BY_DELIVERIES = frozenset(
    {Event.DELIVERY_ASKED, Event.DELIVERY_BEGUN, Event.DELIVERY_DONE, Event.DELIVERY_WITHDRAWN, Event.WITHDRAWAL_ASKED}
)
"""What the audit trail notes, and these lines tell better."""

NEWEST = 50


def delivery_entries(
    connection: sa.Connection, address: str, now: datetime, entry: Callable[..., Row]
) -> Iterator[Row]:
    """The newest ones; ``entry`` makes a line of a time, a word and a text."""
    rows = deliveries.of_mailbox(connection, address)[-NEWEST:]
    serials = delivery_lists.serials(connection, [one.certificate_id for one in rows])
    for one in rows:
        serial, again = serials[one.certificate_id], one.next_attempt_at
        what = f"{serial} to {one.target}"
        if one.withdraw_why is not None:
            yield from _taken_back(one, serial, now, entry)
        elif one.done_at is not None and one.state is DeliveryState.DONE:
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


def _taken_back(one: Delivery, serial: str, now: datetime, entry: Callable[..., Row]) -> Iterator[Row]:
    what, again, why = f"{serial} from {one.target}", one.next_attempt_at, one.withdraw_why
    if one.delivered_at is not None:
        there = f": {one.outcome}" if one.outcome and one.done_at is None else ""
        yield entry(one.delivered_at, "delivery-done", f"delivered {serial} to {one.target}{there}")
    yield entry(one.asked_at, "withdrawal-asked", f"{what} to be taken back: {why}")
    if one.done_at is not None:
        yield entry(one.done_at, "delivery-withdrawn", f"taken back {what}: {one.outcome}")
    elif again is None:
        text = f"taking back {what} failed, and waits for a person: {one.last_error}"
        yield entry(one.asked_at, "withdrawal-failed", text)
    elif one.last_error is not None:
        text = f"next attempt to take back {what}, after: {one.last_error}"
        yield entry(again, "withdrawal-again", text, planned=again > now)
