# SPDX-License-Identifier: GPL-3.0-or-later
"""Knobs about when mails leave, what becomes of them, and when a reply counts."""

import base64
import re
import time

import pytest

from tests.testca.conftest import Enrollment, RunningCa
from tests.testca.organization import make_reply
from tests.testca.test_challenge_mail import verifies


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
    ("form", "verdicts"),
    [("ignored", ["valid", "valid"]), ("checked", ["valid", "invalid"]), ("required", ["invalid", "invalid"])],
)
def test_threading_of_replies_can_be_demanded(
    ca: RunningCa, enrollment: Enrollment, form: str, verdicts: list[str]
) -> None:
    ca.chaos(REPLY_THREADING=form)
    found = []
    for line in (b"", b"In-Reply-To: <other@ca.example>\r\n"):
        enrollment.place()
        enrollment.fetch_authorization()
        mail = enrollment.receive()
        reply = re.sub(rb"In-Reply-To: .*\r\n", line, make_reply(mail, enrollment.digest(mail)))
        enrollment.deliver(ca.organization.sign(reply))
        found.append(enrollment.verdict()["verdict"])
    assert found == verdicts


def test_mails_can_be_delayed_and_come_from_nowhere(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(MAIL_DELAY=0.3, MAIL_RETURN_PATH="null")
    enrollment.place()
    began = time.monotonic()
    enrollment.fetch_authorization()
    enrollment.receive()
    assert time.monotonic() - began >= 0.3
    assert ca.organization.senders[-1] == "<>"
