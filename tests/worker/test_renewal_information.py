# SPDX-License-Identifier: GPL-3.0-or-later
"""RFC 9773 against the test CA: its window is kept to, its call is heard, and its nonsense ignored."""

import logging
from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.acme.network import Network
from acme_milter.acme.problem import ServerBusy
from acme_milter.acme.renewal_info import RenewalInfo, renewal_info
from acme_milter.enrollment.model import Cause, Enrollment
from acme_milter.store import certificates, enrollments, renewals
from acme_milter.store.renewals import Renewal
from acme_milter.store.schema import certificate as certificate_table
from acme_milter.worker import renewal_information
from acme_milter.worker.renewal_information import renewal_id
from acme_milter.worker.renewing import Renewing
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.test_background import opened
from tests.worker.test_renewer import certified

MINUTE = timedelta(minutes=1)


def row(bench: OrderBench) -> Renewal:
    with bench.database.read() as connection:
        (found,) = renewals.of_mailbox(connection, bench.addresses[0])
    return found


def test_a_certificate_is_renewed_within_the_window_that_its_authority_names(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    certified(bench)
    (stored,) = bench.certificates()
    bench.make_renewal_information().ask()
    found, lifetime = row(bench), stored.not_after - stored.not_before
    assert found.window_start is not None
    assert found.window_end is not None
    assert abs(found.window_start - (stored.not_before + 2 * lifetime / 3)) < MINUTE
    assert found.window_start <= found.due_at <= found.window_end
    assert found.explanation_url is not None
    with bench.database.read() as connection:
        assert sum(renewals.by_day(connection, "ca", 0, 10**6).values()) == 1


def test_the_authority_is_asked_again_no_sooner_than_six_hours_later(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    certified(bench)
    asking = bench.make_renewal_information()
    asking.ask()
    found = row(bench)
    bench.clock.advance(hours=5)
    asking.ask()
    assert row(bench) == found
    assert found.ask_at is not None
    assert timedelta(hours=1) - MINUTE < found.ask_at - bench.clock() <= timedelta(days=7)
    bench.clock.advance(days=7)
    asking.ask()
    assert row(bench).ask_at != found.ask_at


def test_a_window_that_has_passed_means_now_and_does_not_wait_for_the_pace(
    make_orders: MakeOrderBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_orders()
    certified(bench)
    bench.site.authority.set_knobs(ARI="past")
    with caplog.at_level(logging.WARNING, logger="acme_milter"):
        bench.make_renewal_information().ask()
    assert "renewal-advanced authority=ca count=1 explanation=https://" in caplog.text
    assert row(bench).due_at <= bench.clock()
    bench.make_background().round()
    (renewal,) = opened(bench, Cause.URGENT)
    assert renewal.replaces_id == row(bench).certificate_id


def test_an_authority_that_calls_for_every_successor_is_heard_once_a_day(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    certified(bench)
    bench.site.authority.set_knobs(ARI="past")
    asking, background = bench.make_renewal_information(), bench.make_background()
    asking.ask()
    background.round()
    certified(bench, opened(bench, Cause.URGENT)[0])
    asking.ask()
    background.round()
    assert len(opened(bench, Cause.URGENT)) == 1
    assert timedelta(hours=23) < row(bench).due_at - bench.clock() <= timedelta(days=1)


def test_a_certificate_that_is_dated_back_is_kept_for_a_day_too_whoever_calls(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(ARI="past")
    certified(bench, called_for(bench))
    with bench.database.write() as connection:
        back = bench.clock() - timedelta(days=300)
        connection.execute(certificate_table.update().values(not_before=back))
    bench.make_renewal_information().ask()
    assert timedelta(hours=23) < row(bench).due_at - bench.clock() <= timedelta(days=1)


def called_for(bench: OrderBench) -> Enrollment:
    with bench.database.write() as connection:
        return enrollments.open_new(
            connection, address=bench.addresses[0], authority="ca", cause=Cause.URGENT, now=bench.clock()
        )


def test_one_certificate_that_the_authority_stumbles_over_holds_up_no_other(
    make_orders: MakeOrderBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_orders(mailboxes=2)
    for address in bench.addresses:
        certified(bench, bench.open(address))
    answers = renewal_info
    with bench.database.read() as connection:
        (first,) = renewals.to_ask(connection, "ca", bench.clock(), 1)
        bad = renewal_id(certificates.get(connection, first.certificate_id))

    def stumble(network: Network, name: str) -> RenewalInfo | None:
        if name == bad:
            raise ServerBusy("500")
        return answers(network, name)

    monkeypatch.setattr(renewal_information, "renewal_info", stumble)
    asking = bench.make_renewal_information()
    asking.ask()
    bench.clock.advance(minutes=2)
    asking.ask()
    with bench.database.read() as connection:
        windows = [renewals.of_mailbox(connection, address)[0].window_start for address in bench.addresses]
    assert sorted(found is None for found in windows) == [False, True]


def test_a_window_that_ends_before_it_begins_is_no_answer(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    certified(bench)
    planned = row(bench)
    bench.site.authority.set_knobs(ARI="backwards")
    bench.make_renewal_information().ask()
    found = row(bench)
    assert (found.due_at, found.window_start) == (planned.due_at, None)
    assert found.ask_at is not None
    assert found.ask_at > bench.clock()


def test_an_authority_that_is_not_to_be_asked_is_not(make_orders: MakeOrderBench) -> None:
    bench = make_orders(authority={"use_ari": False})
    certified(bench)
    before = row(bench)
    bench.make_renewal_information().ask()
    assert row(bench) == before


def test_one_that_does_not_answer_is_left_alone_for_a_while(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    certified(bench)
    asking, planned = bench.make_renewal_information(), row(bench)
    bench.site.authority.set_knobs(ARI="past")
    bench.configure({"directory": "https://127.0.0.1:9/directory"}, {})
    with bench.database.write() as connection:
        connection.execute(sa.text("UPDATE account SET directory_url = 'https://127.0.0.1:9/directory'"))
    asking.ask()
    bench.configure({}, {})
    asking.ask()
    assert (row(bench).due_at, row(bench).window_start) == (planned.due_at, None)
    bench.clock.advance(hours=7)
    with bench.database.write() as connection:
        known = bench.site.authority.directory_url
        connection.execute(sa.text("UPDATE account SET directory_url = :known"), {"known": known})
    asking.ask()
    assert row(bench).window_start is not None


def test_no_chore_stands_behind_what_waits_for_an_authority(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    renewing = Renewing(
        config=lambda: bench.config, database=bench.database, authorities=bench.authorities, clock=bench.jumps
    )
    asking = {chore.name for chore in renewing.asking()}
    assert asking == {"probe", "renewal-information"}
    assert asking.isdisjoint(chore.name for chore in renewing.chores(lambda: None))
