# SPDX-License-Identifier: GPL-3.0-or-later
"""Challenges that are not ours: delivered, told in the log, never answered."""

from collections.abc import Callable

import pytest

from acme_milter.lab.system import Lab


def challenges_in(inbox: list[bytes]) -> int:
    return sum(b"\nSubject: ACME:" in mail for mail in inbox)


def replies_from(lab: Lab, address: str) -> int:
    return sum(event.get("sender") == address for event in lab.authority.history("reply-received"))


@pytest.mark.parametrize("kind", ["foreign", "forged-unsigned", "forged-other-domain"])
def test_without_an_order_of_ours_it_is_delivered_and_never_answered(lab: Lab, mailbox: str, kind: str) -> None:
    lab.authority.send_mail(mailbox, kind)
    assert challenges_in(lab.wait_for_mail(mailbox)) == 1
    assert "alert=1" in lab.wait_for_log(f"rcpt=<{mailbox}>")
    assert replies_from(lab, mailbox) == 0


FLAWS = {
    "unsigned": ({"DKIM": "unsigned"}, "dkim-none"),
    "length-tag": ({"DKIM": "length-tag"}, "dkim-length-tag"),
    "parent-domain": ({"DKIM": "parent-domain"}, "dkim-domain"),
    "other-domain": ({"DKIM": "other-domain"}, "dkim-domain"),
    "bad-signature": ({"DKIM": "bad-signature"}, "dkim-signature"),
    "body-changed": ({"DKIM": "body-changed"}, "dkim-signature"),
    "testing-key": ({"DKIM": "testing-key"}, "dkim-key-testing"),
    "revoked-key": ({"DKIM": "revoked-key"}, "dkim-key-revoked"),
    "no-key": ({"DKIM": "no-key"}, "dkim-key-missing"),
    "expired": ({"DKIM": "expired"}, "dkim-time"),
    "missing-name": ({"DKIM": "missing-name:Sender"}, "dkim-coverage"),
    "second-subject": ({"MAIL_EXTRA_HEADER": "second-subject"}, "duplicate-header"),
    "second-to": ({"MAIL_EXTRA_HEADER": "second-to"}, "duplicate-header"),
    "list-id": ({"MAIL_EXTRA_HEADER": "list-id"}, "list-header"),
    "reply-elsewhere": ({"MAIL_REPLY_TO": "elsewhere"}, "reply-to-foreign"),
    "no-auto-submitted": ({"AUTO_SUBMITTED": "no"}, "not-auto-generated"),
    "auto-replied": ({"AUTO_SUBMITTED": "replied"}, "not-auto-generated"),
    "old-date": ({"MAIL_DATE": "old"}, "dkim-time"),
}


@pytest.mark.parametrize("name", FLAWS)
def test_a_flawed_challenge_of_our_own_order_is_delivered_with_its_reason(lab: Lab, mailbox: str, name: str) -> None:
    knobs, reason = FLAWS[name]
    lab.authority.set_knobs(**knobs)
    lab.run_command("enroll", mailbox)
    assert challenges_in(lab.wait_for_mail(mailbox)) == 1
    line = lab.wait_for_log(f"rcpt=<{mailbox}> mail_from=")
    assert f"reason={reason}" in line
    assert "action=deliver" in line
    assert replies_from(lab, mailbox) == 0


def test_a_strangers_challenge_beside_ours_does_not_spoil_ours(lab: Lab, mailbox: str) -> None:
    lab.authority.set_knobs(MAIL_FOREIGN=100)
    assert [row["state"] for row in lab.enroll(mailbox)] == ["active"]
    # From is unique for each authorization here, so the stranger's cannot be taken for ours.
    assert challenges_in(lab.wait_for_mail(mailbox)) == 1


def test_a_challenge_with_a_second_recipient_is_delivered_to_both(lab: Lab, fresh: Callable[[], str]) -> None:
    mailbox, other = fresh(), fresh()
    lab.authority.set_knobs(MAIL_MULTI_RCPT=other)
    lab.run_command("enroll", mailbox)
    assert challenges_in(lab.wait_for_mail(mailbox)) == 1
    assert challenges_in(lab.wait_for_mail(other)) == 1
    assert replies_from(lab, mailbox) == 0


def test_a_replay_after_the_order_has_ended_is_not_answered_again(lab: Lab, mailbox: str) -> None:
    before = lab.authority.history()[-1]["number"]
    lab.enroll(mailbox)
    sent = lab.authority.history("mail-sent", after=before, raw=True)[-1]
    lab.authority.send_mail(mailbox, "raw", raw=sent["raw"])
    lab.wait_for_log("challenge-duplicate rcpt=<" + mailbox)
    assert replies_from(lab, mailbox) == 1
