# SPDX-License-Identifier: GPL-3.0-or-later
"""Authorities differ in when they mail, what they sign and how they answer; each way ends with a certificate."""

import pytest

from acme_milter.lab.system import Lab
from tests.whole_way.conftest import AUTO, KEPT, OBSERVED, POST_FIRST

WAYS: dict[str, dict[str, object]] = {
    "mail-at-the-authorization": {"MAIL_AT": "authz"},
    "mail-inside-new-order": {"MAIL_AT": "neworder", "MAIL_BEFORE_HTTP": "on"},
    "one-from-for-all": {"MAIL_FROM": "fixed"},
    "null-return-path": {"MAIL_RETURN_PATH": "null"},
    "reply-to-in-the-same-domain": {"MAIL_REPLY_TO": "same"},
    "subject-folded": {"MAIL_SUBJECT": "folded"},
    "subject-in-q-words": {"MAIL_SUBJECT": "q"},
    "subject-in-b-words": {"MAIL_SUBJECT": "b"},
    "subject-in-split-words": {"MAIL_SUBJECT": "split"},
    "comment-in-auto-submitted": {"AUTO_SUBMITTED": "comment"},
    "no-date": {"MAIL_DATE": "absent"},
    "simple-canonicalization": {"DKIM": "simple"},
    "first-signature-bad": {"DKIM": "two-signatures-first-bad"},
    "part1-of-16-octets": {"TOKEN_PART1_BYTES": 16},
    "part1-of-20-octets": {"TOKEN_PART1_BYTES": 20},
    "mail-twice": {"MAIL_DUP": 100},
    "bad-nonces": {"NONCEREJECT": 50},
    "asynchronous-finalize": {"FINALIZE_ASYNC": 100},
    "retry-after-as-date": {"FINALIZE_ASYNC": 100, "RETRY_AFTER": "date"},
    "retry-after-garbage": {"FINALIZE_ASYNC": 100, "RETRY_AFTER": "garbage"},
    "error-while-processing": {"PROCESSING_WITH_ERROR": "on"},
    "decided-at-the-post": {"VALIDATE_AT": "post"},
    "threading-required": {"REPLY_THREADING": "required"},
}


@pytest.mark.parametrize("way", WAYS)
def test_it_ends_with_a_certificate_and_one_reply_and_an_empty_inbox(lab: Lab, mailbox: str, way: str) -> None:
    lab.authority.set_knobs(**WAYS[way])
    rows = lab.enroll(mailbox)
    assert [row["state"] for row in rows] == ["active"], rows
    assert sum(event.get("sender") == mailbox for event in lab.authority.history("reply-received")) == 1
    assert lab.postfix.inbox(mailbox) == []


def test_an_authority_that_mails_only_after_the_post(lab: Lab) -> None:
    lab.authority.set_knobs(MAIL_AT="post")
    try:
        assert [row["state"] for row in lab.enroll(f"user0@{POST_FIRST}")] == ["active"]
        assert [row["state"] for row in lab.enroll(f"user0@{AUTO}")] == ["active"]
    finally:
        lab.authority.reset_knobs()


def test_auto_does_not_post_early_to_an_authority_that_would_mind(lab: Lab) -> None:
    lab.authority.set_knobs(EARLY_POST_INVALID="on")
    try:
        assert [row["state"] for row in lab.enroll(f"user1@{AUTO}")] == ["active"]
    finally:
        lab.authority.reset_knobs()


def test_an_authorization_that_is_valid_already_needs_no_mail(lab: Lab, mailbox: str) -> None:
    lab.authority.set_knobs(AUTHZREUSE=100)
    lab.enroll(mailbox)
    before = lab.authority.history()[-1]["number"]
    again = lab.run_command("enroll", "--again", "--wait", "--json", mailbox)
    assert '"state": "active"' in again.stdout
    mails = [event for event in lab.authority.history("mail-queued", after=before) if event["recipient"] == mailbox]
    # Ours is deactivated after use, so a second order gets a mail of its own; the way itself is tested on steps.
    assert len(mails) <= 1


def test_observing_answers_and_suppresses_nothing(lab: Lab) -> None:
    mailbox = f"user0@{OBSERVED}"
    lab.run_command("enroll", mailbox)
    assert any(b"\nSubject: ACME:" in mail for mail in lab.wait_for_mail(mailbox))
    assert "action=deliver" in lab.wait_for_log(f"challenge-observed rcpt=<{mailbox}>")


def test_a_copy_is_kept_where_policy_wants_one(lab: Lab) -> None:
    mailbox = f"user0@{KEPT}"
    assert [row["state"] for row in lab.enroll(mailbox)] == ["active"]
    assert any(b"\nSubject: ACME:" in mail for mail in lab.wait_for_mail(mailbox))


def test_a_refused_address_fails_with_the_authoritys_words_and_others_go_on(lab: Lab, mailbox: str) -> None:
    lab.authority.set_knobs(REFUSE_ADDRESS=mailbox)
    (row,) = lab.enroll(mailbox)
    assert row["state"] == "failed"
    assert "rejectedIdentifier" in row["error"]


def test_a_wrong_certificate_is_not_used(lab: Lab, mailbox: str) -> None:
    lab.authority.set_knobs(CERT="wrongkey")
    (row,) = lab.enroll(mailbox)
    assert (row["state"], row["serial"]) == ("failed", None)


def test_twenty_mailboxes_through_a_troubled_authority(lab: Lab, fresh: object) -> None:
    assert callable(fresh)
    mailboxes = [fresh() for _ in range(12)]
    lab.authority.set_knobs(NONCEREJECT=15, HTTP_RESET_AFTER_COMMIT=5, HTTP_5XX=5, MAIL_DUP=20, FINALIZE_500=20)
    assert {row["state"] for row in lab.enroll(*mailboxes)} == {"active"}
    replies = [event["sender"] for event in lab.authority.history("reply-received")]
    assert all(replies.count(mailbox) >= 1 for mailbox in mailboxes)
