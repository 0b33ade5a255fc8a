# SPDX-License-Identifier: GPL-3.0-or-later
"""What a reading changes, and what guards stop: pure, on values."""

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from acme_milter.config.policy import SafetyPolicy
from acme_milter.mailboxes.entry import Entry
from acme_milter.mailboxes.record import CameAs
from acme_milter.mailboxes.source import Reading
from acme_milter.mailboxes.sync import Difference, Rules, allowed_losses, difference
from acme_milter.store.mailboxes import StoredMailbox

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
BEFORE = NOW - timedelta(days=30)
DAY = timedelta(days=1)


def row(name: str, **changes: object) -> StoredMailbox:
    address = f"{name}@org.example"
    known = StoredMailbox(
        address=address,
        folded=address.lower(),
        domain="org.example",
        source="hr",
        principal=f"hr:{name}",
        person_id=name,
        came_as=CameAs.IMPORT,
        first_seen_at=BEFORE,
    )
    return dataclasses.replace(known, **changes)  # type: ignore[arg-type]  # a test's keywords


def entry(name: str, **words: object) -> Entry:
    return Entry(f"{name}@org.example", **{"id": name.lower(), **words})  # type: ignore[arg-type]  # a test's keywords


def compare(
    entries: Iterable[Entry],
    rows: Iterable[StoredMailbox] = (),
    *,
    first: bool = False,
    safety: SafetyPolicy | None = None,
    excluded: Iterable[str] = (),
    unconfigured: Iterable[str] = (),
    grace: timedelta = 14 * DAY,
    rejected: tuple[tuple[str, str], ...] = (),
) -> Difference:
    unwanted = {f"{name}@org.example" for name in excluded}
    forgotten = {f"{name}@org.example" for name in unconfigured}
    rules = Rules(
        exclusion=lambda found: "matches exclude" if found.address in unwanted else None,
        configured=lambda known: known.address not in forgotten,
        grace=lambda _known: grace,
        safety=safety or SafetyPolicy(),
    )
    known = {known.folded: known for known in rows}
    return difference("hr", Reading(tuple(entries), rejected), known, rules, NOW, first=first)


def names(rows: Iterable[StoredMailbox]) -> list[str]:
    return [found.address.partition("@")[0] for found in rows]


CROWD = [f"p{number}" for number in range(100)]


def crowd(count: int = 100) -> list[StoredMailbox]:
    return [row(name) for name in CROWD[:count]]


def of_crowd(*slices: slice) -> list[Entry]:
    return [entry(name) for part in slices for name in CROWD[part]]


def stopped(found: Difference) -> list[str]:
    return [stop.name for stop in found.stops]


def test_whom_the_first_reading_lists_was_there_all_along() -> None:
    found = compare([entry("alice"), Entry("bob@org.example")], first=True)
    assert [(one.came_as, one.principal) for one in found.joined] == [
        (CameAs.IMPORT, "hr:alice"),
        (CameAs.IMPORT, "bob@org.example"),
    ]
    assert compare(of_crowd(slice(0, 100)), first=True, safety=SafetyPolicy(max_new_per_run=5)).stops == ()


def test_who_comes_later_is_a_joiner() -> None:
    found = compare([*of_crowd(slice(0, 3)), entry("new")], crowd(3))
    assert [(one.address, one.came_as, one.first_seen_at) for one in found.joined] == [
        ("new@org.example", CameAs.JOINER, NOW)
    ]
    assert (found.missing, found.changed, found.stops) == ((), (), ())


def test_whom_a_domain_lists_on_its_own_first_day_was_there_all_along() -> None:
    found = compare([*of_crowd(slice(0, 3)), Entry("alice@org.test"), Entry("bob@org.test")], crowd(3))
    assert [(one.address, one.came_as) for one in found.joined] == [
        ("alice@org.test", CameAs.IMPORT),
        ("bob@org.test", CameAs.IMPORT),
    ]


def test_nothing_new_changes_nothing() -> None:
    assert compare(of_crowd(slice(0, 100)), crowd()).rows == ()


def test_a_mailbox_that_is_gone_is_missing_first_and_leaves_after_the_grace() -> None:
    found = compare(of_crowd(slice(1, 100)), crowd())
    assert names(found.missing) == ["p0"]
    assert (found.missing[0].missing_since, found.missing[0].left_at, found.stops) == (NOW, None, ())
    early = [row("p0", missing_since=NOW - 13 * DAY), *crowd()[1:]]
    assert compare(of_crowd(slice(1, 100)), early).rows == ()
    late = [row("p0", missing_since=NOW - 14 * DAY), *crowd()[1:]]
    assert [(one.address, one.left_at) for one in compare(of_crowd(slice(1, 100)), late).left] == [
        ("p0@org.example", NOW)
    ]


