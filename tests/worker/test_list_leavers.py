# SPDX-License-Identifier: GPL-3.0-or-later
"""What docs/leavers.md says of a mailbox that is taken out of a list: a leaver like any other, or gone at once."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from acme_milter.store import mailboxes
from acme_milter.store.mailboxes import StoredMailbox
from tests.worker.test_mailbox_keeping import Keeping

PEOPLE = ["alice", "bob", "carol", "dave", "erin"]
ERIN = "erin@org.example"


class Listing(Keeping):
    """Everybody stands in the configuration itself, until a test takes somebody out."""

    def write_list(self, names: list[str], **overrides: Any) -> None:
        written = {"list": [f"{name}@org.example" for name in names], "overrides": overrides}
        self.reload(sources={}, domains={"org.example": {"mailboxes": written}})

    def erin(self) -> StoredMailbox:
        with self.database.read() as connection:
            found = mailboxes.find(connection, ERIN)
        assert found is not None
        return found

    def sync(self) -> None:
        self.calls.sync({"source": "list"})


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Listing]:
    listing = Listing(tmp_path)
    listing.write_list(PEOPLE)
    yield listing
    listing.database.close()


def test_whoever_is_taken_out_of_a_list_stays_managed_for_the_grace(it: Listing) -> None:
    it.write_list(PEOPLE[:-1])
    assert it.erin().missing_since is not None
    assert "erin" in it.managed()
    it.clock.ahead += timedelta(days=13)
    it.sync()
    assert "erin" in it.managed()
    it.clock.ahead += timedelta(days=1)
    it.sync()
    assert it.managed() == set(PEOPLE[:-1])
    assert it.went == 1


def test_an_override_with_mode_observe_stops_everything_for_one_at_the_reload(it: Listing) -> None:
    for names in (PEOPLE, PEOPLE[:-1]):
        it.write_list(names, **{ERIN: {"mode": "observe"}})
        policies = {name: it.standing.current().policy_for(f"{name}@org.example") for name in PEOPLE}
        modes = {name: policy.mode for name, policy in policies.items() if policy is not None}
        assert modes == {**dict.fromkeys(PEOPLE[:-1], "enforce"), "erin": "observe"}


def test_without_a_grace_the_second_reading_ends_it(it: Listing) -> None:
    it.write_list(PEOPLE[:-1], **{ERIN: {"leavers": {"after": "0s"}}})
    assert "erin" in it.managed()
    it.sync()
    assert it.managed() == set(PEOPLE[:-1])
    assert it.erin().left_at is not None
    assert it.went == 1


def test_the_last_one_of_all_lists_goes_only_when_a_person_says_so(it: Listing) -> None:
    it.write_list(["erin"])
    it.calls.release_hold({"names": ["source-change:list"]})
    it.sync()
    it.write_list([])
    assert (it.holds(), it.erin().missing_since) == (["source-change:list"], None)
