# SPDX-License-Identifier: GPL-3.0-or-later
"""Knobs and the control face: faults strike when asked for, never otherwise, and a wrong name is told."""

import base64
import subprocess
import sys
import time

import pytest
import requests
from click.testing import CliRunner

from acme_milter.cli import testca as face
from tests.testca.conftest import Enrollment, RunningCa
from tests.testca.organization import make_reply
from tests.testca.small_acme import SmallAcme
from tests.testca.test_challenge_mail import verifies
from tests.testca.test_http_rules import problem


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("NONCEREJCT=5", "did you mean NONCEREJECT"),
        ("DKIM=perfect", "good|unsigned|rsa-sha1"),
        ("DKIM=missing-name:", "missing-name:X"),
        ("NONCEREJECT=101", "0..100"),
        ("TOKEN_PART1_BYTES=7", "8..64"),
        ("SLOW=-1", "seconds"),
        ("DKIM", "NAME=VALUE"),
    ],
)
def test_a_wrong_knob_on_the_command_line_is_a_usage_error(setting: str, told: str) -> None:
    command = ["--smtp-target", "127.0.0.1:25", "--state-dir", "/nowhere", "--reply-dkim", "off", "--chaos", setting]
    result = CliRunner().invoke(face.testca, command)
    assert result.exit_code == 2
    assert told in result.output


def test_replies_cannot_be_verified_without_a_resolver() -> None:
    result = CliRunner().invoke(face.testca, ["--smtp-target", "127.0.0.1:25", "--state-dir", "/nowhere"])
    assert (result.exit_code, "--resolver" in result.output) == (2, True)


