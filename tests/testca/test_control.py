# SPDX-License-Identifier: GPL-3.0-or-later
"""The control face: history, orders, hand-made mails."""

import base64
import smtplib
import time

import pytest

from tests.testca.conftest import Enrollment, RunningCa
from tests.testca.small_acme import SmallAcme
from tests.testca.test_challenge_mail import verifies


@pytest.mark.parametrize(
    ("kind", "signed"), [("foreign", True), ("forged-unsigned", False), ("forged-other-domain", True)]
)
def test_forged_and_foreign_mails_are_sent_on_demand(ca: RunningCa, kind: str, signed: bool) -> None:
    url, address = f"{ca.announced['control']}/mail", f"{kind}@org.example"
    answer = ca.session.post(url, json={"to": address, "kind": kind, "from": "acme-challenge@ca.example"})
    assert answer.status_code == 202
    mail = ca.organization.receive(address)
    assert verifies(ca, mail) == signed
    assert (b"d=attacker.example" in mail) == (kind == "forged-other-domain")


def test_any_bytes_are_sent_on_demand(ca: RunningCa) -> None:
    url, raw = f"{ca.announced['control']}/mail", b"Subject: hand-made\r\n\r\nbody\r\n"
    document = {"to": "raw@org.example", "kind": "raw", "raw": base64.b64encode(raw).decode()}
    ca.session.post(url, json=document | {"recipients": ["raw@org.example", "raw2@org.example"], "envelope": ""})
    assert ca.organization.receive("raw@org.example") == ca.organization.receive("raw2@org.example") == raw


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"to": "a@org.example", "kind": "nice"},
        {"to": "a@org.example", "knobs": {"NOSUCH": 1}},
        {"to": "a", "odd": 1},
        [],
    ],
)
def test_a_wrong_request_for_a_mail_is_told(ca: RunningCa, document: object) -> None:
    answer = ca.session.post(f"{ca.announced['control']}/mail", json=document)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_the_history_grows_by_one_and_can_be_waited_for(ca: RunningCa, client: SmallAcme) -> None:
    client.order("history@org.example")
    numbers = [one["number"] for one in ca.history()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {one["kind"] for one in ca.history("order,http")} == {"order", "http"}
    began = time.monotonic()
    assert ca.history("revoked", after=ca.last(), wait=0.3) == []
    assert time.monotonic() - began >= 0.3
    answer = ca.session.get(f"{ca.announced['control']}/history", params={"kind": "gossip"})
    assert (answer.status_code, "mail-sent" in answer.json()["error"]) == (400, True)


def test_the_orders_are_shown_to_a_checker(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.place()
    orders = ca.session.get(f"{ca.announced['control']}/orders").json()["orders"]
    assert orders[-1]["identifiers"] == [enrollment.address]
    assert next(iter(orders[-1]["authorizations"].values()))["challenge"] == "pending"


def test_the_mx_does_not_relay(ca: RunningCa) -> None:
    with smtplib.SMTP("127.0.0.1", ca.announced["mx_port"], timeout=10) as session:
        session.ehlo()
        session.mail("a@org.example")
        assert session.rcpt("b@org.example")[0] == 550
        assert session.rcpt("anything@ca.example")[0] == 250
