# SPDX-License-Identifier: GPL-3.0-or-later
"""An authority that takes the connection and then holds still keeps nobody from asking the others."""

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.eventlog import Event
from acme_milter.lab.processes import wait_until
from acme_milter.store import authority_health, renewals
from acme_milter.store.authority_health import Health
from acme_milter.store.renewals import Renewal
from acme_milter.store.schema import account, certificate, renewal
from acme_milter.worker.each_authority import EachAuthority
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.test_failover import broken, health
from tests.worker.test_renewer import certified

STILL = "a-still-one"  # the first in any order by name


class StillServer:
    """Takes connections and says nothing."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(10)
        self.directory = f"https://127.0.0.1:{self.listening.getsockname()[1]}/directory"
        self.held: list[socket.socket] = []

    def hold(self) -> None:
        """Take the next connection. Raises TimeoutError when there is none."""
        self.held.append(self.listening.accept()[0])

    def end(self) -> None:
        for one in (*self.held, self.listening):
            one.close()


@pytest.fixture
def still() -> Iterator[StillServer]:
    server = StillServer()
    yield server
    server.end()


def made(make_orders: MakeOrderBench, still: StillServer, mailboxes: int = 1) -> OrderBench:
    return make_orders(others={STILL: {"directory": still.directory}}, mailboxes=mailboxes)


def test_a_broken_authority_that_answers_is_found_out_while_another_one_holds_still(
    make_orders: MakeOrderBench, still: StillServer
) -> None:
    bench = made(make_orders, still)
    for name in (STILL, "ca"):
        broken(bench, name, probe_at=bench.clock() - timedelta(seconds=1))
    prober = bench.make_prober()
    prober.begin()
    still.hold()
    wait_until(lambda: health(bench).wants_trial, "the other's probe", timeout=10)
    assert health(bench, STILL).openings == 1
    bench.clock.advance(hours=1)
    prober.begin()  # it is due again, and has not answered yet
    still.end()
    prober.stop()
    assert health(bench, STILL).openings == 2
    prober.begin()
    prober.settle()  # nothing begins after the end


def test_renewal_information_is_asked_for_while_another_authority_holds_still(
    make_orders: MakeOrderBench, still: StillServer
) -> None:
    bench = made(make_orders, still, mailboxes=2)
    for address in bench.addresses:
        certified(bench, bench.open(address))
    _hand_over(bench, bench.addresses[0], still)
    asked_at = _row(bench, bench.addresses[0]).ask_at
    asking = bench.make_renewal_information()
    asking.begin()
    still.hold()
    wait_until(lambda: _row(bench, bench.addresses[1]).window_start is not None, "the other's answer", timeout=10)
    assert _row(bench, bench.addresses[0]).ask_at == asked_at
    still.end()
    asking.stop()
    assert _row(bench, bench.addresses[0]).ask_at != asked_at


def test_the_clock_is_confirmed_while_another_authority_holds_still(
    make_orders: MakeOrderBench, still: StillServer
) -> None:
    bench = made(make_orders, still, mailboxes=2)
    for address in bench.addresses:
        certified(bench, bench.open(address))
    _hand_over(bench, bench.addresses[0], still)
    looking = threading.Thread(target=bench.watch.look)
    looking.start()
    still.hold()
    wait_until(lambda: bench.watch.is_confirmed("ca"), "the other's answer", timeout=10)
    still.end()
    looking.join()
    assert not bench.watch.is_confirmed(STILL)


def _row(bench: OrderBench, address: str) -> Renewal:
    with bench.database.read() as connection:
        (found,) = renewals.of_mailbox(connection, address)
    return found


def _hand_over(bench: OrderBench, address: str, still: StillServer) -> None:
    """As if the still authority had issued this mailbox's certificate."""
    with bench.database.write() as connection:
        for table in (certificate, renewal):
            connection.execute(table.update().where(table.c.address == address).values(authority=STILL))
        known = dict(connection.execute(sa.select(account)).mappings().one())
        changed = {"id": "still", "authority": STILL, "directory_url": still.directory}
        connection.execute(account.insert().values(**known | changed))


def test_one_authority_has_one_turn_at_a_time_and_its_fault_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    turns, may_end, done = EachAuthority("test"), threading.Event(), []
    turns.begin("a", may_end.wait)
    turns.begin("a", lambda: done.append("a"))
    turns.begin("b", lambda: done.remove("what is not there"))
    turns.begin("c", lambda: done.append("c"))
    wait_until(lambda: done == ["c"], "the third's turn")
    wait_until(lambda: f"{Event.INTERNAL_ERROR} " in caplog.text, "the second's fault")
    assert "chore=test authority=b" in caplog.text
    may_end.set()
    turns.settle()
    turns.begin("a", lambda: done.append("a"))
    turns.stop()
    turns.begin("a", lambda: done.append("too late"))
    turns.settle()
    assert done == ["c", "a"]


def test_a_turn_that_could_not_begin_is_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under TasksMax= or RLIMIT_NPROC: later there may be threads again."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    turns, done = EachAuthority("test"), list[str]()
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError):
            turns.begin("a", lambda: done.append("too early"))
    turns.begin("a", lambda: done.append("a"))
    turns.stop()
    assert done == ["a"]


def test_what_no_configuration_names_any_more_is_forgotten_and_not_asked(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    broken(bench, "gone", probe_at=bench.clock() - timedelta(seconds=1))
    prober = bench.make_prober()
    prober.begin()
    prober.stop()
    with bench.database.read() as connection:
        assert authority_health.get(connection, "gone") == Health(authority="gone")