def test_without_a_grace_it_still_takes_two_readings_to_leave() -> None:
    just_now = [row("p0", missing_since=NOW), *crowd()[1:]]
    assert compare(of_crowd(slice(1, 100)), just_now, grace=timedelta(0)).left == ()
    once = [row("p0", missing_since=NOW - timedelta(seconds=1)), *crowd()[1:]]
    assert names(compare(of_crowd(slice(1, 100)), once, grace=timedelta(0)).left) == ["p0"]


def test_who_returns_within_the_grace_is_as_before() -> None:
    known = [row("p0", missing_since=NOW - 3 * DAY), *crowd()[1:]]
    found = compare(of_crowd(slice(0, 100)), known)
    assert found.returned == (row("p0"),)
    assert found.joined == ()


def test_who_had_left_and_is_the_same_person_keeps_the_principal_and_joins_anew() -> None:
    known = [row("p0", principal="p0@org.example", left_at=NOW - DAY), *crowd()[1:]]
    found = compare(of_crowd(slice(0, 100)), known)
    (back,) = found.rejoined
    assert (back.principal, back.came_as, back.first_seen_at) == ("p0@org.example", CameAs.JOINER, NOW)


def test_who_had_left_and_is_not_known_to_be_the_same_gets_a_principal_of_their_own() -> None:
    known = row("p0", principal="p0@org.example", person_id=None, left_at=NOW - DAY)
    (nobody,) = compare([Entry("p0@org.example")], [known]).rejoined
    assert nobody.principal == "p0@org.example#2026-11-22T09:00:00Z"
    (somebody,) = compare([entry("p0", id="other")], [known]).rejoined
    assert somebody.principal == "hr:other"


def test_another_id_is_another_person_with_nothing_of_the_one_before() -> None:
    found = compare([entry("p0", id="9"), *of_crowd(slice(1, 100))], crowd())
    ((before, after),) = found.moved
    assert (before.principal, after.principal, after.came_as, after.first_seen_at) == (
        "hr:p0",
        "hr:9",
        CameAs.JOINER,
        NOW,
    )
    assert found.stops == ()


def test_a_person_who_becomes_known_stays_the_same_one() -> None:
    known = [row("p0", principal="p0@org.example", person_id=None)]
    (after,) = compare([Entry("p0@org.example", "p0", "P. Zero")], known).changed
    assert (after.principal, after.person_id, after.person_name) == ("p0@org.example", "p0", "P. Zero")
    assert compare([entry("p0", id=None)], [row("p0")]).rows == ()


def test_another_spelling_is_the_same_mailbox() -> None:
    found = compare([entry("P0", id="p0")], [row("p0")])
    assert found.respelled == (("p0@org.example", "P0@org.example"),)
    assert found.rows == ()


def test_a_mailbox_of_two_sources_stays_with_the_first_and_moves_when_that_one_loses_it() -> None:
    theirs = row("p0", source="ad", principal="ad:1", person_id="1")
    assert compare([entry("p0")], [theirs]).rows == ()
    for lost in (
        compare([entry("p0")], [dataclasses.replace(theirs, missing_since=BEFORE)]),
        compare([entry("p0")], [theirs], unconfigured=["p0"]),
    ):
        (after,) = lost.changed
        assert (after.source, after.principal, after.person_id, after.missing_since) == ("hr", "ad:1", "p0", None)


def test_what_is_excluded_is_told_and_what_is_excluded_now_goes() -> None:
    found = compare([entry("noreply"), *of_crowd(slice(0, 100))], crowd(), excluded=["noreply", "p7"])
    assert found.excluded == (("noreply@org.example", "matches exclude"), ("p7@org.example", "matches exclude"))
    assert names(found.missing) == ["p7"]


def test_a_record_that_cannot_be_used_does_not_make_its_mailbox_leave() -> None:
    assert compare(of_crowd(slice(1, 100)), crowd(), rejected=((" P0@org.example", "two ids"),)).rows == ()


@pytest.mark.parametrize(
    ("known", "share", "allowed"),
    [(1, 0.1, 0), (2, 0.1, 1), (5, 0.1, 2), (6, 0.1, 3), (30, 0.1, 3), (100, 0.1, 10), (100, 0, 0), (4, 1, 4)],
)
def test_a_small_source_may_lose_a_few_up_to_half(known: int, share: float, allowed: int) -> None:
    assert allowed_losses(known, share) == allowed


@pytest.mark.parametrize("known", [1, 2, 100])
def test_an_empty_source_is_never_believed(known: int) -> None:
    found = compare([], crowd(known), safety=SafetyPolicy(max_source_change=1.0, max_leavers_per_run=1000))
    assert stopped(found) == ["source-change:hr"]
    assert found.without({"source-change:hr"}).rows == ()
    assert found.stops[0].size == known


