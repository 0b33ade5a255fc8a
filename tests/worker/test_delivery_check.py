# SPDX-License-Identifier: GPL-3.0-or-later
"""A source's mailbox is ordered for once Postfix knows it, and a Postfix that is slow holds up nobody."""

import dataclasses
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from acme_milter.config.member import Member
from acme_milter.config.sources import PostfixSource
from acme_milter.enrollment.model import State
from acme_milter.lab.processes import wait_until
from acme_milter.mailboxes.verification import Deliverability, Verdict
from acme_milter.worker.delivery_check import DeliveryCheck
from acme_milter.worker.order_driver import OrderDriver
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import BenchClock, OrderBench
from tests.worker.site import DOMAIN

LONG_AGO = 1_700_000_000


class Mailboxes:
    """Mailboxes of a source, and a Postfix that knows some of them."""

    def __init__(self, bench: OrderBench, directory: Path) -> None:
        self.bench = bench
        self.directory = directory
        directory.mkdir()
        self._write("master.cf", "")
        self._write(
            "main.cf",
            f"compatibility_level = 3.6\nmyhostname = mx.{DOMAIN}\nmydestination =\n"
            f"virtual_mailbox_domains = {DOMAIN}\nvirtual_mailbox_maps = texthash:{directory}/boxes\n",
        )
        self.addresses = bench.site.addresses(3)
        section = PostfixSource(type="postfix", config_directory=directory)
        bench.config = dataclasses.replace(bench.config, sources={"mx": section}).with_members(
            Member(address, address, source="mx") for address in self.addresses
        )
        self.check = DeliveryCheck(config=lambda: bench.config, database=bench.database, clock=BenchClock(bench.clock))
        self.ask(self.check)

    def known_to_postfix(self, *addresses: str) -> None:
        self._write("boxes", "".join(f"{address} x/\n" for address in addresses))

    def ask(self, check: Callable[[str], Verdict | None]) -> None:
        self.bench.driver = OrderDriver(dataclasses.replace(self.bench.desk, mail_arrives=check))

    def said(self, address: str) -> Deliverability | None:
        verdict = self.check(address)
        return None if verdict is None else verdict.deliverability

    def settled(self, address: str) -> Deliverability:
        wait_until(lambda: self.check(address) is not None, "Postfix's answer")
        found = self.said(address)
        assert found is not None
        return found

    def _write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)
        os.utime(self.directory / name, (LONG_AGO, LONG_AGO))


@pytest.fixture
def boxes(make_orders: MakeOrderBench, tmp_path: Path) -> Mailboxes:
    return Mailboxes(make_orders(), tmp_path / "postfix")


def test_a_mailbox_that_postfix_knows_is_begun(boxes: Mailboxes) -> None:
    boxes.known_to_postfix(boxes.addresses[0])
    boxes.settled(boxes.addresses[0])
    assert boxes.bench.step(boxes.bench.open(boxes.addresses[0])).state is State.ORDERING


def test_a_mailbox_that_postfix_does_not_know_costs_no_key_and_no_order(boxes: Mailboxes) -> None:
    boxes.known_to_postfix(boxes.addresses[1])
    boxes.settled(boxes.addresses[0])
    ended = boxes.bench.step(boxes.bench.open(boxes.addresses[0]))
    assert (ended.state, ended.key_id, ended.successor_id) == (State.FAILED, None, None)
    assert ended.last_error is not None
    assert f"postmap -c {boxes.directory} -q {boxes.addresses[0]} texthash:{boxes.directory}/boxes" in ended.last_error


def test_a_table_that_is_away_puts_the_order_off_and_says_why(boxes: Mailboxes) -> None:
    boxes.settled(boxes.addresses[0])
    waiting = boxes.bench.step(boxes.bench.open(boxes.addresses[0]))
    assert (waiting.state, waiting.key_id) == (State.PLANNED, None)
    assert waiting.next_attempt_at is not None
    assert waiting.next_attempt_at > boxes.bench.clock() + timedelta(seconds=30)
    assert waiting.last_error is not None
    assert "No such file or directory" in waiting.last_error


def test_while_postfix_is_being_asked_the_order_waits_without_an_error(boxes: Mailboxes) -> None:
    boxes.ask(lambda _: None)
    waiting = boxes.bench.step(boxes.bench.open(boxes.addresses[0]))
    assert (waiting.state, waiting.last_error, waiting.attempts) == (State.PLANNED, None, 0)


def test_a_listed_mailbox_is_the_administrators_word_and_not_asked_about(boxes: Mailboxes) -> None:
    def nobody(address: str) -> Verdict:
        raise AssertionError(address)

    boxes.ask(nobody)
    assert boxes.bench.step(boxes.bench.open()).state is State.ORDERING


def test_with_verification_none_nobody_is_asked(boxes: Mailboxes) -> None:
    worker = boxes.bench.config.worker.model_copy(update={"verification": "none"})
    boxes.bench.config = dataclasses.replace(boxes.bench.config, worker=worker)
    assert boxes.said(boxes.addresses[0]) is Deliverability.UNCHECKED
    assert boxes.bench.step(boxes.bench.open(boxes.addresses[0])).state is State.ORDERING


def test_a_fault_of_ours_while_asking_is_shown_and_not_waited_for_ever(
    boxes: Mailboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("acme_milter.worker.delivery_check.examine_with", broken)
    assert boxes.settled(boxes.addresses[0]) is Deliverability.UNDECIDED
    waiting = boxes.bench.step(boxes.bench.open(boxes.addresses[0]))
    assert "internal error (ZeroDivisionError)" in (waiting.last_error or "")


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """postconf does something before it answers."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "postconf").write_text(f'#!/bin/sh\n{before}\nexec /usr/sbin/postconf "$@"\n')
    (programs / "postconf").chmod(0o755)
    monkeypatch.setattr("acme_milter.program.PATH", f"{programs}:/usr/sbin:/usr/bin:/bin")


def test_mailboxes_that_are_due_are_asked_about_in_one_round(
    boxes: Mailboxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, f"echo x >> {tmp_path}/rounds")
    boxes.known_to_postfix(*boxes.addresses[:2])
    for address in [*boxes.addresses, boxes.bench.addresses[0]]:
        boxes.bench.open(address)
    assert boxes.settled(boxes.addresses[0]) is Deliverability.KNOWN
    assert [boxes.said(address) for address in boxes.addresses[1:]] == [Deliverability.KNOWN, Deliverability.UNKNOWN]
    assert (tmp_path / "rounds").read_text() == "x\n"


def test_a_postfix_that_hangs_is_not_waited_for(
    boxes: Mailboxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, f"until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    boxes.known_to_postfix(*boxes.addresses)
    assert [boxes.said(address) for address in boxes.addresses] == [None, None, None]
    (tmp_path / "go").touch()
    assert [boxes.settled(address) for address in boxes.addresses] == [Deliverability.KNOWN] * 3


def test_an_answer_is_asked_for_anew_when_it_is_old(boxes: Mailboxes) -> None:
    address = boxes.addresses[0]
    boxes.known_to_postfix()
    assert boxes.settled(address) is Deliverability.UNKNOWN
    boxes.known_to_postfix(address)
    assert boxes.said(address) is Deliverability.UNKNOWN
    with boxes.bench.moved_ahead(seconds=31):
        assert boxes.settled(address) is Deliverability.KNOWN
