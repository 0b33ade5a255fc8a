# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail through a real Postfix and the milter role: what passes untouched, what the worker sees, what is suppressed."""

import smtplib
import time
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from acme_milter.lab.processes import wait_until

SUBJECT = b"Subject: ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME=\r\n"
# Only its arithmetic could show that this signature is none.
SIGNATURE = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=ca.example; s=s; h=from:to:subject;\r\n"
    b" bh=" + b"A" * 43 + b"=;\r\n b=" + b"A" * 342 + b"==\r\n"
)
CHALLENGE = SIGNATURE + (
    b"From: acme@ca.example\r\nTo: alice@org.example\r\n" + SUBJECT + b"Auto-Submitted: auto-generated; type=acme\r\n"
    b"Message-ID: <1@ca.example>\r\n\r\nA challenge.\r\n"
)
HEAD = b"From: carol@elsewhere.example\r\nTo: alice@org.example\r\nSubject: lunch\r\n"
ORDINARY = HEAD + b"\r\nNoon?\r\n"


def say(smtp: smtplib.SMTP, raw: bytes, recipient: str) -> None:
    """One mail in a session that goes on; it must be taken."""
    assert smtp.mail("acme@ca.example")[0] == 250
    assert smtp.rcpt(recipient)[0] == 250
    assert smtp.docmd("DATA")[0] == 354
    smtp.send(raw + b".\r\n")
    assert smtp.getreply()[0] == 250


def answers(disposition: str) -> Any:
    return lambda _: {"disposition": disposition, "reason": "test"}


def test_a_candidate_for_one_managed_mailbox_is_discarded_when_the_worker_says_so(room: Any) -> None:
    room.worker.disposition = answers("discard")
    assert room.send(CHALLENGE, "alice@org.example")[0] == 250
    room.postfix.wait_for_empty_queue()
    assert room.postfix.inbox("alice@org.example") == []
    assert room.worker.seen[0].raw == CHALLENGE
    header = room.worker.seen[0].header
    assert (header["recipients"], header["sender"]) == (["alice@org.example"], "acme@ca.example")
    assert (header["client_address"], header["daemon"], header["auth"]) == ("127.0.0.1", "mx.lab.invalid", False)
    assert f" {header['queue_id']}: milter-discard" in room.postfix.log_text()


def test_a_candidate_is_delivered_untouched_when_the_worker_accepts_it(room: Any) -> None:
    assert room.send(CHALLENGE, "alice@org.example")[0] == 250
    assert room.delivered("alice@org.example") == [CHALLENGE]


def test_a_candidate_is_put_off_when_the_worker_is_in_doubt(room: Any) -> None:
    room.worker.disposition = answers("tempfail")
    assert room.send(CHALLENGE, "alice@org.example") == (451, b"4.7.1 acme-milter: try again later")
    assert room.postfix.inbox("alice@org.example") == []


@pytest.mark.parametrize(
    "recipients",
    [("alice@org.example", "bob@org.example"), ("alice@org.example", "carol@org.example")],
    ids=["both-managed", "one-managed"],
)
def test_a_mail_with_several_recipients_is_never_discarded(room: Any, recipients: tuple[str, ...]) -> None:
    room.worker.disposition = answers("discard")
    assert room.send(CHALLENGE, *recipients)[0] == 250
    for recipient in recipients:
        assert room.delivered(recipient) == [CHALLENGE]
    assert "invariant-broken" in room.log_text()


def test_mail_without_a_managed_recipient_is_never_looked_into(room: Any) -> None:
    room.worker.disposition = answers("discard")
    assert room.send(CHALLENGE, "carol@org.example", "dave@org.example")[0] == 250
    assert room.delivered("carol@org.example") == [CHALLENGE]
    assert room.worker.seen == []


def test_no_header_is_sent_for_an_unmanaged_recipient(unstarted: Any) -> None:
    unstarted.start(before=RAISING.format(name="header"))
    assert unstarted.send(CHALLENGE, "carol@org.example")[0] == 250
    assert "internal-error" not in unstarted.log_text()


def test_an_alias_is_judged_as_addressed_and_delivered_to_all(room: Any) -> None:
    assert room.send(CHALLENGE, "team@org.example")[0] == 250
    assert room.delivered("carol@org.example") == room.delivered("dave@org.example") == [CHALLENGE]
    assert room.worker.seen == []


def test_an_address_is_recognized_however_it_is_written(room: Any) -> None:
    room.worker.disposition = answers("discard")
    for recipient in ("<ALICE@Org.Example>", '<"alice"@org.example>'):
        assert room.send(CHALLENGE, recipient)[0] == 250
    assert [seen.header["recipients"] for seen in room.worker.seen] == [["alice@org.example"]] * 2