def test_a_halved_source_is_not_believed_and_who_joins_still_joins() -> None:
    leaver = row("late", missing_since=BEFORE)
    found = compare([*of_crowd(slice(0, 50)), entry("new")], [*crowd(), leaver])
    assert stopped(found) == ["source-change:hr"]
    assert "50 of 100 mailboxes of hr are gone (p50@org.example, p51@org.example, p52@org.example, …)" in (
        found.stops[0].reason
    )
    held = found.without({"source-change:hr"})
    assert names(held.rows) == ["new"]
    assert len(found.without(()).missing) == 50


def test_a_source_where_everybody_is_somebody_else_is_not_believed() -> None:
    found = compare([entry(name, id=f"x{name}") for name in CROWD], crowd())
    assert stopped(found) == ["source-change:hr"]
    assert "100 belong to another person" in found.stops[0].reason
    assert found.without({"source-change:hr"}).rows == ()


def test_losses_of_a_day_are_added_up_so_that_small_steps_are_a_large_one() -> None:
    earlier = [row(name, missing_since=NOW - timedelta(hours=hours)) for hours, name in enumerate(CROWD[:8], 1)]
    known = [*earlier, *crowd()[8:]]
    assert stopped(compare(of_crowd(slice(10, 100)), known)) == []
    found = compare(of_crowd(slice(11, 100)), known)
    assert stopped(found) == ["source-change:hr"]
    assert "3 of 92 mailboxes of hr are gone" in found.stops[0].reason
    assert "8 more within a day before: more than 10" in found.stops[0].reason
    assert found.stops[0].size == 3
    long_ago = [dataclasses.replace(one, missing_since=NOW - DAY) for one in earlier]
    assert stopped(compare(of_crowd(slice(12, 100)), [*long_ago, *crowd()[8:]])) == []
    left = [dataclasses.replace(one, left_at=NOW) for one in earlier]
    assert stopped(compare(of_crowd(slice(11, 100)), [*left, *crowd()[8:]])) == ["source-change:hr"]
    back = compare([*of_crowd(slice(0, 8)), *of_crowd(slice(11, 100))], known)
    assert (names(back.returned), stopped(back)) == (CROWD[:8], [])


def test_new_people_of_a_day_are_added_up_too() -> None:
    earlier = [row(name, handed_over_at=NOW - timedelta(hours=1)) for name in CROWD[:10]]
    known = [*earlier, *crowd()[10:]]
    found = compare([*of_crowd(slice(0, 99)), entry("p99", id="other")], known)
    assert stopped(found) == ["source-change:hr"]
    assert found.moved[0][1].handed_over_at == NOW


def test_a_mailbox_that_goes_to_and_fro_between_two_people_is_not_believed() -> None:
    """Two hosts that read different files would otherwise take it from each of them in turn, with every reading."""
    known = [row("p0", handed_over_at=NOW - timedelta(hours=1)), *crowd()[1:]]
    found = compare([entry("p0", id="other"), *of_crowd(slice(1, 100))], known)
    assert stopped(found) == ["source-change:hr"]
    assert "1 of them a second time within a day" in found.stops[0].reason


def test_more_leavers_than_a_run_may_have_are_asked_about() -> None:
    safety = SafetyPolicy(max_leavers_per_run=5, max_source_change=0.5)
    assert stopped(compare(of_crowd(slice(6, 100)), crowd(), safety=safety)) == ["leavers:hr"]
    assert stopped(compare(of_crowd(slice(5, 100)), crowd(), safety=safety)) == []


def test_more_joiners_than_a_run_may_have_wait_and_join_when_they_may() -> None:
    safety = SafetyPolicy(max_new_per_run=5)
    found = compare(of_crowd(slice(0, 10)), crowd(4), safety=safety)
    assert [(stop.name, stop.size) for stop in found.stops] == [("new:hr", 6)]
    waiting = found.without({"new:hr"}).joined
    assert {one.came_as for one in waiting} == {CameAs.WAITING}
    later = compare(of_crowd(slice(0, 11)), [*crowd(4), *waiting], safety=safety)
    assert [(stop.name, stop.size) for stop in later.stops] == [("new:hr", 7)]
    assert names(later.without({"new:hr"}).rows) == ["p10"]
    assert {one.came_as for one in later.without(()).rows} == {CameAs.JOINER}
    assert len(later.without(()).rows) == 7


def test_a_domain_that_is_not_configured_any_more_is_asked_about_however_small() -> None:
    found = compare(of_crowd(slice(1, 100)), crowd(), unconfigured=["p0"])
    assert stopped(found) == ["source-change:hr"]
    assert "1 because the configuration does not name them now" in found.stops[0].reason
