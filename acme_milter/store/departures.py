# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on replies that Postfix has taken: which of them are followed, and what became of each."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import CHALLENGED_STATES, State
from acme_milter.store.schema import enrollment, outbox


class Departure(enum.StrEnum):
    """What became of a reply after Postfix had taken it; None in a row: nobody has found out anything yet."""

    SENT = "sent"  # the other side took it
    GONE = "gone"  # it is not in the queue any more; a queue does not tell whether it was sent or bounced
    DEFERRED = "deferred"  # the other side, or the way to it, is not ready: Postfix tries again
    BOUNCED = "bounced"  # Postfix has given it up
    UNKNOWN = "unknown"  # and nothing more will be found out


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A reply on its way. ``state`` is its enrollment's; ``departure`` None or deferred."""

    id: str
    enrollment_id: str
    address: str
    authority: str
    state: State
    envelope_sender: str
    envelope_recipient: str
    message_id: str
    queue_id: str | None
    sent_at: datetime
    departure: Departure | None
    departure_words: str | None
    departure_at: datetime | None = None
    """Of one that is deferred: when it was last seen so, within some minutes."""


_IS_FOLLOWED = sa.text("followed_since IS NOT NULL")  # the words of the partial index ix_outbox_followed
_WAITED_FOR = sorted(state.value for state in CHALLENGED_STATES)
_FOLLOWED = (
    sa.select(
        outbox.c.id,
        outbox.c.enrollment_id,
        enrollment.c.address,
        enrollment.c.authority,
        enrollment.c.state,
        outbox.c.envelope_sender,
        outbox.c.envelope_recipient,
        outbox.c.message_id,
        outbox.c.queue_id,
        outbox.c.sent_at,
        outbox.c.departure,
        outbox.c.departure_words,
        outbox.c.departure_at,
    )
    .select_from(outbox.join(enrollment, enrollment.c.id == outbox.c.enrollment_id))
    .where(_IS_FOLLOWED, outbox.c.place == sa.bindparam("place"))
)


def followed(connection: sa.Connection, place: str) -> list[Followed]:
    """The replies that the worker at ``place`` has handed over and still follows."""
    found = []
    for row in connection.execute(_FOLLOWED, {"place": place}):
        values = row._asdict()
        values["state"] = State(values["state"])
        values["departure"] = None if values["departure"] is None else Departure(values["departure"])
        found.append(Followed(**values))
    return found


def note(
    connection: sa.Connection, entry_id: str, *, departure: Departure, at: datetime, words: str | None, on: bool
) -> bool:
    """Write what was found out; ``on``: there is more to come. False when it was not followed any more."""
    values: dict[str, object] = {"departure": departure.value, "departure_at": at, "departure_words": words}
    if not on:
        values["followed_since"] = None
    written = connection.execute(
        outbox.update().where(outbox.c.id == entry_id, outbox.c.followed_since.is_not(None)).values(values)
    )
    return written.rowcount == 1


def forget(connection: sa.Connection, entry_ids: Sequence[str]) -> None:
    """Nobody needs to know any more: their orders are over."""
    connection.execute(outbox.update().where(outbox.c.id.in_(entry_ids)).values(followed_since=None))


def forget_ended(connection: sa.Connection) -> int:
    """Follow no reply any more whose order is over, whichever host handed it over: that one may never come back.

    Returns how many those were.
    """
    waited_for = sa.exists().where(enrollment.c.id == outbox.c.enrollment_id, enrollment.c.state.in_(_WAITED_FOR))
    return connection.execute(outbox.update().where(_IS_FOLLOWED, ~waited_for).values(followed_since=None)).rowcount


@dataclass(frozen=True, slots=True)
class Held:
    """Replies that Postfix keeps on trying: how many, since when the oldest, and what the other side says of it."""

    number: int
    since: datetime
    words: str | None


def deferred(connection: sa.Connection) -> Held | None:
    """All whose orders still wait for them, of every host, also one that is gone; None when there are none."""
    # Not ordered by the database: it would walk through all that was ever sent, in that order.
    query = (
        sa.select(outbox.c.sent_at, outbox.c.departure_words)
        .select_from(outbox.join(enrollment, enrollment.c.id == outbox.c.enrollment_id))
        .where(_IS_FOLLOWED, outbox.c.departure == Departure.DEFERRED.value, enrollment.c.state.in_(_WAITED_FOR))
    )
    rows = sorted(connection.execute(query), key=lambda row: row.sent_at)
    return Held(len(rows), rows[0].sent_at, rows[0].departure_words) if rows else None


def bounced_since(connection: sa.Connection, since: datetime) -> int:
    """How many of the replies handed over since then have bounced."""
    query = sa.select(sa.func.count()).where(outbox.c.sent_at >= since, outbox.c.departure == Departure.BOUNCED.value)
    return connection.execute(query).scalar_one()
