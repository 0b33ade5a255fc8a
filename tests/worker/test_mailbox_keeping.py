# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping mailboxes from real files and programs, and sources that lie."""

import concurrent.futures.thread
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from acme_milter.clock import Clock
from acme_milter.config.loader import load_text
from acme_milter.config.schema import Config
from acme_milter.enrollment.state_machine import Cancelled, advance
from acme_milter.lab.processes import wait_until
from acme_milter.store import enrollments, holds, mailboxes, source_runs
from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.store.schema import audit as audit_table
from acme_milter.worker.mailbox_calls import MailboxCalls
from acme_milter.worker.mailbox_keeping import MailboxKeeping, Outcome
from acme_milter.worker.standing_config import StandingConfig
from tests.fresh_store import open_store


class MovedClock(Clock):
    """Real time, moved ahead: both clocks, as time does."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead.total_seconds()


class Keeping:
    """The part under test on a store, with configuration and CSV file that a test rewrites."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.csv = directory / "hr.csv"
        self.clock = MovedClock()
        self.database = open_store(f"sqlite:///{directory / 'store.db'}")
        self.standing = StandingConfig(self.config())
        self.came = self.went = 0
        self.keeping = self.new_keeping()
        self.calls = MailboxCalls(
            keeping=self.keeping, database=self.database, clock=self.clock.now, ask_for=lambda _chore: None
        )

    def new_keeping(self) -> MailboxKeeping:
        return MailboxKeeping(
            standing=self.standing,
            database=self.database,
            clock=self.clock,
            somebody_came=self.somebody_came,
            somebody_went=self.somebody_went,
        )

    def somebody_came(self) -> None:
        self.came += 1

    def somebody_went(self) -> None:
        self.went += 1

    def config(self, **changes: Any) -> Config:
        document = {
            "version": 1,
            "authorities": {"ca": {"directory": "https://ca.example/directory", "agree_tos": True}},
            "defaults": changes.pop("defaults", {}),
            "sources": {"hr": {"type": "csv", "path": str(self.csv)}},
            "domains": {"org.example": {"source": "hr"}},
            **changes,
        }
        return load_text(yaml.safe_dump(document), self.directory / "acme-milter.yaml")

    def reload(self, **changes: Any) -> None:
        self.standing.replace_file(self.config(**changes))
        self.keeping.work()
        wait_until(lambda: not self.keeping._reading, "the readings")

    def write(self, people: Mapping[str, str] | Sequence[str]) -> None:
        """Addresses' local parts, with ids where it is a mapping."""
        ids = people if isinstance(people, Mapping) else {name: f"id-{name.lower()}" for name in people}
        lines = ["address,id", *(f"{name}@org.example,{one}" for name, one in ids.items())]
        self.csv.write_text("\n".join(lines) + "\n")
        os.utime(self.csv, (0, 0))  # left alone since long ago

    def look(self, people: Mapping[str, str] | Sequence[str] | None = None, source: str = "hr") -> Outcome:
        if people is not None:
            self.write(people)
        outcome = self.keeping.keep(source)
        assert outcome.error is None
        return outcome

    def settle(self, people: Sequence[str]) -> None:
        """The first reading of everything."""
        self.write(people)
        self.keeping.load()
        for name in self.keeping.names():
            self.keeping.keep(name)

    def row(self, name: str) -> StoredMailbox:
        with self.database.read() as connection:
            found = mailboxes.find(connection, f"{name}@org.example")
        assert found is not None
        return found

    def rows(self) -> dict[str, StoredMailbox]:
        with self.database.read() as connection:
            return mailboxes.of_source(connection, "hr")

    def managed(self) -> set[str]:
        return {address.partition("@")[0] for address in self.standing.current().managed()}

    def holds(self) -> list[str]:
        with self.database.read() as connection:
            return [hold.name for hold in holds.waiting(connection)]

    def run(self, source: str) -> source_runs.SourceRun:
        with self.database.read() as connection:
            found = source_runs.get(connection, source)
        assert found is not None
        return found


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.database.close()


PEOPLE = [f"p{number}" for number in range(20)]


def test_the_first_reading_imports_and_a_later_one_brings_joiners(it: Keeping) -> None:
    it.settle(PEOPLE)
    assert it.came == 0
    it.look([*PEOPLE, "new"])
    assert it.came == 1
    assert it.managed() == {*PEOPLE, "new"}
    assert (it.row("p0").came_as, it.row("new").came_as) == ("import", "joiner")
    assert (it.row("new").principal, it.run("hr").number) == ("hr:id-new", 21)


