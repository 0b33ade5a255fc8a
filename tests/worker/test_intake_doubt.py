# SPDX-License-Identifier: GPL-3.0-or-later
"""What cannot be decided now: the race with newOrder, rule T's half hour, a DNS or a store that is away."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.conditions import Reason
from acme_milter.enrollment.model import State
from acme_milter.worker.intake import Decision
from tests.protocol.sample_mail import CA_DOMAIN, NOW, SENDER, good_mail
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import IntakeBench, token

SELECTOR = f"rsa._domainkey.{CA_DOMAIN}"


def test_a_mail_that_is_quicker_than_the_answer_to_neworder_waits_for_the_orders_row(make_bench: MakeBench) -> None:
    bench = make_bench()
    ordering = bench.begin()
    decisions: list[Decision] = []
    mail = threading.Thread(target=lambda: decisions.append(bench.decide()))
    mail.start()
    time.sleep(0.05)
    assert not decisions
    bench.place(ordering)
    bench.intake.order_became_known()
    mail.join(2)
    assert decisions == [Decision("discard", Reason.ACCEPTED)]
    assert bench.enrollment(ordering.id).state is State.REPLYING


def test_a_row_committed_by_another_host_is_found_without_being_told(make_bench: MakeBench) -> None:
    bench = make_bench()
    ordering = bench.begin()
    timer = threading.Timer(0.1, lambda: bench.place(ordering))
    timer.start()
    assert bench.decide() == Decision("discard", Reason.ACCEPTED)
    timer.join()


def test_an_order_that_turns_out_to_be_of_another_sender_leaves_the_mail_alone(make_bench: MakeBench) -> None:
    bench = make_bench()
    ordering = bench.begin()
    timer = threading.Timer(0.1, lambda: bench.place(ordering, sender=f"another@{CA_DOMAIN}"))
    timer.start()
    assert bench.decide() == Decision("accept", Reason.UNSOLICITED)
    timer.join()


def test_a_mail_of_an_order_that_is_being_placed_is_not_given_to_a_rehearsal(make_bench: MakeBench) -> None:
    bench = make_bench(authority={"staging": "https://staging.ca.example/directory"}, milter={"deadline": "400ms"})
    rehearsal = bench.place(bench.begin(authority="ca:staging"))
    ordering = bench.begin(at=NOW)
    assert bench.decide() == Decision("tempfail", Reason.ORDER_NOT_KNOWN_YET)
    bench.place(ordering)
    bench.decide()
    assert [bench.enrollment(one.id).state for one in (ordering, rehearsal)] == [State.REPLYING, State.AWAITING_MAIL]


def test_a_row_that_never_comes_puts_the_mail_off(make_bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    bench = make_bench(milter={"deadline": "400ms"})
    bench.begin()
    begun = time.monotonic()
    with caplog.at_level(logging.INFO, logger="acme_milter"):
        assert bench.decide() == Decision("tempfail", Reason.ORDER_NOT_KNOWN_YET)
    assert time.monotonic() - begun > 0.25  # it did wait
    assert "challenge-doubt" in caplog.messages[-1]
    assert " condition=G10 reason=order-not-known-yet " in caplog.messages[-1]


def test_an_intent_keeps_no_mail_waiting_that_is_no_challenge(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.begin()
    begun = time.monotonic()
    assert bench.decide(good_mail().set("Subject", " Lunch?").raw()).disposition == "accept"
    assert bench.decide(good_mail().top("List-Id", " <x.example>").raw()).disposition == "accept"
    assert time.monotonic() - begun < 1


def test_doubt_ends_half_an_hour_after_the_first_sight(bench: IntakeBench, caplog: pytest.LogCaptureFixture) -> None:
    bench.names.set_fault(SELECTOR, "servfail")
    for minutes in (0, 10, 19):
        bench.clock.now = NOW + timedelta(minutes=minutes)
        assert bench.decide() == Decision("tempfail", Reason.DKIM_TEMPERROR)
    bench.clock.now = NOW + timedelta(minutes=30) - timedelta(microseconds=1)
    assert bench.decide().disposition == "tempfail"
    bench.clock.now = NOW + timedelta(minutes=30)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="acme_milter"):
        assert bench.decide() == Decision("accept", Reason.TOO_LONG_IN_DOUBT)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "challenge-refused" in record.message
    assert " condition=G16 reason=too-long-in-doubt " in record.message
    assert record.message.endswith("action=deliver alert=1")
    assert bench.replies_due == []


def test_a_mail_that_was_put_off_is_answered_once_the_dns_is_back(bench: IntakeBench) -> None:
    bench.names.set_fault(SELECTOR, "servfail")
    assert bench.decide().disposition == "tempfail"
    bench.names.set_fault(SELECTOR, None)
    bench.clock.advance(minutes=45)
    assert bench.decide() == Decision("discard", Reason.ACCEPTED)


def test_each_challenge_has_a_half_hour_of_its_own(bench: IntakeBench) -> None:
    bench.names.set_fault(SELECTOR, "servfail")
    assert bench.decide().disposition == "tempfail"
    bench.clock.advance(minutes=31)
    assert bench.decide(good_mail(token(2)).signed()).disposition == "tempfail"
    assert bench.decide().disposition == "accept"


def test_the_half_hour_outlives_a_restart(make_bench: MakeBench, bench: IntakeBench) -> None:
    bench.names.set_fault(SELECTOR, "servfail")
    assert bench.decide().disposition == "tempfail"
    second = make_bench(known_account=True)
    second.names.set_fault(SELECTOR, "servfail")
    second.clock.advance(minutes=31)
    assert second.decide() == Decision("accept", Reason.TOO_LONG_IN_DOUBT)


def test_a_certain_no_is_never_put_off(bench: IntakeBench) -> None:
    bench.names.remove(SELECTOR)
    assert bench.decide() == Decision("accept", "dkim-key-missing")


@pytest.fixture
def impatient(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> IntakeBench:
    """A bench whose store waits 50 ms for another's lock instead of two seconds."""
    monkeypatch.setattr("acme_milter.store.database.BUSY_TIMEOUT_MS", 50)
    bench = make_bench()
    bench.expect()
    return bench


