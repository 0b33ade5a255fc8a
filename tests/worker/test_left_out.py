# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom a source lists and nobody manages is in every plan, with the pattern that keeps it out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.mailboxes.left_out import EXAMPLES, MOST_REASONS, left_out
from acme_milter.report.plan import Plan, Selection, make_plan
from acme_milter.report.plan_file import document_of
from tests.worker.test_mailbox_keeping import Keeping

NOREPLY = (
    "matches the built-in pattern noreply@* (system address; include it by name to have it anyway)"  # as `why` says it
)


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.database.close()


def planned(it: Keeping, selection: Selection = Selection()) -> Plan:  # noqa: B008 a frozen value
    with it.database.read() as connection:
        return make_plan(connection, it.standing.file(), it.clock.now(), selection)


def excluded(plan: Plan) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {one.reason: (one.number, one.examples) for one in plan.excluded}


def test_a_plan_names_the_pattern_the_number_and_examples_of_what_no_row_was_made_for(it: Keeping) -> None:
    it.reload(domains={"org.example": {"source": "hr", "mailboxes": {"exclude": ["svc-*@*"]}}})
    it.settle(["alice", "noreply", "svc-print", "svc-backup", "two@at"])
    found = excluded(planned(it))
    assert found[NOREPLY] == (1, ("noreply@org.example",))
    assert found["matches exclude svc-*@*"] == (2, ("svc-backup@org.example", "svc-print@org.example"))
    (flaw,) = (reason for reason in found if reason.startswith("cannot be used: "))
    assert found[flaw] == (1, ("two@at@org.example",))
    document = document_of(planned(it))
    assert {"reason": NOREPLY, "number": 1, "examples": ["noreply@org.example"]} in document["excluded"]  # type: ignore[operator]  # JSON
    assert document["total"] == 1


def test_who_is_asked_for_by_name_is_told_the_pattern_and_other_selections_are_minded(it: Keeping) -> None:
    it.settle(["alice", "noreply"])
    by_name = Selection(addresses=frozenset({"noreply@org.example", "nobody.else@org.example"}))
    assert set(excluded(planned(it, by_name))) == {
        f"is not a managed mailbox: it {NOREPLY}",
        "is not a managed mailbox",
    }
    assert excluded(planned(it, Selection(domains=frozenset({"other.example"})))) == {}
    assert excluded(planned(it, Selection(authority="other"))) == {}
    assert NOREPLY in excluded(planned(it, Selection(authority="ca")))


def test_one_that_was_managed_before_it_was_excluded_counts_once(it: Keeping) -> None:
    it.settle(["alice", "bob", "carol", "dave"])
    changed = {"domains": {"org.example": {"source": "hr", "mailboxes": {"exclude": ["bob@*"]}}}}
    for _ in range(2):
        it.reload(**changed)
        assert excluded(planned(it)) == {"matches exclude bob@*": (1, ("bob@org.example",))}


def test_a_source_that_fails_keeps_what_it_said_and_one_that_is_right_again_says_it_anew(it: Keeping) -> None:
    it.settle(["alice", "noreply"])
    it.csv.unlink()
    it.keeping.keep("hr")
    assert NOREPLY in excluded(planned(it))
    it.look(["alice"])
    assert excluded(planned(it)) == {}
    it.look(["alice", "noreply"])
    it.reload(sources={}, domains={"org.example": {"mailboxes": {"list": ["alice@org.example"]}}})
    assert NOREPLY not in excluded(planned(it))


def test_a_broken_file_does_not_fill_the_store() -> None:
    rejected = [(f"line {number}", f"line {number}: has no @ {'x' * 9}") for number in range(1000)]
    many = [(f"bounce+{number}@org.example", "matches") for number in range(1000)]
    found = left_out("hr", many, rejected, {})
    assert len(found) == MOST_REASONS + 1
    assert (found[0].number, len(found[0].examples)) == (1000, EXAMPLES)
    assert (found[-1].domain, found[-1].number) == ("", 1000 - (MOST_REASONS - 1))
    assert "mailbox sync --source hr --dry-run" in found[-1].reason