def test_an_import_that_broke_off_is_still_the_first_reading(it: Keeping) -> None:
    it.settle([])
    with it.database.write() as connection:
        connection.execute(sa.text("DELETE FROM source_run"))
    it.look(PEOPLE)
    assert {row.came_as for row in it.rows().values()} == {"import"}


def test_a_leaver_is_missing_for_the_grace_and_then_not_managed_any_more(it: Keeping) -> None:
    it.settle(PEOPLE)
    it.look(PEOPLE[1:])
    assert it.row("p0").missing_since is not None
    assert "p0" in it.managed()
    it.clock.ahead += timedelta(days=13)
    it.look()
    assert (it.row("p0").left_at, it.went) == (None, 0)
    it.clock.ahead += timedelta(days=1)
    it.look()
    assert it.row("p0").left_at is not None
    assert it.managed() == set(PEOPLE[1:])
    assert it.went == 1
    with it.database.read() as connection:
        words = connection.execute(sa.select(audit_table.c.event).where(audit_table.c.address == "p0@org.example"))
        assert list(words.scalars()) == ["mailbox-missing", "mailbox-left"]


def test_a_clock_that_jumps_makes_nobody_leave(it: Keeping) -> None:
    it.settle(PEOPLE)
    it.look(PEOPLE[1:])

    class Jumping(MovedClock):
        def monotonic(self) -> float:
            return Clock.monotonic(self)

    jumping = Jumping()
    keeping = MailboxKeeping(
        standing=it.standing,
        database=it.database,
        clock=jumping,
        somebody_came=it.somebody_came,
        somebody_went=it.somebody_went,
    )
    keeping.load()
    jumping.ahead = timedelta(days=400)
    keeping.keep("list")
    keeping.keep("hr")
    assert it.row("p0").left_at is None


def test_a_new_person_is_told_at_once(it: Keeping) -> None:
    it.settle(PEOPLE)
    it.look({**{name: f"id-{name}" for name in PEOPLE}, "p0": "id-other"})
    assert (it.row("p0").principal, it.row("p0").came_as, it.went) == ("hr:id-other", "joiner", 1)
    assert it.standing.current().members["p0@org.example"].principal == "hr:id-other"


@pytest.mark.parametrize(
    "lie",
    [[], PEOPLE[:10], {name: f"x-{name}" for name in PEOPLE}],
    ids=["empty", "halved", "all different"],
)
def test_a_source_that_lies_is_held_until_a_person_says_that_it_is_true(
    it: Keeping, lie: Mapping[str, str] | Sequence[str]
) -> None:
    it.settle(PEOPLE)
    before = it.rows()
    assert it.look(lie).held == ("source-change:hr",)
    assert (it.rows(), it.holds(), it.went) == (before, ["source-change:hr"], 0)
    assert it.managed() == set(PEOPLE)
    it.look()
    assert it.rows() == before
    answer = it.calls.release_hold({"names": ["source-change:hr", "nothing:hr"]})
    assert answer["results"] == [
        {"name": "source-change:hr", "outcome": "released"},
        {"name": "nothing:hr", "outcome": "no-such-hold"},
    ]
    assert it.look().held == ()
    assert it.rows() != before
    assert it.holds() == []


def test_a_source_that_comes_back_takes_its_hold_with_it(it: Keeping) -> None:
    it.settle(PEOPLE)
    it.look([])
    it.look(PEOPLE)
    assert it.holds() == []


def test_a_release_does_not_let_through_what_came_after_it(it: Keeping) -> None:
    it.settle(PEOPLE)
    before = it.rows()
    it.look(PEOPLE[:14])
    it.calls.release_hold({"names": ["source-change:hr"]})
    assert it.look([]).held == ("source-change:hr",)
    assert it.rows() == before


@pytest.mark.parametrize("fault", ["gone", "cut", "garbage"])
def test_a_source_that_fails_changes_nothing_but_what_is_said_of_it(it: Keeping, fault: str) -> None:
    it.settle(PEOPLE)
    before = it.rows()
    match fault:
        case "gone":
            it.csv.unlink()
        case "cut":
            it.csv.write_text(it.csv.read_text()[:-4])
        case _:
            it.csv.write_bytes(b"\xff\xfe\x00")
    if it.csv.exists():
        os.utime(it.csv, (0, 0))
    outcome = it.keeping.keep("hr")
    assert str(it.csv) in (outcome.error or "")
    assert (it.rows(), it.holds()) == (before, [])
    run = it.run("hr")
    assert (run.error, run.number, run.succeeded_at is not None) == (outcome.error, 20, True)


