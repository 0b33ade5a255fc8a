# SPDX-License-Identifier: GPL-3.0-or-later
"""Which authorization is whose, and whose turn it is, in an order for several addresses. Pure."""

import dataclasses
from datetime import UTC, datetime

import pytest

from acme_milter.acme.authorization import Authorization, AuthorizationStatus
from acme_milter.acme.order import Identifier
from acme_milter.enrollment.model import Enrollment, Proof, State
from acme_milter.enrollment.state_machine import AuthorizationValid, NextIdentifier, advance
from acme_milter.worker.identifiers import place_to_read, proven, told_apart, with_proof
from acme_milter.worker.step import OrderDied

NOW = datetime(2026, 11, 22, tzinfo=UTC)
MAIN, ONE, TWO = "ann@org.example", "a@org.example", "berg@org.example"

KNOWN = {"challenge_url": "c", "sender": "ca@ca.example", "sealed_token": "c2VhbGVk"}


def placed() -> Enrollment:
    return Enrollment(
        id="1",
        address=MAIN,
        principal=MAIN,
        authority="ca",
        state=State.ORDERING,
        version=3,
        generation=1,
        opened_at=NOW,
        state_since=NOW,
        next_attempt_at=NOW,
        order_url="https://ca/order",
        authorization_url="u1",
        aliases=(ONE, TWO),
        proofs=(Proof(MAIN, "u1"), Proof(ONE, "u2"), Proof(TWO, "u3")),
    )


def authorization(address: str) -> Authorization:
    return Authorization("u", AuthorizationStatus.PENDING, None, Identifier("email", address), None)


def test_an_authority_may_list_authorizations_in_an_order_of_its_own() -> None:
    enrollment, proven_ones = placed(), []
    for place, address in enumerate((TWO.upper(), MAIN, ONE)):
        assert place_to_read(enrollment) == place
        event = with_proof(told_apart(enrollment, place, authorization(address)), place, **KNOWN).event
        enrollment = advance(enrollment, event, NOW)
    assert place_to_read(enrollment) is None
    for _ in range(3):
        proven_ones.append(enrollment.at_hand)
        event = proven(dataclasses.replace(enrollment, challenge_sender=f"ca+{enrollment.at_hand}")).event
        if isinstance(event, NextIdentifier):
            enrollment = advance(enrollment, event, NOW)
    assert proven_ones == [TWO, MAIN, ONE]
    assert isinstance(event, AuthorizationValid)
    assert [(proof.address, proof.url) for proof in enrollment.proofs] == [(TWO, "u1"), (MAIN, "u2"), (ONE, "u3")]
    assert enrollment.proofs[1].sender == f"ca+{MAIN}"


@pytest.mark.parametrize("address", ["other@org.example", MAIN])
def test_an_authorization_for_an_address_that_is_not_due_ends_the_order(address: str) -> None:
    event = with_proof(told_apart(placed(), 0, authorization(MAIN)), 0, **KNOWN).event
    following = advance(placed(), event, NOW)
    with pytest.raises(OrderDied):
        told_apart(following, 1, authorization(address))


def test_an_order_for_one_address_asks_nothing_of_its_authorization() -> None:
    alone = dataclasses.replace(placed(), aliases=(), proofs=())
    assert place_to_read(alone) is None
    assert isinstance(proven(alone).event, AuthorizationValid)
