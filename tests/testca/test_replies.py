# SPDX-License-Identifier: GPL-3.0-or-later
"""Replies: RFC 8823 §3.2, each rule broken alone, and the forms that must be taken."""

import base64
import quopri

import pytest

from tests.testca.conftest import Enrollment, RunningCa
from tests.testca.organization import DOMAIN, REPLY_NAMES, make_reply, token_of


def begin(enrollment: Enrollment) -> tuple[bytes, str]:
    enrollment.place()
    enrollment.fetch_authorization()
    mail = enrollment.receive()
    return mail, enrollment.digest(mail)


def faults_of(enrollment: Enrollment, reply: bytes) -> list[str]:
    assert enrollment.deliver(enrollment.ca.organization.sign(reply))[0] == 250
    faults: list[str] = enrollment.verdict()["faults"]
    expected = "invalid" if faults else "valid"
    assert enrollment.challenge_state()["status"] == expected
    assert enrollment.order()["status"] == {"valid": "ready"}.get(expected, "invalid")
    return faults


@pytest.mark.parametrize("algorithm", ["rsa", "ed25519"])
def test_a_reply_signed_with_either_algorithm_validates(enrollment: Enrollment, algorithm: str) -> None:
    mail, digest = begin(enrollment)
    enrollment.deliver(enrollment.ca.organization.sign(make_reply(mail, digest), algorithm=algorithm))
    assert enrollment.verdict()["faults"] == []
    assert enrollment.challenge_state()["status"] == "valid"


def test_a_wrong_digest_invalidates_with_the_reason(enrollment: Enrollment) -> None:
    mail, _ = begin(enrollment)
    wrong = enrollment.digest(mail, joining="bytes")
    assert faults_of(enrollment, make_reply(mail, wrong)) == ["digest"]
    error = enrollment.challenge_state()["error"]
    assert error["type"].endswith("incorrectResponse")
    assert enrollment.order()["error"]["subproblems"][0]["identifier"]["value"] == enrollment.address


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("List-Id: <staff.org.example>\r\n", ["list-header"]),
        ("List-Unsubscribe: <mailto:x@org.example>\r\n", ["list-header"]),
        ("Cc: someone@org.example\r\n", []),
        ("Subject: something else\r\n", None),
    ],
)
def test_headers_of_a_reply(enrollment: Enrollment, headers: str, expected: list[str] | None) -> None:
    mail, digest = begin(enrollment)
    reply = make_reply(mail, digest, headers=headers)
    if expected is None:
        enrollment.deliver(enrollment.ca.organization.sign(reply))
        assert enrollment.ca.history("reply-received")[-1]["verdict"] == "unmatched"
        assert enrollment.challenge_state()["status"] == "pending"
    else:
        assert faults_of(enrollment, reply) == expected


def test_another_sender_is_refused(enrollment: Enrollment) -> None:
    mail, digest = begin(enrollment)
    assert faults_of(enrollment, make_reply(mail, digest, sender=f"somebody.else@{DOMAIN}")) == ["from"]


def test_a_reply_without_a_response_block_is_refused(enrollment: Enrollment) -> None:
    mail, _ = begin(enrollment)
    assert faults_of(enrollment, make_reply(mail, "", body="I am on holiday.\r\n")) == ["no-response-block"]


FORMS = ("quoted-printable", "base64", "wrapped and padded", "multipart/alternative", "text around it")


@pytest.mark.parametrize("form", FORMS)
def test_the_digest_is_found_in_every_form_the_rfc_allows(enrollment: Enrollment, form: str) -> None:
    mail, digest = begin(enrollment)
    block = f"-----BEGIN ACME RESPONSE-----\r\n{digest}\r\n-----END ACME RESPONSE-----\r\n"
    content, body = "Content-Type: text/plain; charset=utf-8\r\n", block
    if form == "quoted-printable":
        content += "Content-Transfer-Encoding: quoted-printable\r\n"
        body = quopri.encodestring(block.replace("\r\n", "\n").encode(), quotetabs=True).decode().replace("\n", "\r\n")
        body = body.replace("-----BEGIN", "=2D----BEGIN")
    elif form == "base64":
        content += "Content-Transfer-Encoding: base64\r\n"
        body = base64.encodebytes(block.encode()).decode().replace("\n", "\r\n")
    elif form == "wrapped and padded":
        body = block.replace(digest, f"{digest[:35]}\r\n{digest[35:]}=")
    elif form == "multipart/alternative":
        content = "Content-Type: multipart/alternative; boundary=xyz\r\n"
        html = "--xyz\r\nContent-Type: text/html\r\n\r\n<p>hello</p>\r\n"
        body = f"--xyz\r\nContent-Type: text/plain\r\n\r\n{block}\r\n{html}--xyz--\r\n"
    else:
        body = f"Hello!\r\n\r\n{block}\r\n-- \r\nRegards\r\n"
    assert faults_of(enrollment, make_reply(mail, digest, content=content, body=body)) == []


