# SPDX-License-Identifier: GPL-3.0-or-later
"""The pacer: how many planned enrollments each authority may see begin now (N8, T32).

Everything it says is counted from the store, so that it holds for all hosts and after any restart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Authority, Config
from acme_milter.enrollment.model import BACKGROUND_CAUSES, Cause, Enrollment
from acme_milter.mailboxes.aliases import replies_for
from acme_milter.store import accounts, budgets, pauses, queue
from acme_milter.store.pauses import Pause

Pace = Callable[[sa.Connection, str, datetime], int]
"""How many renewals and joiners an authority may see in any sixty minutes."""


@dataclass(frozen=True, slots=True)
class Room:
    """``places``: how many may begin now; ``background``: of them, how many that nobody waits for.

    Below nothing when more have begun than the limits of today allow. ``limited_by`` says what decides, in words.
    ``replies``: how many they may take together, None where no limit says so. ``untouched``: nothing begins or has
    begun within the hour, so that an order may begin that takes more replies than the limit.
    """

    places: int
    background: int
    limited_by: str
    replies: int | None = None
    untouched: bool = False


class Pacer:
    """Holds no state; ask it inside the transaction whose outcome hangs on the answer."""

    def __init__(
        self,
        config: Callable[[], Config],
        *,
        objection: Callable[[str], str | None],
        pace: Pace,
    ) -> None:
        """``objection``: what else forbids to begin anything with an authority, such as a wrong clock, in words."""
        self._config = config
        self._objection = objection
        self._pace = pace

    def rooms(self, connection: sa.Connection, now: datetime) -> dict[str, Room]:
        """The room of every configured authority."""
        paused = pauses.in_force(connection, now)
        beginning = budgets.beginning(connection, now)
        return {
            name: self._room(connection, name, authority, paused.get(name), beginning.get(name, {}), now)
            for name, authority in self._config().authorities.items()
        }

    def room(self, connection: sa.Connection, name: str, now: datetime) -> Room:
        """The room of one authority; none for one that is not configured."""
        authority = self._config().authorities.get(name)
        if authority is None:
            return Room(0, 0, "not configured")
        beginning = budgets.beginning(connection, now).get(name, {})
        return self._room(connection, name, authority, pauses.in_force(connection, now).get(name), beginning, now)

    def admits(self, connection: sa.Connection, name: str, cause: Cause, now: datetime) -> bool:
        """Whether an enrollment that was leased in this very transaction may really begin."""
        if name not in self._config().authorities:
            return True  # so that its step can say so, and end it
        budgets.take_turns(connection, name)
        room = self.room(connection, name, now)
        return room.places >= 0 and (cause not in BACKGROUND_CAUSES or room.background >= 0)

    @staticmethod
    def is_counted(enrollment: Enrollment, now: datetime) -> bool:
        """Whether its order has a place in the last sixty minutes already."""
        return enrollment.counted_at is not None and enrollment.counted_at > now - budgets.WINDOW

    def admits_again(self, connection: sa.Connection, enrollment: Enrollment, now: datetime) -> bool:
        """Whether an order that has come to nothing so far may be asked for once more.

        Within its own hour it has a place. After that it needs one as if it began: when an outage ends, all that were
        begun in it would otherwise be placed at once. A renewal, which has weeks left, lets newcomers pass.
        """
        name = enrollment.authority
        authority = self._config().authorities.get(name)
        if authority is None or self.is_counted(enrollment, now):
            return True
        budgets.take_turns(connection, name)
        if enrollment.cause is Cause.RENEWAL and queue.newcomer_first(
            connection, name, opened_at=enrollment.opened_at, now=now
        ):
            return False
        begun = budgets.begun(connection, name, now)
        beginning = budgets.beginning(connection, now).get(name, {})
        used, limits = sum(begun.values()) + sum(beginning.values()), authority.limits
        if limits.orders_per_hour is not None and used >= limits.orders_per_hour:
            return False
        if limits.mails_per_hour is not None and used:
            left = limits.mails_per_hour - self._replies(connection, name, now)
            if left < 1 + len(enrollment.aliases):
                return False
        return (
            enrollment.cause not in BACKGROUND_CAUSES or self._background(connection, name, begun, beginning, now) > 0
        )

    def _room(
        self,
        connection: sa.Connection,
        name: str,
        authority: Authority,
        pause: Pause | None,
        beginning: Mapping[Cause, int],
        now: datetime,
    ) -> Room:
        limits = authority.limits
        begun = budgets.begun(connection, name, now)
        soon = sum(beginning.values())
        used, replies = sum(begun.values()) + soon, None
        left = {f"in_flight {limits.in_flight}": limits.in_flight - budgets.moving(connection, name) - soon}
        if limits.orders_per_hour is not None:
            left[f"orders_per_hour {limits.orders_per_hour}"] = limits.orders_per_hour - used
        if limits.mails_per_hour is not None:
            replies = limits.mails_per_hour - self._replies(connection, name, now)
            # One that takes more than an hour allows begins alone, or it never would.
            left[f"mails_per_hour {limits.mails_per_hour}"] = max(replies, 0) if used == soon == 1 else replies
        why, places = min(left.items(), key=lambda item: item[1])
        forbidden = f"paused: {pause.reason}" if pause is not None else self._objection(name)
        if forbidden is None and _everybody_waits_for_a_key(connection, name, authority):
            forbidden = "an account's key is being exchanged"
        if forbidden is not None:
            # What was leased before the pause has not begun, and does not any more.
            why, places = forbidden, -soon if soon else 0
        background = min(places, self._background(connection, name, begun, beginning, now))
        return Room(places, background, why, replies, untouched=not used)

    def _replies(self, connection: sa.Connection, name: str, now: datetime) -> int:
        """What the orders of the last sixty minutes take, and those that begin now, as the configuration has it."""
        soon = budgets.beginning_addresses(connection, name, now)
        config = self._config()
        return budgets.replies(connection, name, now) + sum(replies_for(config, one, name) for one in soon)

    def _background(
        self,
        connection: sa.Connection,
        name: str,
        begun: Mapping[Cause, int],
        beginning: Mapping[Cause, int],
        now: datetime,
    ) -> int:
        used = sum(begun.get(cause, 0) + beginning.get(cause, 0) for cause in BACKGROUND_CAUSES)
        return self._pace(connection, name, now) - used


def _everybody_waits_for_a_key(connection: sa.Connection, name: str, authority: Authority) -> bool:
    """Where mailboxes have accounts of their own, one that waits for its key is held back by itself, in its step."""
    if authority.account != "shared":
        return False
    shared = accounts.find(connection, name, authority.directory)
    return shared is not None and shared.is_changing
