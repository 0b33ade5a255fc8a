# SPDX-License-Identifier: GPL-3.0-or-later
"""The reply's way through a real Postfix to the authority: what is put off is waited for, what bounces is told."""

import json
from collections.abc import Callable

from acme_milter.lab.processes import free_port
from acme_milter.lab.system import Lab

FILTERED = """\
127.0.0.1:{port} inet n - n - - smtpd
  -o syslog_name=postfix/reinject
  -o content_filter=
  -o mynetworks=127.0.0.0/8
  -o smtpd_relay_restrictions=permit_mynetworks,reject
  -o smtpd_recipient_restrictions=permit_mynetworks,reject
"""


def timeline_of(lab: Lab, address: str) -> dict[str, str]:
    document = json.loads(lab.run_command("mailbox", "show", "--json", address).stdout)
    return {entry["event"]: entry["text"] for entry in document["timeline"]}


def posts(lab: Lab, address: str) -> list[bool]:
    """Whether the reply was there, for each POST of the mailbox's challenge."""
    events = lab.authority.history("challenge-posted")
    return [event["replied"] for event in events if event["identifier"] == address]


def strict_lab(own_lab: Callable[..., Lab], follow: str, **postfix_options: str) -> Lab:
    """An authority that forgives no early POST, and whose MX wants to see each reply again later."""
    knobs = {"EARLY_POST_INVALID": "on", "VALIDATE_AT": "post", "REPLY_GREYLIST": 100}
    return own_lab(mailboxes=2, follow=follow, knobs=knobs, postfix_options=postfix_options)


def test_by_the_queue_a_reply_that_is_put_off_delays_the_post(own_lab: Callable[..., Lab]) -> None:
    lab = strict_lab(own_lab, "queue")
    patient, _ = lab.addresses
    lab.run_command("enroll", patient)
    assert "Greylisted" in lab.wait_for_log("reply-deferred", timeout=60)
    assert posts(lab, patient) == []
    lab.authority.set_knobs(REPLY_GREYLIST=0)
    lab.wait_for_log("certificate-issued", timeout=60)
    assert posts(lab, patient) == [True]


def test_by_the_log_a_reply_is_followed_through_a_filter_and_a_bounce_is_told(own_lab: Callable[..., Lab]) -> None:
    """The filter is Postfix's own second listener: it queues each mail anew, so the reply gets another queue id."""
    port = free_port()
    lab = strict_lab(
        own_lab,
        "log",
        main_extra=f"content_filter = smtp:[127.0.0.1]:{port}\n",
        master_extra=FILTERED.format(port=port),
    )
    patient, refused = lab.addresses
    lab.run_command("enroll", patient)
    assert "Greylisted" in lab.wait_for_log("reply-deferred", timeout=60)
    lab.wait_for_log("enrollment-step-failed", timeout=60)
    document = json.loads(lab.run_command("status", "--json", patient).stdout)
    (row,) = document["mailboxes"]
    assert (row["state"], document["replies"]["deferred"]) == ("replied", 1)
    assert "Greylisted" in row["error"]
    assert "Greylisted" in timeline_of(lab, patient)["reply-deferred"]
    assert posts(lab, patient) == []
    lab.authority.set_knobs(REPLY_GREYLIST=0)
    lab.wait_for_log("certificate-issued", timeout=60)
    assert posts(lab, patient) == [True]
    assert "250 2.0.0 Taken" in timeline_of(lab, patient)["reply-left"]
    lab.authority.set_knobs(REPLY_BOUNCE=100)
    (failed,) = lab.enroll(refused)
    assert failed["state"] == "failed"
    assert "the reply bounced: " in failed["error"]
    assert "550 5.7.26 This mail has not been authenticated" in failed["error"]
    assert posts(lab, refused) == []
    assert json.loads(lab.run_command("status", "--json").stdout)["replies"]["bounced_today"] == 1
