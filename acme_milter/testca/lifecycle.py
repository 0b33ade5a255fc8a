# SPDX-License-Identifier: GPL-3.0-or-later
"""How challenges, authorizations and orders move (RFC 8555 §7.1.6), in one place."""

from typing import Any

from acme_milter.testca.history import Happening
from acme_milter.testca.ledger import Authorization, Order, Status
from acme_milter.testca.office import Office
from acme_milter.testca.problem import ProblemError, subproblem


def refresh_authorization(office: Office, authorization: Authorization) -> None:
    """Let a pending or valid authorization expire."""
    if authorization.status in (Status.PENDING, Status.VALID) and authorization.expires <= office.clock():
        pending = authorization.status is Status.PENDING
        authorization.status = Status.INVALID if pending else Status.EXPIRED
        if pending:
            authorization.challenge.status = Status.INVALID
            authorization.challenge.error = ProblemError("incorrectResponse", "no reply came in time")


def refresh_order(office: Office, order: Order) -> None:
    """Derive an order's status from its authorizations and the clock."""
    if order.status not in (Status.PENDING, Status.READY):
        return
    parts = [office.ledger.authorizations[name] for name in order.authorizations]
    for part in parts:
        refresh_authorization(office, part)
    broken = [part for part in parts if part.status not in (Status.PENDING, Status.VALID)]
    if broken:
        order.status = Status.INVALID
        order.error = _order_error(broken)
    elif order.expires <= office.clock():
        order.status = Status.INVALID
        order.error = ProblemError("malformed", "the order expired")
    else:
        done = all(part.status is Status.VALID for part in parts)
        order.status = Status.READY if done else Status.PENDING


def _order_error(broken: list[Authorization]) -> ProblemError:
    reasons = []
    for part in broken:
        reason = part.challenge.error or ProblemError("unauthorized", f"the authorization is {part.status}")
        reasons.append(subproblem(reason.kind, reason.detail, {"type": "email", "value": part.identifier}))
    return ProblemError("unauthorized", "an authorization failed", subproblems=reasons)


def decide(office: Office, authorization: Authorization, faults: tuple[str, ...]) -> None:
    """End a pending challenge: valid when the reply had no fault, invalid with the reason otherwise."""
    challenge = authorization.challenge
    if challenge.status not in (Status.PENDING, Status.PROCESSING):
        return
    details: dict[str, Any] = {"authorization": authorization.name, "identifier": authorization.identifier}
    if faults:
        dkim = all(fault.startswith("dkim-") for fault in faults)
        kind = "unauthorized" if dkim else "incorrectResponse"
        challenge.status = authorization.status = Status.INVALID
        challenge.error = ProblemError(kind, "the reply was not accepted: " + ", ".join(faults))
        office.history.add(Happening.INVALIDATED, faults=list(faults), **details)
    else:
        challenge.status = authorization.status = Status.VALID
        challenge.error = None
        challenge.validated = office.clock()
        office.history.add(Happening.VALIDATED, **details)
    for order in office.ledger.orders_with(authorization.name):
        refresh_order(office, order)