def test_the_subject_may_be_encoded_and_prefixed(enrollment: Enrollment) -> None:
    mail, digest = begin(enrollment)
    words = base64.b64encode(f"AW: ACME: {token_of(mail)}".encode()).decode()
    assert faults_of(enrollment, make_reply(mail, digest, subject=f"=?utf-8?B?{words}?=")) == []


@pytest.mark.parametrize("name", REPLY_NAMES)
def test_dkim_must_cover_each_of_the_twelve_names(enrollment: Enrollment, name: bytes) -> None:
    mail, digest = begin(enrollment)
    names = [one for one in REPLY_NAMES if one != name]
    if name == b"from":
        # dkimpy refuses to leave From out; its name is the one every verifier checks anyway.
        names = REPLY_NAMES
    enrollment.deliver(enrollment.ca.organization.sign(make_reply(mail, digest), names=names))
    expected = [] if name == b"from" else [f"dkim-missing-name:{name.decode()}"]
    assert enrollment.verdict()["faults"] == expected
    state = enrollment.challenge_state()
    assert state["status"] == ("invalid" if expected else "valid")
    if expected:
        assert state["error"]["type"].endswith("unauthorized")


def test_an_unsigned_reply_is_refused(enrollment: Enrollment) -> None:
    mail, digest = begin(enrollment)
    enrollment.deliver(make_reply(mail, digest))
    assert enrollment.verdict()["faults"] == ["dkim-none"]


def test_a_signature_of_another_domain_is_refused(enrollment: Enrollment) -> None:
    mail, digest = begin(enrollment)
    enrollment.deliver(enrollment.ca.organization.sign(make_reply(mail, digest), domain="example"))
    assert enrollment.verdict()["faults"] == ["dkim-domain"]


def test_a_changed_reply_is_refused(enrollment: Enrollment) -> None:
    mail, digest = begin(enrollment)
    signed = enrollment.ca.organization.sign(make_reply(mail, digest))
    enrollment.deliver(signed + b"This message is confidential.\r\n")
    assert enrollment.verdict()["faults"] == ["dkim-signature"]


def test_one_good_signature_among_bad_ones_is_enough(enrollment: Enrollment) -> None:
    mail, digest = begin(enrollment)
    organization = enrollment.ca.organization
    good = organization.sign(make_reply(mail, digest))
    assert faults_of(enrollment, organization.sign(good, domain="example")) == []


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, "dkim-key-absent"),
        ("v=DKIM1; k=rsa; p=", "dkim-key-revoked"),
        ("v=DKIM1; k=rsa; t=y; p={}", "dkim-key-testing"),
        ("v=DKIM1; k=rsa; s=web; p={}", "dkim-key-unusable"),
    ],
)
def test_the_key_record_counts(enrollment: Enrollment, record: str | None, expected: str) -> None:
    organization, name = enrollment.ca.organization, f"rsa._domainkey.{DOMAIN}"
    good = organization.txt[name]
    mail, digest = begin(enrollment)
    try:
        if record is None:
            del organization.txt[name]
        else:
            organization.txt[name] = record.format(good.partition("p=")[2])
        enrollment.deliver(organization.sign(make_reply(mail, digest)))
    finally:
        organization.txt[name] = good
    assert enrollment.verdict()["faults"] == [expected]


def test_a_reply_whose_key_cannot_be_looked_up_now_is_deferred(enrollment: Enrollment) -> None:
    mail, digest = begin(enrollment)
    organization = enrollment.ca.organization
    reply = organization.sign(make_reply(mail, digest))
    organization.servfail.add(f"rsa._domainkey.{DOMAIN}")
    assert enrollment.deliver(reply)[0] == 451
    assert enrollment.challenge_state()["status"] == "pending"
    organization.servfail.clear()
    assert enrollment.deliver(reply)[0] == 250
    assert enrollment.challenge_state()["status"] == "valid"


def test_only_the_first_reply_counts(ca: RunningCa, enrollment: Enrollment) -> None:
    mail, digest = begin(enrollment)
    good = ca.organization.sign(make_reply(mail, digest))
    faults_of(enrollment, make_reply(mail, "A" * 43))
    enrollment.deliver(good)
    events = [one for one in ca.history("reply-received") if one.get("identifier") == enrollment.address]
    assert [(one["verdict"], one["counted"]) for one in events] == [("invalid", True), ("duplicate", False)]
    assert enrollment.challenge_state()["status"] == "invalid"
