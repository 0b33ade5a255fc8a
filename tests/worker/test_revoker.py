# SPDX-License-Identifier: GPL-3.0-or-later
"""Revocation at the test CA: until it is done, and no more than once."""

from datetime import timedelta
from typing import Any

import pytest

from acme_milter.enrollment.model import Enrollment, State
from acme_milter.store import certificates, revocations
from acme_milter.store.revocations import Revocation
from acme_milter.worker.revocation_call import RevocationCall
from acme_milter.worker.revoker import Revoker
from acme_milter.worker.withdrawing import REVOKED
from tests.delivery.put_there import put_there, why_withdrawn
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench


class Revoking:
    """A bench with one active certificate, a revoker, and the control call."""

    def __init__(self, bench: OrderBench) -> None:
        self.bench = bench
        self.enrollment = issue(bench)
        self.revoker = Revoker(
            config=lambda: bench.config, database=bench.database, authorities=bench.authorities, clock=bench.clock
        )
        self.call = RevocationCall(
            config=lambda: bench.config, database=bench.database, clock=bench.clock, work_is_due=lambda: None
        )

    def ask(self, **wanted: object) -> list[dict[str, Any]]:
        answer: dict[str, Any] = self.call.answer({"call": "revoke", **wanted})
        results: list[dict[str, Any]] = answer["results"]
        return results

    def row(self) -> Revocation:
        assert self.enrollment.certificate_id is not None
        with self.bench.database.read() as connection:
            found = revocations.get(connection, self.enrollment.certificate_id)
        assert found is not None
        return found

    def state(self) -> State:
        return self.bench.get(self.enrollment.id).state

    def revoked(self) -> list[tuple[str, int]]:
        serials = {found.serial for found in self.bench.certificates()}
        happened = self.bench.site.authority.history("revoked")
        return [(one["serial"], one["reason"]) for one in happened if one["serial"] in serials]


def issue(bench: OrderBench, address: str | None = None) -> Enrollment:
    awaiting = bench.step_until(bench.open(address), State.AWAITING_MAIL)
    return bench.step_until(bench.answer_mail(awaiting), State.ACTIVE)


@pytest.fixture
def it(make_orders: MakeOrderBench) -> Revoking:
    return Revoking(make_orders())


def test_a_certificate_is_revoked_with_its_reason_and_its_enrollment_with_it(it: Revoking) -> None:
    (asked,) = it.ask(addresses=it.bench.addresses, reason="key-compromise")
    (certificate,) = it.bench.certificates()
    assert (asked["outcome"], asked["serial"]) == ("asked", certificate.serial)
    it.revoker.work()
    it.bench.await_state(it.enrollment.id, State.REVOKED)
    it.revoker.stop()
    assert it.revoked() == [(certificate.serial, 1)]
    assert it.row().done_at is not None
    with it.bench.database.read() as connection:
        assert certificates.current(connection, certificate.address, certificate.principal) is None
    assert [one["outcome"] for one in it.ask(serials=[certificate.serial])] == ["already-revoked"]


def test_a_serial_is_found_as_people_write_it_and_an_unknown_one_is_named(it: Revoking) -> None:
    (certificate,) = it.bench.certificates()
    written = certificate.serial.zfill(len(certificate.serial) + len(certificate.serial) % 2).upper()
    colons = ":".join(written[at : at + 2] for at in range(0, len(written), 2))
    outcomes = [(one["wanted"], one["outcome"]) for one in it.ask(serials=[colons, "abc"], reason="superseded")]
    assert outcomes == [(colons, "asked"), ("abc", "unknown")]
    assert [one["outcome"] for one in it.ask(addresses=["nobody@org.example"])] == ["unknown"]
    assert it.row().reason == 4


def test_what_was_delivered_before_it_was_taken_back_goes_when_it_is_revoked(it: Revoking) -> None:
    """The wish is an older worker's, which knew nothing of taking back."""
    (certificate,) = it.bench.certificates()
    put_there(it.bench.database, certificate.id, certificate.address, it.bench.clock())
    with it.bench.database.write() as connection:
        revocations.ask(connection, certificate, 1, it.bench.clock(), by="operator")
    assert why_withdrawn(it.bench.database, certificate.id) is None
    it.revoker.work_off(certificate.authority)
    assert why_withdrawn(it.bench.database, certificate.id) == REVOKED


def test_a_word_that_is_no_reason_is_refused_with_those_that_are(it: Revoking) -> None:
    assert "cessation-of-operation" in str(it.call.answer({"serials": ["abc"], "reason": "because"})["text"])


def test_that_it_was_revoked_already_is_as_good(it: Revoking) -> None:
    it.ask(addresses=it.bench.addresses)
    it.revoker.work_off("ca")
    with it.bench.database.write() as connection:  # a crash before our commit
        revocations.failed(connection, it.row().certificate_id, "crash", it.bench.clock())
    it.revoker.work_off("ca")
    assert (len(it.revoked()), it.state(), it.row().last_error) == (1, State.REVOKED, None)


def test_an_authority_that_takes_no_reason_is_asked_without_one(it: Revoking) -> None:
    it.bench.site.authority.set_knobs(REVOCATION="noreason")
    it.ask(addresses=it.bench.addresses, reason="superseded")
    it.revoker.work_off("ca")
    assert [reason for _, reason in it.revoked()] == [0]
    assert it.state() is State.REVOKED


def test_an_authority_in_trouble_is_asked_again_soon(it: Revoking) -> None:
    it.bench.site.authority.set_knobs(HTTP_5XX=100)
    it.ask(addresses=it.bench.addresses)
    it.revoker.work_off("ca")
    row = it.row()
    assert row.next_attempt_at is not None
    assert (row.attempts, row.done_at) == (1, None)
    assert row.next_attempt_at - row.asked_at < timedelta(minutes=1)
    assert it.state() is State.ACTIVE
    it.bench.site.authority.reset_knobs()
    it.bench.clock.advance(minutes=1)
    it.revoker.work_off("ca")
    assert it.state() is State.REVOKED


def test_a_refusal_that_needs_a_person_is_shown_and_tried_daily(it: Revoking) -> None:
    it.bench.site.authority.set_knobs(REVOCATION="refused")
    it.ask(addresses=it.bench.addresses)
    it.revoker.work_off("ca")
    row = it.row()
    assert "by telephone only" in (row.last_error or "")
    assert row.next_attempt_at is not None
    assert timedelta(hours=23) < row.next_attempt_at - row.asked_at < timedelta(hours=25)


def test_what_has_expired_is_not_asked_for(it: Revoking) -> None:
    it.ask(addresses=it.bench.addresses)
    it.bench.clock.advance(days=400)
    it.revoker.work_off("ca")
    row = it.row()
    assert (row.next_attempt_at, row.last_error) == (None, "it expired before it could be revoked")
    assert it.revoked() == []
    (certificate,) = it.bench.certificates()
    assert [one["outcome"] for one in it.ask(serials=[certificate.serial])] == ["expired"]