def test_a_crowd_of_joiners_waits_until_it_is_released(it: Keeping) -> None:
    it.settle(PEOPLE)
    it.reload(defaults={"safety": {"max_new_per_run": 2}})
    more = [f"new{number}" for number in range(3)]
    assert it.look([*PEOPLE, *more]).held == ("new:hr",)
    assert {it.row(name).came_as for name in more} == {"waiting"}
    assert it.managed() == {*PEOPLE, *more}
    it.calls.release_hold({"names": ["new:hr"]})
    it.look()
    assert {it.row(name).came_as for name in more} == {"joiner"}


def test_the_configuration_s_own_list_is_a_source_with_the_same_rules(it: Keeping) -> None:
    listed = [f"{name}@org.example" for name in PEOPLE]
    domains = {"org.example": {"mailboxes": {"list": listed}}}
    it.standing.replace_file(it.config(domains=domains, sources={}))
    it.keeping.work()
    assert it.row("p3").source == "list"
    domains["org.example"]["mailboxes"]["list"] = [*listed[1:], "new@org.example"]
    it.reload(domains=domains, sources={})
    assert it.row("p0").missing_since is not None
    assert it.managed() == {*PEOPLE, "new"}
    assert (it.row("p3").came_as, it.row("new").came_as) == ("import", "joiner")
    domains["org.example"]["mailboxes"]["list"] = listed[:5]
    it.reload(domains=domains, sources={})
    assert it.holds() == ["source-change:list"]
    assert it.managed() == {*PEOPLE, "new"}


@pytest.mark.parametrize("how", ["source", "domain"])
def test_what_the_configuration_forgets_is_kept_until_a_person_says_so(it: Keeping, how: str) -> None:
    it.settle(PEOPLE)
    domains: dict[str, Any] = {"other.example": {"mailboxes": {"list": ["somebody@other.example"]}}}
    it.reload(domains=domains, **({"sources": {}} if how == "source" else {}))
    it.keeping.keep("list")
    it.look()
    assert it.holds() == ["source-change:hr"]
    assert {row.missing_since for row in it.rows().values()} == {None}
    it.reload()
    it.keeping.keep("list")
    it.look()
    assert it.holds() == ["source-change:list"]  # somebody@other.example, in turn
    assert it.managed() == set(PEOPLE)


def test_a_domain_that_moves_to_another_source_loses_nobody(it: Keeping) -> None:
    it.settle(PEOPLE)
    other = it.directory / "ad.csv"
    other.write_text("address,id\n" + "".join(f"{name}@org.example,guid-{name}\n" for name in PEOPLE))
    os.utime(other, (0, 0))
    sources = {"ad": {"type": "csv", "path": str(other)}, "hr": {"type": "csv", "path": str(it.csv)}}
    it.standing.replace_file(it.config(sources=sources, domains={"org.example": {"source": "ad"}}))
    it.keeping.load()
    for name in ("hr", "list", "ad", "hr"):
        it.keeping.keep(name)
    assert (it.holds(), it.rows()) == ([], {})
    moved = it.row("p0")
    assert (moved.source, moved.principal, moved.person_id, moved.missing_since) == (
        "ad",
        "hr:id-p0",
        "guid-p0",
        None,
    )


def test_a_new_spelling_waits_for_the_order_that_is_open(it: Keeping) -> None:
    it.settle(PEOPLE)
    with it.database.write() as connection:
        opened = enrollments.open_new(
            connection, address="p0@org.example", principal="hr:id-p0", authority="ca", now=it.clock.now()
        )
    it.look(["P0", *PEOPLE[1:]])
    assert it.row("p0").address == "p0@org.example"
    assert it.standing.current().canonical("P0@org.example") == "p0@org.example"
    with it.database.write() as connection:
        enrollments.save(connection, advance(opened, Cancelled(last_error="enough"), it.clock.now()))
    it.look()
    assert (it.row("p0").address, it.row("p0").principal) == ("P0@org.example", "hr:id-p0")
    assert it.standing.current().canonical("p0@org.example") == "P0@org.example"


def test_a_certificate_older_than_the_table_stays_its_address_s(it: Keeping) -> None:
    with it.database.write() as connection:
        enrollments.open_new(connection, address="p0@org.example", authority="ca", now=it.clock.now())
    it.settle(PEOPLE)
    assert (it.row("p0").principal, it.row("p0").person_id) == ("p0@org.example", "id-p0")
    assert it.row("p1").principal == "hr:id-p1"
    with it.database.read() as connection:
        assert mailboxes.astray(connection, 10) == []