@pytest.mark.parametrize(
    "raw",
    [
        ORDINARY,
        HEAD + b"X-Raw: \xe4\xf6\xfc\xff\r\n\r\nBytes \x80\xff and dots:\r\n.\r\n..\r\n. end\r\n",
        HEAD + b"X-Long: " + b"h" * 5000 + b"\r\n\r\n" + b"b" * 5000 + b"\r\n",
        HEAD + b"X-Fold: a\r\n\tb\r\n   c\r\nX-Tight:none\r\nX-Wide:     five \t\r\n\r\n\r\n  \r\n\r\n",
        HEAD + b"\r\n" + (b"0123456789abcdef" * 60 + b"\r\n") * 5450,
        b"Subject: Re: ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6v\r\nFrom: x@y.example\r\n\r\nreply\r\n",
    ],
    ids=["plain", "8-bit", "long-lines", "blanks", "5-megabyte", "re-acme"],
)
def test_ordinary_mail_for_a_managed_mailbox_is_delivered_octet_by_octet(room: Any, raw: bytes) -> None:
    assert room.send(raw, "alice@org.example")[0] == 250
    assert room.delivered("alice@org.example") == [raw]
    assert room.worker.seen == []


def test_mail_with_utf8_addresses_and_headers_is_delivered_octet_by_octet(room: Any) -> None:
    raw = "From: Jörg <jörg@bücher.example>\r\nTo: alice@org.example\r\nSubject: Grüße\r\n\r\nHällo\r\n".encode()
    options = ["SMTPUTF8", "BODY=8BITMIME"]
    with smtplib.SMTP("127.0.0.1", room.postfix.smtp_port, timeout=20) as smtp:
        smtp.ehlo()
        smtp.command_encoding = "utf-8"
        assert smtp.mail("jörg@bücher.example", options)[0] == 250
        assert smtp.rcpt("alice@org.example")[0] == 250
        smtp.docmd("DATA")
        smtp.send(raw + b".\r\n")
        assert smtp.getreply()[0] == 250
    assert room.delivered("alice@org.example") == [raw]


def test_a_huge_candidate_reaches_the_worker_cut_and_its_recipient_whole(room: Any) -> None:
    raw = CHALLENGE + (b"x" * 70 + b"\r\n") * 40_000
    assert room.send(raw, "alice@org.example")[0] == 250
    assert room.delivered("alice@org.example") == [raw]
    [seen] = room.worker.seen
    assert seen.header["truncated"] is True
    assert seen.raw == raw[: 256 * 1024 + 1]


def test_messages_of_one_session_do_not_see_each_other(room: Any) -> None:
    room.worker.disposition = answers("discard")
    with smtplib.SMTP("127.0.0.1", room.postfix.smtp_port, timeout=20) as smtp:
        smtp.ehlo()
        smtp.mail("acme@ca.example")
        smtp.rcpt("bob@org.example")
        smtp.rset()
        for raw, recipient in ((CHALLENGE, "alice"), (ORDINARY, "alice"), (CHALLENGE, "carol"), (ORDINARY, "bob")):
            say(smtp, raw, f"{recipient}@org.example")
    room.postfix.wait_for_empty_queue()
    assert [seen.header["recipients"] for seen in room.worker.seen] == [["alice@org.example"]]
    assert room.delivered("alice@org.example") == [ORDINARY]
    assert room.delivered("carol@org.example") == [CHALLENGE]
    assert room.delivered("bob@org.example") == [ORDINARY]


def test_a_submission_service_is_none_of_our_business(unstarted: Any) -> None:
    unstarted.start(main_extra="milter_macro_daemon_name = ORIGINATING\n")
    unstarted.worker.disposition = answers("discard")
    assert unstarted.send(CHALLENGE, "alice@org.example")[0] == 250
    assert unstarted.delivered("alice@org.example") == [CHALLENGE]
    assert unstarted.worker.seen == []


def test_a_dead_worker_delays_candidates_and_nothing_else(room: Any) -> None:
    room.worker.stop()
    assert room.send(CHALLENGE, "alice@org.example")[0] == 451
    assert room.send(ORDINARY, "alice@org.example")[0] == 250
    assert room.send(CHALLENGE, "carol@org.example")[0] == 250
    room.worker.start()
    assert room.send(CHALLENGE, "alice@org.example")[0] == 250


def test_a_milter_that_never_met_its_worker_lets_ordinary_mail_pass_and_delays_candidates(unstarted: Any) -> None:
    unstarted.start(with_worker=False)
    assert unstarted.send(ORDINARY, "alice@org.example")[0] == 250
    assert unstarted.send(CHALLENGE, "alice@org.example")[0] == 451
    unstarted.worker.start()
    assert unstarted.worker.asked_for_managed.wait(5)
    assert unstarted.send(CHALLENGE, "alice@org.example")[0] == 250


def test_a_worker_that_sleeps_delays_the_candidate_by_the_deadline_and_ordinary_mail_not_at_all(unstarted: Any) -> None:
    unstarted.start(deadline=1.0)

    def asleep(_: Any) -> dict[str, object]:
        began = time.monotonic()
        assert unstarted.send(ORDINARY, "alice@org.example")[0] == 250
        took.append(time.monotonic() - began)
        time.sleep(1.5)
        return {"disposition": "discard"}

    took: list[float] = []
    unstarted.worker.disposition = asleep
    assert unstarted.send(CHALLENGE, "alice@org.example")[0] == 451
    assert took[0] < 0.5


