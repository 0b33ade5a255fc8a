# SPDX-License-Identifier: GPL-3.0-or-later
"""The challenge mail (RFC 8823 §3.1): right by default, wrong in exactly the way a knob says."""

import email
import email.header
import email.policy
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dkim
import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from tests.testca.conftest import Enrollment, RunningCa, start_ca
from tests.testca.organization import Organization, digest_of, make_reply

THIRTEEN = (
    "from sender reply-to to cc subject date in-reply-to references message-id auto-submitted content-type "
    "content-transfer-encoding"
)


def ask(port: int, name: str) -> DNSRecord:
    """Ask the CA's name server over UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(DNSRecord.question(name, "TXT").pack(), ("127.0.0.1", port))
        return DNSRecord.parse(sock.recv(4096))


def verifies(ca: RunningCa, mail: bytes, index: int = 0) -> bool:
    """Verify one signature with dkimpy, which had no part in making it."""

    def texts(name: bytes, timeout: int = 5) -> bytes | None:
        records = ask(ca.announced["dns_port"], name.decode()).rr
        return b"".join(records[0].rdata.data) if records else None

    try:
        return bool(dkim.DKIM(mail).verify(idx=index, dnsfunc=texts))
    except dkim.DKIMException:
        return False


def challenge_mail(ca: RunningCa, enrollment: Enrollment, **knobs: object) -> bytes:
    answer = ca.chaos(**knobs)
    assert answer.ok, answer.text
    enrollment.place()
    enrollment.fetch_authorization()
    return enrollment.receive()


def names_of(mail: bytes, index: int = 0) -> str:
    value = email.message_from_bytes(mail).get_all("DKIM-Signature", [])[index]
    match = re.search(r"\bh=([^;]*);", value)
    assert match is not None
    return " ".join("".join(match[1].split()).lower().split(":"))


def test_the_calm_mail_is_what_the_rfc_says(ca: RunningCa, enrollment: Enrollment) -> None:
    mail = challenge_mail(ca, enrollment)
    message = email.message_from_bytes(mail)
    assert message["From"] == enrollment.sender
    assert enrollment.sender.startswith("acme-challenge+")
    assert message["To"] == enrollment.address
    assert message["Auto-Submitted"] == "auto-generated; type=acme"
    assert re.fullmatch(r"ACME: [A-Za-z0-9_-]{43}", message["Subject"])
    for name in ("Date", "Message-ID", "MIME-Version"):
        assert message[name]
    assert names_of(mail) == THIRTEEN
    assert verifies(ca, mail)
    assert b"\n" not in mail.replace(b"\r\n", b"")
    assert max(map(len, mail.split(b"\r\n"))) <= 78


def test_the_dkim_record_is_split_at_255_octets(ca: RunningCa) -> None:
    answer = ask(ca.announced["dns_port"], "rsa1._domainkey.ca.example")
    assert [len(text) <= 255 for text in answer.rr[0].rdata.data] == [True, True]
    texts = ca.session.get(f"{ca.announced['control']}/dns").json()["txt"]
    assert texts["rsa1._domainkey.ca.example"] == [b"".join(answer.rr[0].rdata.data).decode()]


@pytest.fixture
def dual_ca(tmp_path: Path, organization: Organization) -> Iterator[RunningCa]:
    running = start_ca(
        tmp_path, organization, "--dkim-algorithm", "both", "--reply-dkim", "off", "--domain", "ca2.example"
    )
    yield running
    running.stop()


def test_both_algorithms_make_two_good_signatures(dual_ca: RunningCa) -> None:
    client = dual_ca.client()
    client.register(contact=["mailto:admin@org.example"])
    enrollment = Enrollment(dual_ca, client, "dual@org.example")
    mail = challenge_mail(dual_ca, enrollment)
    assert (verifies(dual_ca, mail, 0), verifies(dual_ca, mail, 1)) == (True, True)
    assert {"a=rsa-sha256", "a=ed25519-sha256"} == set(re.findall(r"a=[a-z0-9-]+", mail.decode()))
    # With --reply-dkim off an unsigned reply will do.
    enrollment.deliver(make_reply(mail, enrollment.digest(mail)))
    assert enrollment.challenge_state()["status"] == "valid"
    client.close()


@pytest.mark.parametrize(
    ("fault", "verified"),
    [
        ("simple", True),
        ("length-tag", True),
        ("missing-name:Reply-To", True),
        ("parent-domain", True),
        ("other-domain", True),
        ("testing-key", True),
        ("bad-signature", False),
        ("body-changed", False),
        ("revoked-key", False),
        ("no-key", False),
        ("wrong-key", False),
        ("expired", False),
        ("rsa-sha1", True),
        ("unsigned", False),
    ],
)
def test_each_dkim_fault_is_the_one_asked_for(
    ca: RunningCa, enrollment: Enrollment, fault: str, verified: bool
) -> None:
    mail = challenge_mail(ca, enrollment, DKIM=fault)
    assert (b"DKIM-Signature" in mail) == (fault != "unsigned")
    if fault != "unsigned":
        assert verifies(ca, mail) == verified
    shown = {
        "length-tag": b"l=",
        "parent-domain": b"d=example;",
        "other-domain": b"d=attacker.example;",
        "testing-key": b"s=testing;",
        "expired": b"x=",
        "rsa-sha1": b"a=rsa-sha1;",
        "simple": b"c=simple/simple;",
    }
    assert shown.get(fault, b"") in mail
    if fault.startswith("missing-name"):
        assert names_of(mail) == THIRTEEN.replace("reply-to ", "", 1)


def test_the_first_of_two_signatures_can_be_bad(ca: RunningCa, enrollment: Enrollment) -> None:
    mail = challenge_mail(ca, enrollment, DKIM="two-signatures-first-bad")
    assert (verifies(ca, mail, 0), verifies(ca, mail, 1)) == (False, True)


def test_present_lists_only_headers_that_are_there(ca: RunningCa, enrollment: Enrollment) -> None:
    mail = challenge_mail(ca, enrollment, DKIM_NAMES="present")
    assert set(THIRTEEN.split()) - set(names_of(mail).split()) == {
        "sender",
        "reply-to",
        "cc",
        "in-reply-to",
        "references",
    }


@pytest.mark.parametrize("form", ["plain", "folded", "q", "b", "split"])
def test_every_form_of_the_subject_decodes_to_the_token(ca: RunningCa, enrollment: Enrollment, form: str) -> None:
    mail = challenge_mail(ca, enrollment, MAIL_SUBJECT=form)
    raw = email.message_from_bytes(mail)["Subject"]
    subject = str(email.header.make_header(email.header.decode_header(raw)))
    token = "".join(subject.removeprefix("ACME:").split())
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    digest = digest_of(token, enrollment.part2, enrollment.client.thumbprint())
    enrollment.deliver(ca.organization.sign(make_reply(mail, digest, subject=f"Re: ACME: {token}")))
    assert enrollment.challenge_state()["status"] == "valid"
    assert verifies(ca, mail)


@pytest.mark.parametrize(
    ("knobs", "header", "pattern"),
    [
        ({"MAIL_SUBJECT": "latin1"}, "Subject", "=\\?ISO-8859-1\\?.*"),
        ({"MAIL_SUBJECT": "re"}, "Subject", "Re: ACME: .*"),
        ({"AUTO_SUBMITTED": "no"}, "Auto-Submitted", "None"),
        ({"AUTO_SUBMITTED": "comment"}, "Auto-Submitted", "\\(.*\\) Auto-Generated .*"),
        ({"MAIL_DATE": "absent"}, "Date", "None"),
        ({"MAIL_DATE": "garbage"}, "Date", "the day.*"),
        ({"MAIL_REPLY_TO": "same"}, "Reply-To", "acme-reply\\+.*@ca\\.example"),
        ({"MAIL_REPLY_TO": "elsewhere"}, "Reply-To", ".*@elsewhere\\.example"),
        ({"MAIL_REPLY_TO": "two"}, "Reply-To", ".*, .*"),
        ({"MAIL_FROM": "fixed"}, "From", "acme-challenge@ca\\.example"),
        ({"MAIL_EXTRA_HEADER": "second-subject"}, "Subject", "ACME: c29t.*"),
        ({"MAIL_EXTRA_HEADER": "list-id"}, "List-Id", ".*attacker.*"),
        ({"MAIL_EXTRA_HEADER": "reply-to"}, "Reply-To", ".*attacker.*"),
        ({"MAIL_EXTRA_HEADER": "sender"}, "Sender", ".*attacker.*"),
        ({"TOKEN_PART1_BYTES": 16}, "Subject", "ACME: .{22}"),
        ({"TOKEN_JOIN": "string-padded"}, "Subject", "ACME: .{43}="),
    ],
)
def test_headers_follow_their_knobs(
    ca: RunningCa, enrollment: Enrollment, knobs: dict[str, Any], header: str, pattern: str
) -> None:
    mail = challenge_mail(ca, enrollment, **knobs)
    assert re.fullmatch(pattern, str(email.message_from_bytes(mail)[header]))


def test_a_reply_to_is_where_the_reply_must_go(ca: RunningCa, enrollment: Enrollment) -> None:
    mail = challenge_mail(ca, enrollment, MAIL_REPLY_TO="subdomain")
    assert b"Reply-To: acme-reply+" in mail
    enrollment.answer(mail)
    assert enrollment.verdict()["faults"] == []


@pytest.mark.parametrize("joining", ["bytes", "string-padded"])
def test_the_joining_of_the_token_can_differ(ca: RunningCa, enrollment: Enrollment, joining: str) -> None:
    mail = challenge_mail(ca, enrollment, TOKEN_JOIN=joining)
    digest = enrollment.digest(mail, joining=joining)
    enrollment.deliver(ca.organization.sign(make_reply(mail, digest)))
    assert enrollment.challenge_state()["status"] == "valid"


@pytest.mark.parametrize(("fault", "code"), [("servfail", RCODE.SERVFAIL), ("nxdomain", RCODE.NXDOMAIN)])
def test_the_name_server_can_fail(ca: RunningCa, fault: str, code: int) -> None:
    ca.chaos(DNS=fault)
    assert ask(ca.announced["dns_port"], "rsa1._domainkey.ca.example").header.rcode == code


def test_the_name_server_knows_what_is_not_there(ca: RunningCa) -> None:
    assert ask(ca.announced["dns_port"], "absent._domainkey.ca.example").header.rcode == RCODE.NXDOMAIN
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(
            DNSRecord.question("rsa1._domainkey.ca.example", "A").pack(), ("127.0.0.1", ca.announced["dns_port"])
        )
        answer = DNSRecord.parse(sock.recv(4096))
    assert (answer.header.rcode, answer.rr) == (RCODE.NOERROR, [])
    assert QTYPE.TXT == 16
