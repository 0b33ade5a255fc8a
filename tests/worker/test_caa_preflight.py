# SPDX-License-Identifier: GPL-3.0-or-later
"""Before an order: a domain's CAA records are looked at as the authority would, by a real DNS and against a real CA."""

import dataclasses
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from acme_milter.clock import Clock
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.eventlog import LOGGER_NAME
from acme_milter.lab.name_server import NameFault, NameServer
from acme_milter.lab.processes import wait_until
from acme_milter.worker.caa import Answer, CaaCheck, CaaLookup, Permission
from acme_milter.worker.order_driver import OrderDriver
from acme_milter.worker.validation import LOOK_AT_CAA
from tests.forked_commands import run_forked
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.site import DOMAIN, Site

US = ("ca.example",)


class Leap(Clock):
    """The machine's clock, and what a test adds."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Zone:
    """A DNS of its own, and a check that asks it."""

    def __init__(self, names: NameServer) -> None:
        self.names = names
        self.clock = Leap()
        self.check = CaaCheck(CaaLookup([("127.0.0.1", names.port)], timeout=2.0), self.clock)

    def answer(self, domain: str = DOMAIN) -> Answer:
        """What is found out, however long that takes."""
        wait_until(lambda: self.check("ca", US, domain).permission is not Permission.PENDING, "an answer")
        return self.check("ca", US, domain)


@pytest.fixture
def zone() -> Iterator[Zone]:
    with NameServer({"other.example": ["x"]}) as names:
        zone = Zone(names)
        yield zone
        zone.check.close()


@pytest.fixture
def bench(make_orders: MakeOrderBench, site: Site) -> Iterator[OrderBench]:
    """Its CA minds CAA records, and so do we."""
    bench = make_orders(mailboxes=4)
    check = CaaCheck(CaaLookup([("127.0.0.1", site.names.port)]), Clock())
    bench.desk = dataclasses.replace(bench.desk, may_issue=check)
    bench.driver = OrderDriver(bench.desk)
    site.authority.set_knobs(CAA="enforced")
    yield bench
    check.close()
    site.names.set_caa(DOMAIN)


def settled(bench: OrderBench, enrollment: Enrollment) -> Enrollment:
    """After the first step that is not a mere wait for the DNS."""
    after = bench.step(enrollment)
    while after.state is State.PLANNED and after.last_error is None:
        after = bench.step(after)
    return after


def test_what_the_authority_must_refuse_is_not_ordered_and_the_record_to_add_is_shown(
    bench: OrderBench, site: Site
) -> None:
    site.names.set_caa(DOMAIN, (0, "issuemail", "rival.example"))
    waiting = settled(bench, bench.open())
    assert waiting.state is State.PLANNED
    assert waiting.last_error is not None
    assert f'{DOMAIN}. CAA 0 issuemail "ca.example"' in waiting.last_error
    assert "permits only rival.example" in waiting.last_error
    assert waiting.next_attempt_at is not None
    assert bench.clock() < waiting.next_attempt_at <= bench.clock() + LOOK_AT_CAA
    assert bench.happened("order") == []
    assert waiting.key_id is None


def test_with_that_record_the_order_is_placed_and_the_authority_agrees(bench: OrderBench, site: Site) -> None:
    site.names.set_caa(DOMAIN, (0, "issuemail", "rival.example"), (0, "issuemail", "ca.example; account=1"))
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    assert bench.step_until(bench.answer_mail(awaiting), State.ACTIVE).state is State.ACTIVE


def test_with_caa_ignore_the_authority_is_the_one_to_refuse(make_orders: MakeOrderBench, site: Site) -> None:
    bench = make_orders(authority={"caa": "ignore"})
    site.authority.set_knobs(CAA="enforced")
    site.names.set_caa(DOMAIN, (0, "issuemail", ";"))
    try:
        failed = bench.step_until(bench.open(), State.FAILED)
    finally:
        site.names.set_caa(DOMAIN)
    assert "caa" in (failed.last_error or "")
    assert failed.successor_id is None


def test_the_configured_name_counts_where_the_directory_has_another(make_orders: MakeOrderBench, site: Site) -> None:
    bench = make_orders(authority={"caa_domains": ["issuer.example"]})
    check = CaaCheck(CaaLookup([("127.0.0.1", site.names.port)]), Clock())
    bench.desk = dataclasses.replace(bench.desk, may_issue=check)
    bench.driver = OrderDriver(bench.desk)
    site.names.set_caa(DOMAIN, (0, "issuemail", "ca.example"))
    try:
        waiting = settled(bench, bench.open())
    finally:
        site.names.set_caa(DOMAIN)
        check.close()
    assert 'issuemail "issuer.example"' in (waiting.last_error or "")


def test_one_lookup_serves_every_mailbox_of_a_domain(bench: OrderBench, site: Site) -> None:
    before = site.names.questions.count(DOMAIN)
    for address in bench.addresses:
        bench.step_until(bench.open(address), State.ORDERING)
    assert site.names.questions.count(DOMAIN) - before <= 2  # the CA and we are not the only ones to ask it


def test_a_dns_that_fails_holds_the_order_up_with_back_off_and_says_which_name(bench: OrderBench, site: Site) -> None:
    site.names.set_fault(DOMAIN, NameFault.SERVFAIL)
    try:
        waiting = settled(bench, bench.open())
        again = bench.step(waiting)
    finally:
        site.names.set_fault(DOMAIN, None)
    assert (waiting.state, waiting.attempts, again.attempts) == (State.PLANNED, 1, 2)
    assert f"CAA of {DOMAIN}" in (waiting.last_error or "")
    assert "SERVFAIL" in (waiting.last_error or "")
    assert bench.happened("order") == []


def test_the_closest_name_with_records_decides(zone: Zone) -> None:
    zone.names.set_caa("example", (0, "issuemail", ";"))
    refused = zone.answer("deep.down.org.example")
    assert refused.permission is Permission.REFUSED
    assert 'example. CAA 0 issuemail "ca.example"' in refused.text
    zone.names.set_caa("down.org.example", (0, "issue", ";"))
    assert zone.answer("nearer.down.org.example").permission is Permission.GIVEN


def test_a_domain_without_any_record_is_anybodys(zone: Zone) -> None:
    assert zone.answer().permission is Permission.GIVEN
    assert zone.names.questions == [DOMAIN, "example"]


def test_a_malformed_value_permits_nobody(zone: Zone) -> None:
    zone.names.set_caa(DOMAIN, (0, "issuemail", "ca.example."))
    assert zone.answer().permission is Permission.REFUSED


def test_an_answer_is_kept_for_a_minute_at_least_and_then_asked_for_again(zone: Zone) -> None:
    zone.answer()
    asked = len(zone.names.questions)
    zone.clock.ahead = 50
    zone.answer()
    assert len(zone.names.questions) == asked
    zone.names.set_caa(DOMAIN, (0, "issuemail", ";"))
    zone.clock.ahead = 301  # the zone has no SOA record that would say otherwise
    assert zone.answer().permission is Permission.REFUSED


def test_a_refusal_is_noticed_to_be_mended(zone: Zone) -> None:
    zone.names.set_caa(DOMAIN, (0, "issuemail", ";"))
    assert zone.answer().permission is Permission.REFUSED
    zone.names.set_caa(DOMAIN, (0, "issuemail", "ca.example"))
    zone.clock.ahead = timedelta(minutes=6).total_seconds()
    assert zone.answer().permission is Permission.GIVEN


def test_a_dns_that_hangs_for_one_domain_holds_up_no_other(zone: Zone) -> None:
    zone.names.set_fault("slow.example", NameFault.TIMEOUT)
    assert zone.check("ca", US, "slow.example").permission is Permission.PENDING
    assert zone.answer("other.example").permission is Permission.GIVEN
    unclear = zone.answer("slow.example")
    assert unclear.permission is Permission.UNCLEAR
    assert "in time" in unclear.text


def test_an_authority_without_a_name_is_not_checked_which_is_said_once(
    zone: Zone, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", LOGGER_NAME):
        answers = {zone.check("ca", (), DOMAIN).permission for _ in range(3)}
    assert answers == {Permission.GIVEN}
    (line,) = [record.getMessage() for record in caplog.records if "caa-unchecked" in record.getMessage()]
    assert line.startswith("-: caa-unchecked authority=ca error=")
    assert "authorities.ca.caa_domains" in line
    assert zone.names.questions == []


@pytest.mark.parametrize("asks", [{}, {"caa": "ignore"}, {"caa_domains": ["ca.example"]}])
def test_check_online_ends_with_75_where_an_authority_cannot_be_reached(
    site: Site, tmp_path: Path, asks: dict[str, object]
) -> None:
    path = tmp_path / "acme-milter.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"https://127.0.0.1:{taken.getsockname()[1]}/directory"
    document = {
        "version": 1,
        "dns": {"nameservers": [site.names.address]},
        "authorities": {"ca": {"directory": nobody, "agree_tos": True, **asks}},
        "domains": {name: {"mailboxes": {"list": [f"a@{name}"]}} for name in (DOMAIN, f"b.{DOMAIN}")},
    }
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    command = [sys.executable, "-m", "acme_milter", "--config", str(path), "check", "--online"]
    done = run_forked(command)
    assert (done.returncode, done.stdout) == (75, "")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert line.startswith("authorities.ca: 127.0.0.1")
    answer = json.loads(run_forked([*command, "--json"]).stdout)
    assert (answer["ok"], answer["unreachable"]) == (False, [line])


def test_check_online_says_who_may_not_issue_and_what_to_add(site: Site, tmp_path: Path) -> None:
    site.names.set_caa("example", (0, "issuemail", "rival.example"))
    path = tmp_path / "acme-milter.yaml"
    ca = {"directory": site.authority.directory_url, "ca_bundle": str(site.authority.ca_bundle), "agree_tos": True}
    document = {
        "version": 1,
        "dns": {"nameservers": [site.names.address]},
        "authorities": {"ca": ca, "rival": {**ca, "caa_domains": ["rival.example"]}, "any": {**ca, "caa": "ignore"}},
        "defaults": {"authorities": ["ca", "rival", "any"]},
        "domains": {DOMAIN: {"mailboxes": {"list": [f"a@{DOMAIN}"]}}},
    }
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "acme_milter", "--config", str(path), "check", "--online", "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        site.names.set_caa("example")
    rows = {row["authority"]: row for row in json.loads(done.stdout)["caa"]}
    assert {name: row["permission"] for name, row in rows.items()} == {
        "ca": "refused",
        "rival": "given",
        "any": "unchecked",
    }
    assert rows["ca"]["text"].endswith('the record to add: example. CAA 0 issuemail "ca.example"')
