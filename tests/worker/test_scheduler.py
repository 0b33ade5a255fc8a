# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's own loop: many enrollments at once through faults, its limits, and two workers on one store."""

import logging
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.conditions import Reason
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import Deferred, advance
from acme_milter.lab.processes import wait_until
from acme_milter.store import enrollments, queue
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of hundredths instead of seconds, so that a test sees many of them."""
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_FIRST", timedelta(milliseconds=20))
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_LONGEST", timedelta(milliseconds=200))
    monkeypatch.setattr("acme_milter.enrollment.backoff.POLL_FIRST", timedelta(milliseconds=50))
    monkeypatch.setattr("acme_milter.worker.scheduler.LOOK_AGAIN", 0.05)


def states(bench: OrderBench) -> dict[State, int]:
    with bench.database.read() as connection:
        rows = connection.execute(sa.text("SELECT state, count(*) FROM enrollment GROUP BY state")).all()
    return {State(state): count for state, count in rows}


@pytest.mark.parametrize(
    "knobs",
    [{}, {"HTTP_RESET_AFTER_COMMIT": 30}, {"HTTP_5XX": 30}, {"NONCEREJECT": 30}, {"MAIL_DUP": 100, "MAIL_REORDER": 30}],
    ids=lambda knobs: " ".join(knobs) or "calm",
)
@pytest.mark.usefixtures("_hasty")
def test_twenty_enrollments_all_become_active_whatever_the_authority_does(
    make_orders: MakeOrderBench, knobs: dict[str, int]
) -> None:
    bench = make_orders(mailboxes=20)
    bench.site.authority.set_knobs(RETRY_AFTER="none", **knobs)
    scheduler = bench.start_scheduler()
    ids = bench.open_all()
    scheduler.wake()
    ended = bench.await_end(ids, timeout=40)
    assert {found.state for found in ended.values()} == {State.ACTIVE}
    assert len(bench.certificates()) == 20
    counted = [
        one for one in bench.site.authority.history("reply-received") if one.get("identifier") in bench.addresses
    ]
    # N2: one reply for each authorization whose mail came to us.
    digests = [one["authorization"] for one in counted]
    assert len(digests) == len(set(digests))
    assert {one["verdict"] for one in counted} == {"valid"}


@pytest.mark.usefixtures("_hasty")
def test_a_mail_that_is_quicker_than_the_authorizations_answer_is_answered(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=4, milter={"deadline": "1s"})
    bench.site.authority.set_knobs(MAIL_BEFORE_HTTP="on", RETRY_AFTER="none")
    bench.start_scheduler()
    ended = bench.await_end(bench.open_all(), timeout=20)
    assert {found.state for found in ended.values()} == {State.ACTIVE}
    # The CA answers only when its mail has been tried once; that try waits in vain and is put off.
    for address in bench.addresses:
        decisions = bench.site.mx.decisions[address]
        assert [one.reason for one in decisions] == [Reason.ORDER_NOT_KNOWN_YET, Reason.ACCEPTED]


@pytest.mark.usefixtures("_hasty")
def test_a_post_that_brings_the_mail_within_its_answer_loses_nothing(make_orders: MakeOrderBench) -> None:
    """The mail moves the enrollment on while the POST's step is under way: that step's save is void."""
    bench = make_orders(mailboxes=4, authority={"challenge_trigger": "post-first"})
    bench.site.authority.set_knobs(MAIL_AT="post", MAIL_BEFORE_HTTP="on", RETRY_AFTER="none")
    bench.start_scheduler()
    ended = bench.await_end(bench.open_all(), timeout=20)
    assert {found.state for found in ended.values()} == {State.ACTIVE}


@pytest.mark.usefixtures("_hasty")
def test_no_more_than_the_limit_are_in_flight_and_the_others_follow(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=6, authority={"limits": {"in_flight": 2}})
    bench.site.authority.set_knobs(MAIL_LOSS=100, RETRY_AFTER="none")
    bench.start_scheduler()
    bench.open_all()
    wait_until(lambda: states(bench).get(State.AWAITING_MAIL) == 2, "two in flight")
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        assert states(bench) == {State.PLANNED: 4, State.AWAITING_MAIL: 2}
        time.sleep(0.02)
    with bench.database.write() as connection:
        connection.execute(sa.text("UPDATE enrollment SET state = 'cancelled' WHERE state = 'awaiting-mail'"))
    wait_until(lambda: states(bench).get(State.AWAITING_MAIL) == 2, "the next two")
    assert states(bench) == {State.PLANNED: 2, State.AWAITING_MAIL: 2, State.CANCELLED: 2}


@pytest.mark.usefixtures("_hasty")
def test_a_full_authority_keeps_no_other_waiting(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=40, authority={"limits": {"in_flight": 1}}, others={"second": {}})
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    bench.open_all()
    last = bench.open(bench.addresses[-1], authority="second")
    bench.start_scheduler(threads=2)
    bench.await_state(last.id, State.AWAITING_MAIL)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said, until the test ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener.getsockname()[1]


@pytest.mark.usefixtures("_hasty")
def test_an_authority_that_never_answers_keeps_no_other_waiting(make_orders: MakeOrderBench, silent_port: int) -> None:
    """N7: the threads that wait for it are not all there are."""
    silent = {"directory": f"https://127.0.0.1:{silent_port}/directory"}
    bench = make_orders(mailboxes=40, others={"silent": silent})
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    for address in bench.addresses:
        bench.open(address, authority="silent")
    last = bench.open(bench.addresses[-1], authority="ca")
    bench.start_scheduler(threads=4)
    bench.await_state(last.id, State.AWAITING_MAIL, timeout=5)


@pytest.mark.usefixtures("_hasty")
def test_a_rate_limit_pauses_the_whole_authority_and_it_goes_on_afterwards(
    make_orders: MakeOrderBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_orders(mailboxes=12, others={"second": {}})
    authority = bench.site.authority
    bench.step(bench.open())  # registers the account
    authority.set_knobs(RATELIMIT=100, RETRY_AFTER_SECONDS=600)
    ids = [bench.open(address).id for address in bench.addresses[1:]]
    asked = len(authority.history("http"))
    with caplog.at_level(logging.INFO, logger="acme_milter"):
        bench.start_scheduler(threads=2)
        wait_until(lambda: "authority-paused" in caplog.text, "the pause")
        time.sleep(0.3)
    refused = [one for one in authority.history("http")[asked:] if one["status"] == 429]
    assert 1 <= len(refused) <= 2  # those that were under way in the two threads
    authority.set_knobs(RATELIMIT=0, MAIL_LOSS=100)
    other = bench.open(bench.addresses[0], authority="second")
    bench.await_state(other.id, State.AWAITING_MAIL)
    assert all(bench.get(one).order_url is None for one in ids)
    bench.clock.advance(seconds=601)
    for one in ids:
        bench.await_state(one, State.AWAITING_MAIL)


@pytest.mark.usefixtures("_hasty")
def test_nonsense_in_place_of_a_certificate_is_asked_for_again_and_then_given_up(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(CERT="extra", RETRY_AFTER="none")
    bench.start_scheduler()
    failed = bench.await_end([bench.open().id])[bench.addresses[0]]
    assert (failed.state, failed.successor_id) == (State.FAILED, None)
    assert "a PEM block that is no certificate" in (failed.last_error or "")
    assert bench.certificates() == []


@pytest.mark.usefixtures("_hasty")
def test_two_workers_on_one_store_take_each_step_once(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=10)
    bench.site.authority.set_knobs(RETRY_AFTER="none")
    ids = bench.open_all()
    bench.start_scheduler("one", threads=4)
    bench.start_scheduler("two", threads=4)
    ended = bench.await_end(ids, timeout=30)
    assert {found.state for found in ended.values()} == {State.ACTIVE}
    for kind in ("order", "finalized", "reply-received"):
        assert [len(bench.happened(kind, address=address)) for address in bench.addresses] == [1] * 10
    with bench.database.read() as connection:
        keys = connection.execute(sa.text("SELECT count(*) FROM mailbox_key")).scalar_one()
        assert keys == 10


def test_a_leased_enrollment_is_nobody_elses_until_the_lease_ends(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    enrollment = bench.open()
    now = bench.clock()
    with bench.database.write() as connection:
        assert enrollments.claim(connection, enrollment.id, owner="one", now=now, until=now + timedelta(minutes=5))
        assert enrollments.claim(connection, enrollment.id, owner="two", now=now, until=now) is None
        assert queue.waiting(connection, "ca", now=now, limit=5) == []
    later = now + timedelta(minutes=5, seconds=1)
    with bench.database.write() as connection:
        assert enrollments.claim(connection, enrollment.id, owner="two", now=later, until=later) == enrollment


def test_a_worker_that_slept_past_its_lease_saves_nothing_over_its_successors_work(
    make_orders: MakeOrderBench,
) -> None:
    """F-37: the version is the fence."""
    bench = make_orders()
    read_before_sleep = bench.open()
    ordering = bench.step(read_before_sleep)
    stale = advance(read_before_sleep, Deferred(next_attempt_at=bench.clock(), last_error="stale"), bench.clock())
    with pytest.raises(enrollments.StaleVersion), bench.database.write() as connection:
        enrollments.save(connection, stale)
    assert bench.get(ordering.id) == ordering


@pytest.mark.usefixtures("_hasty")
def test_a_start_takes_up_what_its_predecessor_left_leased(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(RETRY_AFTER="none")
    enrollment = bench.open()
    now = bench.clock()
    with bench.database.write() as connection:
        until = now + timedelta(minutes=5)
        assert enrollments.claim(connection, enrollment.id, owner="bench#dead", now=now, until=until)
    bench.start_scheduler()
    assert bench.await_end([enrollment.id])[enrollment.address].state is State.ACTIVE


@pytest.mark.usefixtures("_hasty")
def test_a_worker_stopped_at_any_moment_leaves_work_that_its_successor_finishes(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=8)
    bench.site.authority.set_knobs(RETRY_AFTER="none", SLOW=0.05)
    ids = bench.open_all()
    for _ in range(4):
        scheduler = bench.start_scheduler()
        time.sleep(0.15)
        scheduler.stop()
    bench.start_scheduler()
    ended = bench.await_end(ids)
    assert {found.state for found in ended.values()} == {State.ACTIVE}
    assert [len(bench.happened("reply-received", address=address)) for address in bench.addresses] == [1] * 8


@pytest.mark.usefixtures("_hasty")
def test_no_token_of_any_enrollment_is_logged_or_stored_in_clear(
    make_orders: MakeOrderBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_orders(mailboxes=2)
    with caplog.at_level(logging.DEBUG, logger="acme_milter"):
        bench.start_scheduler()
        ended = bench.await_end(bench.open_all())
    octets = b"".join(path.read_bytes() for path in bench.store_files())
    for found in ended.values():
        for secret in _secrets(bench, found):
            assert secret.encode() not in octets
            assert secret not in caplog.text


def _secrets(bench: OrderBench, enrollment: Enrollment) -> list[str]:
    assert enrollment.token_part2 is not None
    mail = bench.site.mx.raws[enrollment.address].decode()
    subject = next(line for line in mail.splitlines() if line.startswith("Subject:"))
    return [bench.vault.unseal_token(enrollment.id, enrollment.token_part2), subject.rpartition("ACME:")[2].strip()]
