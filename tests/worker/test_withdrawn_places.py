# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing is lost by taking back that is in use, somebody else's, or put there by an older version."""

from collections.abc import Iterator
from typing import Any

import pytest

from acme_milter.config.member import Member
from acme_milter.delivery.target import DeliveryFailed
from acme_milter.store import passphrases
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import DeliveryState
from tests.delivery.depot import ALICE, BOB, Depot
from tests.worker.wall import (
    ELSEWHERE,
    GIVES_BACK,
    KEEPS,
    Wall,
    configured,
    pass_on,
    withdraw,
    work_off,
)


@pytest.fixture
def depot() -> Iterator[Depot]:
    with Depot([GIVES_BACK, KEEPS]) as depot:
        yield depot


@pytest.fixture
def wall() -> Wall:
    return Wall()


def hand_over(depot: Depot) -> None:
    """Everybody knows of alice's successor."""
    pass_on(depot)
    depot.config = depot.config.with_members([Member(address=ALICE, principal="staff:2", source="list")])


def test_what_an_override_of_the_address_had_brought_is_looked_for_there_and_not_where_the_domain_has_it(
    depot: Depot, wall: Wall
) -> None:
    served: list[str] = []

    def make(section: Any) -> Wall:
        served.append(section.withdraw_argv[0])
        return wall

    mailboxes = {"list": [ALICE, BOB], "overrides": {ALICE: {"deliver": [ELSEWHERE]}}}
    configured(depot, domain={"deliver": [GIVES_BACK], "mailboxes": mailboxes})
    depot.issue()
    depot.delivering(make).work_off("hook")
    hand_over(depot)
    depot.delivering(make).work_off("hook")
    assert served == ["/bin/false", "/bin/false"]


def opens(depot: Depot, certificate: StoredCertificate, target: str = "hook") -> int:
    """How many passphrases are kept for what was delivered of it."""
    with depot.database.read() as connection:
        return len(passphrases.of_delivery(connection, depot.row(certificate, target).id))


def test_what_a_person_removed_by_hand_was_to_go_and_the_successors_is_still_there(depot: Depot, wall: Wall) -> None:
    before = depot.issue()
    work_off(depot, wall)
    hand_over(depot)
    wall.faults = [DeliveryFailed("nobody knows how", permanent=True)]
    work_off(depot, wall)
    after = depot.issue(principal="staff:2")
    work_off(depot, wall)
    assert withdraw(depot, target="hook", by_hand=True) == [("by-hand", ["hook"])]
    assert depot.row(before).state is DeliveryState.WITHDRAWN
    assert (depot.row(after).state, opens(depot, after)) == (DeliveryState.DONE, 1)
    assert withdraw(depot, target="hook", by_hand=True) == [("nothing-to-go", [])]
    # Of a target that gives nothing back it was never to go, and is nobody's all the same.
    assert withdraw(depot, target="keeps", by_hand=True) == [("by-hand", ["keeps"])]
    assert (depot.row(after, "keeps").state, opens(depot, after, "keeps")) == (DeliveryState.DONE, 1)