def test_a_locked_store_puts_off_for_half_an_hour_as_well(
    impatient: IntakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    with impatient.locked():
        assert impatient.decide() == Decision("tempfail", Reason.STORE_UNAVAILABLE)
        impatient.clock.advance(minutes=29)
        assert impatient.decide() == Decision("tempfail", Reason.STORE_UNAVAILABLE)
        impatient.clock.advance(minutes=1)
        assert impatient.decide() == Decision("accept", Reason.TOO_LONG_IN_DOUBT)
    assert "alert=1" in caplog.messages[-1]
    assert impatient.decide() == Decision("discard", Reason.ACCEPTED)


def test_mails_that_need_no_store_are_decided_while_it_is_locked(impatient: IntakeBench) -> None:
    with impatient.locked():
        assert impatient.decide(None, "carol@example.com") == Decision("accept", Reason.NOT_MANAGED)
        assert impatient.decide(good_mail().raw()) == Decision("accept", "dkim-none")


def test_a_full_disk_puts_the_mail_off_and_recovers_by_itself(bench: IntakeBench) -> None:
    bench.database.close()  # so that every later connection has the limit
    limit_pages = _page_limit(bench)
    sa.event.listen(bench.database._engine, "connect", limit_pages)
    raw = good_mail().with_body(b"line of text\r\n" * 10000).signed()
    assert bench.decide(raw) == Decision("tempfail", Reason.STORE_UNAVAILABLE)
    sa.event.remove(bench.database._engine, "connect", limit_pages)
    bench.database.close()
    assert bench.decide(raw) == Decision("discard", Reason.ACCEPTED)


def _page_limit(bench: IntakeBench) -> Callable[[sa.engine.interfaces.DBAPIConnection, object], None]:
    """SQLite's own SQLITE_FULL, as a full file system gives it: the file may not grow any more."""
    with bench.raw_connection() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()

    def limit(connection: sa.engine.interfaces.DBAPIConnection, _entry: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {pages + 1}")
        cursor.close()

    return limit


def test_a_store_that_vanished_puts_the_mail_off(bench: IntakeBench) -> None:
    bench.database.close()
    for path in bench.store_path.parent.glob("store.db*"):
        path.unlink()
    bench.store_path.mkdir()
    assert bench.decide() == Decision("tempfail", Reason.STORE_UNAVAILABLE)


def test_the_sender_of_the_envelope_and_forged_results_change_nothing(bench: IntakeBench) -> None:
    """T07: only what is signed decides."""
    raw = b"Authentication-Results: mx.example.com; dkim=fail\r\nX-Spam: yes\r\n" + good_mail().signed()
    assert bench.decide(raw) == Decision("discard", Reason.ACCEPTED)
    forged = f"Authentication-Results: mx.example.com; dkim=pass header.d={CA_DOMAIN}\r\n".encode()
    forged += good_mail(token(2)).set("From", f" {SENDER}").raw()
    assert bench.decide(forged) == Decision("accept", "dkim-none")


def test_a_mail_that_waited_too_long_for_other_writers_is_not_answered(make_bench: MakeBench) -> None:
    """The milter has told Postfix to put it off by then: an answer would come on top of the second delivery."""
    impatient = make_bench(milter={"deadline": "200ms"})
    order = impatient.expect()
    decisions: list[Decision] = []
    decider = threading.Thread(target=lambda: decisions.append(impatient.decide()))
    with impatient.database.write():
        decider.start()
        decider.join(0.6)
        assert decider.is_alive()
    decider.join()
    assert [decision.disposition for decision in decisions] == ["tempfail"]
    assert impatient.outbox_of(order) == []
