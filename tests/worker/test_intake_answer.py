# SPDX-License-Identifier: GPL-3.0-or-later
"""What a proven challenge leads to: one transaction, one answer, whatever comes at the same time or afterwards."""

import base64
import hashlib

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.conditions import Reason
from acme_milter.enrollment.model import State
from acme_milter.keys.sealing import SealBroken
from acme_milter.store import challenge_mails
from acme_milter.worker.intake import Decision
from tests.protocol.sample_mail import (
    NOW,
    RECIPIENT,
    SENDER,
    TOKEN_PART1,
    good_mail,
)
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import (
    OTHER_MAILBOX,
    QUEUE_ID,
    THUMBPRINT,
    TOKEN_PART2,
    IntakeBench,
    digest_in,
    expected_digest,
)


def test_a_proven_challenge_is_swallowed_with_one_row_each_and_its_enrollment_moved_on(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench()
    enrollment = bench.expect()
    before = bench.contents()
    raw = good_mail().signed()
    with caplog.at_level("INFO", logger="acme_milter"):
        assert bench.decide(raw) == Decision("discard", Reason.ACCEPTED)
    after = bench.contents()
    assert {name: len(after[name]) - len(before[name]) for name in after} == {
        **dict.fromkeys(after, 0),
        "challenge_mail": 1,
        "outbox": 1,
        "audit": 1,
    }
    moved = bench.enrollment(enrollment.id)
    assert (moved.state, moved.version) == (State.REPLYING, enrollment.version + 1)
    (entry,) = bench.outbox_of(enrollment)
    assert bench.replies_due == [entry.id]
    assert (entry.envelope_sender, entry.envelope_recipient) == (RECIPIENT, SENDER)
    assert (entry.next_attempt_at, entry.handovers, entry.sent_at) == (NOW, 0, None)
    with bench.database.read() as connection:
        (stored,) = challenge_mails.of_enrollment(connection, enrollment.id)
    assert (stored.queue_id, stored.disposition, stored.accepted_at) == (QUEUE_ID, "discard", NOW)
    assert (stored.dkim_domain, stored.dkim_selector) == ("ca.example", "rsa")
    assert bench.vault.unseal_mail(stored.id, stored.sealed_mail) == raw
    assert caplog.messages[-1] == (
        f"{QUEUE_ID}: challenge-accepted rcpt=<{RECIPIENT}> authority=ca order={enrollment.id} "
        f"from=<{SENDER}> dkim=pass d=ca.example s=rsa action=discard"
    )


@pytest.mark.parametrize("octets", [32, 33])
def test_where_the_rfc_leaves_the_joining_open_the_log_says_which_one_was_taken_if_it_matters(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture, octets: int
) -> None:
    bench = make_bench()
    enrollment = bench.expect()
    text = base64.urlsafe_b64encode(bytes(range(octets))).decode("ascii")
    with caplog.at_level("INFO", logger="acme_milter"):
        assert bench.decide(good_mail(text).signed()).reason == Reason.ACCEPTED
    said = [line for line in caplog.messages if "token" in line]
    assert len(said) == (1 if octets % 3 else 0)
    for line in said:
        order = f"rcpt=<{RECIPIENT}> authority=ca order={enrollment.id}"
        assert line.startswith(f"-: token-join-assumed {order} token_join=string octets={octets} hint=")
        assert "authorities.ca.token_join" in line


def test_the_stored_reply_is_the_one_that_rfc_8823_demands(bench: IntakeBench) -> None:
    raw = good_mail().set("Reply-To", " Responder@CA.Example").signed()
    assert bench.decide(raw).reason == Reason.ACCEPTED
    with bench.database.read() as connection:
        row = connection.execute(sa.text("SELECT id, sealed_reply, message_id, envelope_recipient FROM outbox")).one()
    reply = bench.vault.unseal_reply(row.id, row.sealed_reply)
    assert row.envelope_recipient == "Responder@ca.example"
    lines = reply.decode("ascii").split("\r\n")
    assert lines[-5:] == [
        "",
        "-----BEGIN ACME RESPONSE-----",
        expected_digest(TOKEN_PART1),
        "-----END ACME RESPONSE-----",
        "",
    ]
    assert dict(line.split(": ", 1) for line in lines[:-5]) == {
        "Date": NOW.strftime("%a, %d %b %Y %H:%M:%S +0000"),
        "From": RECIPIENT,
        "To": "Responder@ca.example",
        "Subject": f"Re: ACME: {TOKEN_PART1}",
        "Message-ID": row.message_id,
        "In-Reply-To": "<A2299BB.FF7788@ca.example>",
        "References": "<A2299BB.FF7788@ca.example>",
        "Auto-Submitted": "auto-replied",
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=us-ascii",
        "Content-Transfer-Encoding": "7bit",
    }


@pytest.mark.parametrize(
    ("joining", "joined"),
    [
        ("string", "LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sMEDGyRejmCefe7v4NfDGDKfA"),
        ("string-padded", "LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME=DGyRejmCefe7v4NfDGDKfA"),
        # Two octets of part1's last group are left over, so that part2 begins in the middle of a letter.
        ("bytes", "LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sMEMbJF6OYJ597u_g18MYMp8"),
    ],
)
def test_the_authoritys_way_of_joining_tokens_is_followed(make_bench: MakeBench, joining: str, joined: str) -> None:
    bench = make_bench(authority={"token_join": joining})
    enrollment = bench.expect()
    assert bench.decide().reason == Reason.ACCEPTED
    (entry,) = bench.outbox_of(enrollment)
    found = digest_in(bench.vault.unseal_reply(entry.id, entry.sealed_reply))
    octets = hashlib.sha256(f"{joined}.{THUMBPRINT}".encode()).digest()
    assert found == base64.urlsafe_b64encode(octets).decode().rstrip("=")


def test_no_token_and_no_digest_is_stored_or_logged_in_clear(
    bench: IntakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        assert bench.decide().reason == Reason.ACCEPTED
        assert bench.decide().reason == Reason.ANSWERED_ALREADY
    for secret in (TOKEN_PART1, TOKEN_PART1.rstrip("="), TOKEN_PART2, expected_digest(TOKEN_PART1)):
        assert secret.encode() not in bench.stored_octets()
        assert secret not in caplog.text


def test_a_sealed_value_opens_for_its_own_row_alone(bench: IntakeBench) -> None:
    bench.decide()
    with bench.database.read() as connection:
        entry = connection.execute(sa.text("SELECT id, sealed_reply FROM outbox")).one()
        mail = connection.execute(sa.text("SELECT id, sealed_mail FROM challenge_mail")).one()
    changed = mail.sealed_mail[:-1] + bytes([mail.sealed_mail[-1] ^ 1])
    for unseal, row_id, sealed in (
        (bench.vault.unseal_reply, "another row", entry.sealed_reply),
        (bench.vault.unseal_mail, entry.id, entry.sealed_reply),
        (bench.vault.unseal_mail, mail.id, changed),
    ):
        with pytest.raises(SealBroken):
            unseal(row_id, sealed)


@pytest.mark.parametrize(
    "event", ["INSERT ON challenge_mail", "INSERT ON outbox", "UPDATE ON enrollment", "INSERT ON audit"]
)
def test_what_cannot_be_stored_whole_is_not_stored_at_all(bench: IntakeBench, event: str) -> None:
    with bench.raw_connection() as connection:
        connection.execute(f"CREATE TRIGGER broken BEFORE {event} BEGIN SELECT RAISE(ABORT, 'no'); END")
    before = bench.contents()
    assert bench.decide() == Decision("tempfail", Reason.STORE_UNAVAILABLE)
    after = bench.contents()
    assert len(after.pop("doubt")) == 1
    assert after == {name: rows for name, rows in before.items() if name != "doubt"}
    assert bench.replies_due == []
    with bench.raw_connection() as connection:
        connection.execute("DROP TRIGGER broken")
    assert bench.decide() == Decision("discard", Reason.ACCEPTED)


@pytest.mark.parametrize("recipient", [RECIPIENT.upper(), "Alexey@Example.COM"])
def test_the_case_of_the_address_does_not_matter(make_bench: MakeBench, recipient: str) -> None:
    bench = make_bench()
    enrollment = bench.expect()
    assert bench.decide(good_mail().set("To", f" {recipient}").signed(), recipient).reason == Reason.ACCEPTED
    (entry,) = bench.outbox_of(enrollment)
    assert entry.envelope_sender == RECIPIENT


@pytest.mark.parametrize(
    ("recipient", "to", "reason"),
    [
        ("alexey+tag@example.com", RECIPIENT, Reason.NOT_MANAGED),
        ("alias@example.com", RECIPIENT, Reason.NOT_MANAGED),
        (RECIPIENT, "alias@example.com", Reason.RECIPIENT_MISMATCH),
        (RECIPIENT, "alexey+tag@example.com", Reason.RECIPIENT_MISMATCH),
        (OTHER_MAILBOX, RECIPIENT, Reason.RECIPIENT_MISMATCH),
    ],
)
def test_an_alias_of_the_mailbox_is_not_the_mailbox(
    bench: IntakeBench, recipient: str, to: str, reason: Reason
) -> None:
    assert bench.decide(good_mail().set("To", f" {to}").signed(), recipient) == Decision("accept", reason)


@pytest.mark.parametrize("others", [("x@y.example",), (OTHER_MAILBOX,), (RECIPIENT,), ("x@y.example", OTHER_MAILBOX)])
@pytest.mark.parametrize("first", [True, False])
def test_a_mail_for_several_recipients_reaches_them_all(
    bench: IntakeBench, others: tuple[str, ...], first: bool
) -> None:
    recipients = (RECIPIENT, *others) if first else (*others, RECIPIENT)
    assert bench.decide(None, *recipients) == Decision("accept", Reason.SEVERAL_RECIPIENTS)
    assert bench.replies_due == []