def test_a_worker_that_starts_manages_at_once_what_the_store_knows(it: Keeping) -> None:
    it.settle(PEOPLE)
    it.csv.unlink()
    it.standing = StandingConfig(it.config())
    it.new_keeping().load()
    assert it.managed() == set(PEOPLE)


def test_a_source_that_hangs_holds_up_no_other(it: Keeping) -> None:
    fifo = it.directory / "hang"
    os.mkfifo(fifo)
    hanging = {"type": "command", "argv": ["/bin/cat", str(fifo)], "timeout": "60s"}
    it.write(PEOPLE)
    sources = {"slow": hanging, "hr": {"type": "csv", "path": str(it.csv)}}
    it.standing.replace_file(it.config(sources=sources, domains={"org.example": {"source": ["slow", "hr"]}}))
    it.keeping.load()
    it.keeping.work()
    wait_until(lambda: it.managed() == set(PEOPLE), "the other source")
    with it.database.read() as connection:
        assert source_runs.get(connection, "slow") is None
    with fifo.open("w") as stream:
        stream.write('{"address": "slow@org.example"}\n')
    wait_until(lambda: "slow" in it.managed(), "the slow source")


def test_a_person_s_look_at_a_source_that_hangs_does_not_hold_up_the_role_s_end(it: Keeping) -> None:
    """Python ends when every thread has that is no daemon; an executor's are waited for even so."""
    fifo = it.directory / "hang"
    os.mkfifo(fifo)
    hanging = {"type": "command", "argv": ["/bin/cat", str(fifo)], "timeout": "60s"}
    it.standing.replace_file(it.config(sources={"slow": hanging}, domains={"org.example": {"source": "slow"}}))
    asked = threading.Thread(target=it.calls.sync, args=({"source": "slow", "dry_run": True},))
    asked.start()
    with fifo.open("w"):  # returns once the program has opened it
        (look,) = (thread for thread in threading.enumerate() if thread.name == "look-slow")
        assert look.daemon
        assert look not in concurrent.futures.thread._threads_queues  # what is waited for
    asked.join()


def test_a_source_is_read_again_when_its_time_has_come(it: Keeping) -> None:
    it.settle(PEOPLE)
    it.write([*PEOPLE, "new"])
    it.keeping.work()
    assert not [thread for thread in threading.enumerate() if thread.name == "source-hr"]
    it.clock.ahead += timedelta(hours=1, seconds=1)
    it.keeping.work()
    wait_until(lambda: "new" in it.managed(), "the next reading")


def test_a_source_s_remarks_reach_whoever_looks_at_it(it: Keeping) -> None:
    it.csv.write_text("address,room\nann@org.example,12\n")
    os.utime(it.csv, (0, 0))
    answer: dict[str, Any] = it.calls.sync({"source": "hr", "dry_run": True})
    assert answer["sources"][0]["remarks"] == [f"{it.csv}: the column room is not used"]


def test_a_dry_run_tells_and_changes_nothing(it: Keeping) -> None:
    it.settle(PEOPLE)
    before = it.rows()
    it.write([*PEOPLE[10:], "new"])
    answer: dict[str, Any] = it.calls.sync({"source": "hr", "dry_run": True})
    (told,) = answer["sources"]
    (joined,) = told["joined"]["shown"]
    assert (told["joined"]["count"], joined["address"], joined["as"]) == (1, "new@org.example", "joiner")
    assert told["missing"]["count"] == 10
    assert [(hold["name"], hold["held"]) for hold in told["holds"]] == [("source-change:hr", True)]
    assert (it.rows(), it.holds()) == (before, [])
    assert "no source ad" in str(it.calls.sync({"source": "ad"})["text"])


def test_what_a_worker_elsewhere_has_applied_is_managed_here_too(it: Keeping) -> None:
    it.settle(["ann"])
    elsewhere = StandingConfig(it.config())
    neighbour = MailboxKeeping(
        standing=elsewhere, database=it.database, clock=it.clock, somebody_came=list, somebody_went=list
    )
    neighbour.load()
    it.look(["ann", "bob"])
    assert elsewhere.current().member("bob@org.example") is None
    neighbour._notice_other_hosts()
    assert elsewhere.current().member("bob@org.example") is not None
    published = elsewhere.current()
    it.look(["ann", "bob"])
    neighbour._notice_other_hosts()
    assert elsewhere.current() is published, "nothing has changed since"
