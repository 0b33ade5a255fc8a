# SPDX-License-Identifier: GPL-3.0-or-later
"""An authority that has lost our account: orders wait for a person, or go elsewhere, and none is lost."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from acme_milter.enrollment.model import State
from acme_milter.lab.processes import wait_until
from acme_milter.store import accounts, authority_health
from acme_milter.store.authority_health import Health
from acme_milter.worker.breaker import FAILURES
from tests.worker.account_desk import AccountDesk
from tests.worker.conftest import MakeOrderBench
from tests.worker.second_authority import SecondAuthority
from tests.worker.site import Site

COMMANDS = "run: acme-milter authority deactivate ca --yes; then: acme-milter authority register ca --again ("


@pytest.fixture
def second(site: Site, tmp_path: Path) -> Iterator[SecondAuthority]:
    with SecondAuthority(site, tmp_path / "second") as running:
        yield running


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_FIRST", timedelta(milliseconds=20))
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_LONGEST", timedelta(milliseconds=200))
    monkeypatch.setattr("acme_milter.worker.scheduler.LOOK_AGAIN", 0.05)


def lose(desk: AccountDesk) -> None:
    """To the CA it is an account that it never had."""
    lost = desk.one()
    with desk.bench.database.write() as connection:
        accounts.set_url(connection, lost.id, url=f"{lost.url}-lost", terms_url=None, at=desk.bench.clock())


def health(desk: AccountDesk) -> Health:
    with desk.bench.database.read() as connection:
        return authority_health.get(connection, "ca")


def test_an_order_waits_for_a_person_with_the_commands_and_goes_on_with_the_new_account(
    make_orders: MakeOrderBench,
) -> None:
    desk = AccountDesk(make_orders())
    bench = desk.bench
    bench.authorities.client("ca")
    lose(desk)
    opened = bench.open()
    bench.start_scheduler()
    wait_until(lambda: health(desk).is_open, "the authority to count as broken")
    waiting = bench.get(opened.id)
    assert (waiting.state, waiting.successor_id) == (State.ORDERING, None)
    assert COMMANDS in str(waiting.last_error)
    assert health(desk).failures == FAILURES
    assert COMMANDS in str(health(desk).last_error)
    (closed,) = desk.ask("deactivate-accounts")["accounts"]
    assert (closed["outcome"], closed["cancelled"], closed["ordered_anew"]) == ("deactivated", 0, 1)
    wait_until(lambda: "--again" in str(bench.get(opened.id).last_error), "it waits for a new account")
    desk.ask("register-account", again=True)
    assert not health(desk).is_open, "another account mends it, and nobody waits for the next probe"
    assert bench.await_state(opened.id, State.AWAITING_MAIL).account_id == desk.stored()[-1].id


def test_an_order_goes_elsewhere_where_another_authority_can_be_used(
    make_orders: MakeOrderBench, second: SecondAuthority
) -> None:
    bench = make_orders(
        others={"second": second.settings}, policy={"authorities": ["ca", "second"]}, **second.surroundings
    )
    desk = AccountDesk(bench)
    bench.authorities.client("ca")
    lose(desk)
    opened = bench.open()
    bench.start_scheduler().breaker.changed = bench.make_failover().look
    assert bench.await_state(opened.id, State.AWAITING_MAIL, timeout=20).authority == "second"


def test_an_order_that_only_the_lost_account_could_see_has_a_successor(make_orders: MakeOrderBench) -> None:
    desk = AccountDesk(make_orders())
    bench = desk.bench
    placed = bench.step_until(bench.open(), State.ORDERING)
    while placed.order_url is None:
        placed = bench.step(placed)
    lose(desk)
    desk.ask("deactivate-accounts")
    ended = bench.step(bench.get(placed.id))
    assert ended.state is State.FAILED
    assert bench.get(str(ended.successor_id)).state is State.PLANNED
