# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing is lost by taking back that is in use, somebody else's, or put there by an older version."""

from collections.abc import Iterator
from typing import Any

import pytest

from acme_milter.config.member import Member
from tests.delivery.depot import ALICE, BOB, Depot
from tests.worker.wall import (
    ELSEWHERE,
    GIVES_BACK,
    KEEPS,
    Wall,
    configured,
    pass_on,
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
