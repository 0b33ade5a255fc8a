# SPDX-License-Identifier: GPL-3.0-or-later
"""What authorities, policies and faults do to single enrollments; test_behaviours has the list of their ways."""

from acme_milter.lab.system import Lab
from tests.whole_way.conftest import AUTO, KEPT, OBSERVED


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