# Breaks one of our own functions inside the real role: everything libmilter calls goes through one of these.
RAISING = """
from acme_milter.milter import edge
def fail(*_args, **_kwargs):
    raise RuntimeError("an accident with secret-canary")
if {name!r} == "negotiate":
    edge.Connection.__init__ = fail
elif {name!r} == "envrcpt":
    edge.fold_recipient = fail
elif {name!r} == "data":
    edge._envelope = fail
else:
    method = {{"eoh": "at_end_of_headers", "eom": "candidate", "abort": "clear"}}.get({name!r}, {name!r})
    setattr(edge.Connection, method, fail)
"""


@pytest.mark.parametrize("name", ["negotiate", "envrcpt", "data", "header", "eoh", "body", "eom", "abort"])
def test_an_exception_in_any_callback_lets_every_mail_pass(unstarted: Any, name: str) -> None:
    unstarted.start(before=RAISING.format(name=name))
    unstarted.worker.disposition = answers("accept")
    with smtplib.SMTP("127.0.0.1", unstarted.postfix.smtp_port, timeout=20) as smtp:
        smtp.ehlo()
        smtp.mail("x@y.example")
        smtp.rcpt("alice@org.example")
        assert smtp.rset()[0] == 250
        for raw in (ORDINARY, CHALLENGE):
            say(smtp, raw, "alice@org.example")
    assert sorted(unstarted.delivered("alice@org.example", 2)) == sorted([ORDINARY, CHALLENGE])
    assert f"internal-error callback={name} error=RuntimeError" in unstarted.log_text()
    assert "secret-canary" not in unstarted.log_text()
    assert unstarted.milter.running


def test_mail_flows_while_the_milter_is_dead_and_the_next_one_takes_over_its_socket(room: Any) -> None:
    room.milter.kill()
    assert room.send(ORDINARY, "alice@org.example")[0] == 250
    assert room.milter_socket.exists()
    room.worker.disposition = answers("discard")
    room.milter.start()
    wait_until(lambda: room.log_text().count("role-ready") == 2, "the second milter")
    assert room.send(CHALLENGE, "alice@org.example")[0] == 250
    assert room.delivered("alice@org.example") == [ORDINARY]


def test_it_leaves_at_once_when_asked_to_and_takes_its_socket_with_it(room: Any) -> None:
    assert room.send(ORDINARY, "alice@org.example")[0] == 250
    began = time.monotonic()
    assert room.milter.stop() == 0
    assert time.monotonic() - began < 1
    assert not room.milter_socket.exists()
    assert "role-stopped" in room.log_text()


def test_an_answer_that_is_on_its_way_is_still_given_when_it_is_asked_to_leave(room: Any) -> None:
    def leaving(_: Any) -> dict[str, object]:
        room.milter.signal(15)
        time.sleep(0.5)
        return {"disposition": "discard", "reason": "test"}

    room.worker.disposition = leaving
    assert room.send(CHALLENGE, "alice@org.example")[0] == 250
    room.postfix.wait_for_empty_queue()
    assert room.postfix.inbox("alice@org.example") == []


def test_it_does_not_displace_a_running_milter(room: Any) -> None:
    second = type(room.milter)([*room.milter._argv], log=room.directory / "second.log")
    second.start()
    assert second.wait(10) == 1
    assert "belongs to a running milter" in second.log_tail()
    assert room.send(ORDINARY, "alice@org.example")[0] == 250


def test_the_socket_is_open_to_its_directorys_group_and_to_nobody_else(room: Any) -> None:
    status = room.milter_socket.stat()
    assert status.st_mode & 0o777 == 0o660
    assert status.st_gid == room.milter_socket.parent.stat().st_gid != 0


@pytest.fixture(scope="module")
def signing_key() -> tuple[bytes, bytes]:
    """A private key in PEM and its key record."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).splitlines()[1:-1]
    return pem, b"v=DKIM1; k=rsa; p=" + b"".join(public)


@pytest.mark.parametrize("headers", [b"simple", b"relaxed"])
@pytest.mark.parametrize("body", [b"simple", b"relaxed"])
def test_the_octets_that_reach_the_worker_verify_under_dkim(
    room: Any, signing_key: tuple[bytes, bytes], headers: bytes, body: bytes
) -> None:
    pem, record = signing_key
    raw = (
        b"From:  The  CA <acme@ca.example> \r\nTo:alice@org.example\r\nSubject: ACME:\r\n LgYemJLy3F1LDkiJrdIGbEzy\r\n"
        b"\tFJyOyf6vBdyZ1TG3sME=\r\nAuto-Submitted: auto-generated; type=acme\r\nMessage-ID:\r\n <1@ca.example>\r\n"
        b"\r\n A  body \t\r\n\r\n.with a dot\r\n\r\n\r\n"
    )
    signature = dkim.sign(
        raw, b"s", b"ca.example", pem, canonicalize=(headers, body), include_headers=[b"from", b"to", b"subject"]
    )
    assert room.send(signature + raw, "alice@org.example")[0] == 250
    [seen] = room.worker.seen
    assert seen.raw == signature + raw
    assert dkim.verify(seen.raw, dnsfunc=lambda *_args, **_kwargs: record)
