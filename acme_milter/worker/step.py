# SPDX-License-Identifier: GPL-3.0-or-later
"""What a step comes to, and when an order is over."""

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from acme_milter.acme.order import Order
from acme_milter.acme.problem import ErrorType, Problem
from acme_milter.enrollment.state_machine import Event


def _nothing(_connection: sa.Connection) -> None:
    pass


def _rest() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Step:
    """What a step came to: the event to advance by, and rows that belong into the same transaction."""

    event: Event
    also: Callable[[sa.Connection], None] = _nothing
    afterwards: Callable[[], None] = _rest
    """Called once all of that is committed; must not raise."""


class OrderDied(Exception):
    """The order cannot lead to a certificate any more. ``again``: another one, later, might."""

    def __init__(self, text: str, *, again: bool) -> None:
        super().__init__(text)
        self.again = again


def words_of(problem: Problem | None) -> str:
    """The authority's own words, where it had any."""
    return "" if problem is None else f": {problem}"


def is_hopeless(problem: Problem | None) -> bool:
    """Whether the next order would meet the same problem until a person has changed something.

    ``unauthorized`` on a challenge is what a reply that was lost or mangled looks like, so it deserves another order.
    """
    return problem is not None and problem.needs_operator and problem.kind is not ErrorType.UNAUTHORIZED


def check_alive(order: Order) -> None:
    """RFC 8555 §7.1.6. Raises OrderDied, with the authority's words, for an order that is invalid."""
    if order.status == "invalid":
        raise OrderDied(f"the order is invalid{words_of(order.error)}", again=not is_hopeless(order.error))
