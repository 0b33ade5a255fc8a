# SPDX-License-Identifier: GPL-3.0-or-later
"""The CA's own time: everything it dates goes by it, and a long rehearsal does not fill its memory."""

import email
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from acme_milter.testca.clock import Clock
from acme_milter.testca.history import Happening, History
from acme_milter.worker.reply_signing import ReplySigner
from tests.testca.conftest import Enrollment, RunningCa, start_ca
from tests.testca.organization import DOMAIN, Organization, make_reply
from tests.testca.test_certificates import issue

YEARS = timedelta(days=4 * 365)
NEAR = timedelta(minutes=5)
"""More than a test takes, and less than any clock is moved by here."""


@pytest.fixture
def later(ca: RunningCa) -> Iterator[datetime]:
    """The CA's time, four years ahead; of the present again after the test."""
    set_clock(ca, YEARS.total_seconds())
    yield datetime.now(UTC) + YEARS
    set_clock(ca, 0)


def set_clock(ca: RunningCa, ahead_seconds: object) -> requests.Response:
    return ca.session.post(f"{ca.announced['control']}/clock", json={"ahead_seconds": ahead_seconds})


def is_near(instant: datetime, other: datetime) -> bool:
    return abs(instant - other) < NEAR


def test_orders_and_authorizations_are_dated_by_the_ca_clock(later: datetime, enrollment: Enrollment) -> None:
    day = timedelta(days=1)
    assert is_near(datetime.fromisoformat(enrollment.place()["expires"]), later + day)
    assert is_near(datetime.fromisoformat(enrollment.fetch_authorization()["expires"]), later + day)
    orders = enrollment.ca.session.get(f"{enrollment.ca.announced['control']}/orders").json()["orders"]
    assert is_near(datetime.fromisoformat(orders[-1]["created"]), later)


def test_a_challenge_mail_has_the_ca_clock_in_its_date_and_its_signature(
    later: datetime, enrollment: Enrollment
) -> None:
    enrollment.place()
    enrollment.fetch_authorization()
    mail = email.message_from_bytes(enrollment.receive())
    assert is_near(parsedate_to_datetime(mail["Date"]), later)
    tags = dict(tag.strip().split("=", 1) for tag in mail["DKIM-Signature"].split(";"))
    assert is_near(datetime.fromtimestamp(int(tags["t"]), UTC), later)


def test_certificates_are_of_the_ca_clock_and_its_own_ones_outlast_them(
    later: datetime, enrollment: Enrollment
) -> None:
    leaf = issue(enrollment)
    assert is_near(leaf.not_valid_before_utc, later)
    issuing = enrollment.ca.announced["trust_roots"]
    roots = x509.load_pem_x509_certificates(Path(issuing).read_bytes())
    assert all(root.not_valid_after_utc - datetime.now(UTC) > timedelta(days=15 * 365) for root in roots)
    seen = enrollment.ca.session.get(f"{enrollment.ca.announced['control']}/certificates").json()["certificates"]
    assert seen[-1]["serial"] == f"{leaf.serial_number:x}"
    assert (seen[-1]["identifiers"], seen[-1]["revoked"]) == ([enrollment.address], None)


@pytest.mark.parametrize(("ahead", "faults"), [(timedelta(), []), (timedelta(hours=1), ["dkim-time"])])
def test_the_time_of_a_reply_signature_is_judged_by_the_ca_clock(
    later: datetime, enrollment: Enrollment, tmp_path: Path, ahead: timedelta, faults: list[str]
) -> None:
    key_file = tmp_path / "dkim.pem"
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(enrollment.ca.organization.rsa_key.private_bytes(*pem))
    enrollment.place()
    enrollment.fetch_authorization()
    mail = enrollment.receive()
    reply = make_reply(mail, enrollment.digest(mail))
    enrollment.deliver(ReplySigner("rsa", key_file).sign(reply, DOMAIN, now=later + ahead))
    assert enrollment.verdict()["faults"] == faults


def test_http_answers_are_of_the_ca_clock_and_tls_of_the_machine(later: datetime, ca: RunningCa) -> None:
    answer = ca.session.get(ca.announced["directory"])  # verified by the machine's time, four years earlier
    assert is_near(parsedate_to_datetime(answer.headers["Date"]), later)
    assert answer.headers["Date"].endswith("GMT")


def test_the_clock_is_told_and_refuses_what_is_no_time(ca: RunningCa) -> None:
    for wrong in (-1, "tomorrow", True, None, 1e12, [1]):
        answer = set_clock(ca, wrong)
        assert (answer.status_code, "ahead_seconds" in answer.json()["error"]) == (400, True)
    assert ca.session.post(f"{ca.announced['control']}/clock", json={"now": "today"}).status_code == 400
    told = ca.session.get(f"{ca.announced['control']}/clock").json()
    assert told["ahead_seconds"] == 0
    assert is_near(datetime.fromisoformat(told["now"]), datetime.now(UTC))


def test_a_bounded_history_forgets_the_oldest_and_keeps_its_numbers() -> None:
    history = History(Clock(), most=3)
    for number in range(5):
        history.add(Happening.CHAOS, knobs=number)
    assert [entry.number for entry in history.select(0, ())] == [3, 4, 5]
    assert [entry.number for entry in history.select(4, ())] == [5]
    assert history.select(5, ()) == []
    assert history.last == 5


def test_the_bound_of_the_history_is_an_option(tmp_path: Path, organization: Organization) -> None:
    running = start_ca(tmp_path, organization, "--events", "2")
    try:
        for value in (1, 2, 3):
            running.chaos(FINALIZE_POLLS=value)
        assert [event["number"] for event in running.history()] == [2, 3]
    finally:
        running.stop()
