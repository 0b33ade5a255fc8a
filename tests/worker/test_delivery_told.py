# SPDX-License-Identifier: GPL-3.0-or-later
"""That Postfix does not know a mailbox, or cannot be asked, is told by whoever looks at it, and in bounded time."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acme_milter.cli.mailbox_sync import _on_delivery
from acme_milter.enrollment.state_machine import Failed, advance
from acme_milter.mailboxes.asking import ask_about
from acme_milter.mailboxes.verification import Deliverability
from acme_milter.report.why import why
from acme_milter.store import enrollments
from tests.worker.test_delivery_check import LONG_AGO, stand_in
from tests.worker.test_mailbox_keeping import Keeping

ALICE, BOB = "alice@org.example", "bob@org.example"


class Office(Keeping):
    """A source that lists people, and a Postfix that knows some of them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.postfix = directory / "postfix"
        self.postfix.mkdir()
        self._write("master.cf", "")
        self.postfix_says(
            "virtual_mailbox_domains = org.example", f"virtual_mailbox_maps = texthash:{self.postfix}/boxes"
        )
        self.knows("alice")
        self.changes: dict[str, Any] = {
            "sources": {
                "hr": {"type": "csv", "path": str(self.csv)},
                "mx": {"type": "postfix", "config_directory": str(self.postfix)},
            }
        }
        self.standing.replace_file(self.config(**self.changes))

    def postfix_says(self, *lines: str) -> None:
        head = ["compatibility_level = 3.6", "myhostname = mx.org.example", "mydestination ="]
        self._write("main.cf", "\n".join([*head, *lines, ""]))

    def knows(self, *names: str) -> None:
        self._write("boxes", "".join(f"{name}@org.example x/\n" for name in names))

    def why(self, address: str) -> dict[str, Any]:
        with self.database.read() as connection:
            return why(connection, self.standing.current(), self.clock.now(), address=address)

    def joined(self, source: str = "hr", *, dry_run: bool = True) -> list[dict[str, Any]]:
        answer: Any = self.calls.sync({"source": source, "dry_run": dry_run})
        shown: list[dict[str, Any]] = answer["sources"][0]["joined"]["shown"]
        return shown

    def _write(self, name: str, text: str) -> None:
        (self.postfix / name).write_text(text)
        os.utime(self.postfix / name, (LONG_AGO, LONG_AGO))


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.database.close()


def test_why_tells_what_postfix_does_not_know_and_the_question_that_shows_it(it: Office) -> None:
    it.settle(["alice", "bob"])
    told = it.why(BOB)
    assert told["delivery"]["deliverability"] == "unknown"
    question = f"postmap -c {it.postfix} -q {BOB} texthash:{it.postfix}/boxes"
    assert (
        f" Nothing can be ordered for it: Postfix knows no such mailbox: nothing is found by {question}."
        in told["text"]
    )
    known = it.why(ALICE)
    assert known["delivery"] == {"deliverability": "known", "why": ""}
    assert "Postfix" not in known["text"]


def test_why_tells_whether_what_an_order_failed_for_is_still_so(it: Office) -> None:
    it.settle(["alice", "bob"])
    error = it.why(BOB)["delivery"]["why"]
    with it.database.write() as connection:
        opened = enrollments.open_new(
            connection, address=BOB, principal="hr:id-bob", authority="ca", now=it.clock.now()
        )
        enrollments.save(connection, advance(opened, Failed(last_error=error), it.clock.now()))
    assert it.why(BOB)["text"].endswith(" That is still so.")
    it.knows("bob")
    assert it.why(BOB)["text"].endswith(" By now Postfix knows it.")


def test_why_tells_that_nobody_could_be_asked_or_could_know(it: Office) -> None:
    it.settle(["alice"])
    it.postfix_says()
    told = it.why(ALICE)
    assert told["delivery"]["deliverability"] == "unchecked"
    assert "Nobody here can tell whether mail for it arrives: the Postfix here receives no mail for" in told["text"]
    (it.postfix / "main.cf").unlink()
    told = it.why(ALICE)
    assert told["delivery"]["deliverability"] == "undecided"
    assert "Whether Postfix knows it could not be found out just now: " in told["text"]


def test_a_dry_run_tells_of_the_new_ones_that_it_shows_and_a_sync_asks_nobody(it: Office) -> None:
    it.write(["alice", "bob"])
    alice, bob = it.joined()
    assert (alice["deliverability"], bob["deliverability"]) == ("known", "unknown")
    (line,) = _on_delivery([alice, bob])
    assert line.startswith(
        f"! {BOB}: nothing can be ordered for it: Postfix knows no such mailbox: nothing is found by "
    )
    assert all("deliverability" not in one for one in it.joined(dry_run=False))


def test_a_dry_run_counts_those_that_nobody_knows_of_by_reason(it: Office) -> None:
    it.postfix_says()
    it.write(["alice", "bob"])
    (line,) = _on_delivery(it.joined())
    assert line.startswith("! whether mail for 2 of them arrives is not known: the Postfix here receives no mail for ")


def test_what_is_listed_by_name_and_what_nobody_is_to_be_asked_about_is_not_asked_about(it: Office) -> None:
    it.settle(["bob"])
    listed = {"org.example": {"source": "hr", "mailboxes": {"list": ["info@org.example"]}}}
    it.reload(domains=listed, **it.changes)
    assert it.why("info@org.example")["delivery"] is None
    assert all("deliverability" not in one for one in it.joined("list"))
    it.reload(worker={"verification": "none"}, **it.changes)
    assert it.why(BOB)["delivery"] is None
    assert ask_about(it.standing.file(), [BOB], 5) == {}


def test_a_postfix_that_hangs_is_not_waited_for(it: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, f"until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    verdict = ask_about(it.standing.file(), [ALICE], 0.2)[ALICE]
    assert verdict.deliverability is Deliverability.UNDECIDED
    (tmp_path / "go").touch()
    assert ask_about(it.standing.file(), [ALICE], 10)[ALICE].deliverability is Deliverability.KNOWN