def test_the_knobs_are_listed() -> None:
    command = [sys.executable, "-m", "acme_milter.testca", "--knobs"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "NONCEREJECT=0.0" in listed
    assert "missing-name:X" in listed


@pytest.mark.parametrize(
    "knobs", [{"NOSUCH": 1}, {"DKIM": "perfect"}, {"SLOW": "fast"}, {"MAIL_LOSS": 5, "CERT": "shiny"}]
)
def test_a_wrong_knob_over_the_control_face_changes_nothing(ca: RunningCa, knobs: dict[str, object]) -> None:
    answer = ca.chaos(**knobs)
    assert answer.status_code == 400
    assert next(name for name in knobs if name != "MAIL_LOSS") in answer.json()["error"]
    assert ca.session.get(f"{ca.announced['control']}/chaos").json()["values"]["MAIL_LOSS"] == 0


def test_a_rejected_nonce_brings_the_next_one(ca: RunningCa, client: SmallAcme) -> None:
    ca.chaos(NONCEREJECT=100)
    answer = client.order("nonce@org.example")
    assert (problem(answer), bool(answer.headers["Replay-Nonce"])) == ("badNonce", True)


def test_a_reset_comes_after_the_effect(ca: RunningCa, client: SmallAcme) -> None:
    before = ca.last()
    ca.chaos(HTTP_RESET_AFTER_COMMIT="on")
    with pytest.raises(requests.ConnectionError):
        client.order("reset@org.example")
    assert ca.history("order", after=before)[0]["identifiers"] == ["reset@org.example"]


def test_server_trouble_comes_before_the_effect(ca: RunningCa, client: SmallAcme) -> None:
    before = ca.last()
    ca.chaos(HTTP_5XX=100)
    assert {client.order("trouble@org.example").status_code for _ in range(12)} == {500, 503}
    assert ca.history("order", after=before) == []
    assert {one["knob"] for one in ca.history("fault", after=before)} == {"HTTP_5XX"}


@pytest.mark.parametrize(
    ("form", "pattern"),
    [("int", "1"), ("date", "GMT"), ("garbage", "soon"), ("huge", "99999999999"), ("neg", "-5"), ("none", "")],
)
def test_retry_after_takes_every_form(ca: RunningCa, enrollment: Enrollment, form: str, pattern: str) -> None:
    ca.chaos(RETRY_AFTER=form)
    enrollment.place()
    assert pattern in enrollment.client.post(enrollment.authorization).headers.get("Retry-After", "")


def test_a_rate_limit_says_when_and_where(ca: RunningCa, client: SmallAcme) -> None:
    ca.chaos(RATELIMIT=100)
    answer = client.order("limit@org.example")
    assert (answer.status_code, problem(answer), answer.headers["Retry-After"]) == (429, "rateLimited", "1")
    assert answer.links["help"]


def test_a_refused_address_is_named(ca: RunningCa, client: SmallAcme) -> None:
    ca.chaos(REFUSE_ADDRESS="bad@org.example, refused.example")
    for address in ("bad@org.example", "any@refused.example"):
        answer = client.order("good@org.example", address)
        assert problem(answer) == "rejectedIdentifier"
        assert answer.json()["subproblems"][0]["identifier"]["value"] == address


def test_a_valid_authorization_is_reused_when_asked(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.validate()
    first = enrollment.authorization
    assert enrollment.place()["authorizations"] != [first]
    ca.chaos(AUTHZREUSE="on")
    order = enrollment.place()
    assert (order["authorizations"], order["status"]) == ([first], "ready")


def test_an_open_order_is_handed_back_when_asked(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.place()
    first = enrollment.url
    ca.chaos(ORDERREUSE="on")
    enrollment.place()
    assert enrollment.url == first


def test_finalize_can_fail_once_and_the_order_stays_ready(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.validate()
    ca.chaos(FINALIZE_500="on")
    assert enrollment.finalize().status_code == 500
    ca.chaos(FINALIZE_500="off")
    assert enrollment.finalize().json()["status"] == "valid"


def test_an_authorization_expires(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(AUTHZ_LIFETIME=0.05)
    enrollment.place()
    time.sleep(0.1)
    assert enrollment.fetch_authorization()["status"] == "invalid"
    assert enrollment.order()["status"] == "invalid"


def test_a_deactivated_authorization_ends_its_order(enrollment: Enrollment) -> None:
    enrollment.place()
    answer = enrollment.client.post(enrollment.authorization, {"status": "deactivated"})
    assert answer.json()["status"] == "deactivated"
    assert enrollment.order()["status"] == "invalid"


def test_the_mail_can_precede_the_answer_to_new_order(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(MAIL_AT="neworder", MAIL_BEFORE_HTTP="on")
    enrollment.place()
    assert not ca.organization.box(enrollment.address).empty()
    enrollment.fetch_authorization()
    enrollment.receive()
    assert ca.organization.box(enrollment.address).empty()


def test_the_mail_can_wait_for_the_post(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(MAIL_AT="post")
    enrollment.place()
    enrollment.fetch_authorization()
    assert ca.organization.box(enrollment.address).empty()
    assert enrollment.client.post(enrollment.challenge, {}).json()["status"] == "processing"
    enrollment.answer(enrollment.receive())
    assert enrollment.challenge_state()["status"] == "valid"


def test_an_early_post_can_invalidate(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(EARLY_POST_INVALID="on")
    enrollment.place()
    enrollment.fetch_authorization()
    mail = enrollment.receive()
    assert enrollment.client.post(enrollment.challenge, {}).json()["status"] == "invalid"
    enrollment.answer(mail)
    assert enrollment.challenge_state()["status"] == "invalid"


def test_the_reply_can_wait_for_the_post(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(VALIDATE_AT="post", PROCESSING_WITH_ERROR="on")
    enrollment.place()
    enrollment.fetch_authorization()
    enrollment.answer(enrollment.receive())
    assert enrollment.challenge_state()["status"] == "pending"
    assert enrollment.client.post(enrollment.challenge, {}).json()["status"] == "valid"


def test_a_challenge_can_show_an_error_while_processing(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(PROCESSING_WITH_ERROR="on")
    enrollment.place()
    enrollment.fetch_authorization()
    state = enrollment.client.post(enrollment.challenge, {}).json()
    assert (state["status"], "error" in state) == ("processing", True)
    enrollment.answer(enrollment.receive())
    state = enrollment.challenge_state()
    assert (state["status"], "error" in state) == ("valid", False)


def test_replies_can_be_matched_by_sender(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(MATCH_BY_FROM="on")
    enrollment.place()
    enrollment.fetch_authorization()
    mail = enrollment.receive()
    reply = make_reply(mail, enrollment.digest(mail), subject="Re: ACME: c29tZWJvZHkgZWxzZQ")
    enrollment.deliver(ca.organization.sign(reply))
    assert enrollment.verdict()["faults"] == ["subject"]


@pytest.mark.parametrize(("knob", "code"), [("REPLY_GREYLIST", 451), ("REPLY_BOUNCE", 550)])
def test_replies_can_be_turned_away(ca: RunningCa, enrollment: Enrollment, knob: str, code: int) -> None:
    ca.chaos(**{knob: "on"})
    enrollment.place()
    enrollment.fetch_authorization()
    mail = enrollment.receive()
    assert enrollment.answer(mail)[0] == code
    ca.chaos(**{knob: "off"})
    assert enrollment.answer(mail)[0] == 250
    assert enrollment.challenge_state()["status"] == "valid"


def test_a_mail_is_retried_after_a_temporary_refusal(ca: RunningCa, enrollment: Enrollment) -> None:
    before = ca.last()
    ca.organization.answers += ["451 4.7.1 later", "452 4.3.1 later still"]
    enrollment.place()
    enrollment.fetch_authorization()
    mail = enrollment.receive()
    sent = ca.history("mail-sent", after=before, wait=5)[0]
    deferred = ca.history("mail-deferred", after=before)
    assert [(one["attempt"], one["code"]) for one in deferred] == [(1, 451), (2, 452)]
    assert (sent["attempt"], sent["code"], sent["recipient"]) == (3, 250, enrollment.address)
    assert base64.b64decode(ca.history("mail-sent", after=before, raw=True)[0]["raw"]) == mail
    assert "raw" not in sent


def test_a_permanent_refusal_is_final(ca: RunningCa, enrollment: Enrollment) -> None:
    before = ca.last()
    ca.organization.answers += ["550 5.1.1 nobody here"]
    enrollment.place()
    enrollment.fetch_authorization()
    assert ca.history("mail-bounced", after=before, wait=5)[0]["code"] == 550


def test_mails_can_be_lost_and_doubled_and_accompanied(ca: RunningCa, enrollment: Enrollment) -> None:
    before = ca.last()
    ca.chaos(MAIL_LOSS=100)
    enrollment.place()
    enrollment.fetch_authorization()
    assert ca.history("mail-lost", after=before)[0]["recipient"] == enrollment.address
    ca.chaos(MAIL_LOSS=0, MAIL_DUP=100, MAIL_FOREIGN=100)
    enrollment.place()
    enrollment.fetch_authorization()
    mails = [enrollment.receive() for _ in range(3)]
    assert len(set(mails)) == 2
    assert all(verifies(ca, mail) for mail in mails)


def test_a_second_recipient_can_be_added(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(MAIL_MULTI_RCPT="postmaster@org.example")
    enrollment.place()
    enrollment.fetch_authorization()
    assert enrollment.receive() == ca.organization.receive("postmaster@org.example")


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
