# SPDX-License-Identifier: GPL-3.0-or-later
"""Our replies as they arrive at the authority, judged by OpenDKIM and read by Python's email package."""

import base64
import email
import email.policy
from collections.abc import Callable
from pathlib import Path

import pytest

from acme_milter.lab.opendkim import ask_opendkim
from acme_milter.lab.system import SELECTOR, Lab

# RFC 8823 §3.2 item 9
NAMES = {
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "in-reply-to",
    "references",
    "message-id",
    "content-type",
    "content-transfer-encoding",
}


def reply_of(lab: Lab, mailbox: str) -> bytes:
    lab.enroll(mailbox)
    (event,) = [e for e in lab.authority.history("reply-received", raw=True) if e["sender"] == mailbox]
    return base64.b64decode(event["raw"])


@pytest.fixture(params=["relay", "own"])
def reply(request: pytest.FixtureRequest, own_lab: Callable[..., Lab]) -> tuple[Lab, bytes]:
    lab = own_lab(reply_dkim=request.param)
    return lab, reply_of(lab, lab.addresses[0])


def test_opendkim_finds_the_reply_signed_over_the_twelve_names(reply: tuple[Lab, bytes], tmp_path: Path) -> None:
    lab, raw = reply
    name = f"{SELECTOR}._domainkey.org.example"
    assert ask_opendkim(tmp_path, raw, {name: lab.dkim_record}).passed
    message = email.message_from_bytes(raw, policy=email.policy.SMTP)
    tags = dict(tag.strip().split("=", 1) for tag in "".join(str(message["DKIM-Signature"]).split()).split(";") if tag)
    assert tags["d"] == "org.example"
    assert {listed.lower() for listed in tags["h"].split(":")} >= NAMES
    assert "l" not in tags


def test_the_reply_has_the_form_that_every_known_authority_takes(reply: tuple[Lab, bytes]) -> None:
    lab, raw = reply
    message = email.message_from_bytes(raw, policy=email.policy.SMTP)
    assert message["From"] == lab.addresses[0]
    assert message["Auto-Submitted"] == "auto-replied"
    assert str(message["Subject"]).startswith("Re: ACME: ")
    assert b"\nSubject: Re: ACME: " in raw.replace(b"\r\n", b"\n")
    assert message["In-Reply-To"] == message["References"]
    assert not [name for name in message if name.lower().startswith("list-")]
    assert message.get_content_type() == "text/plain"
    begin, digest, end = message.get_content().splitlines()
    assert (begin, end) == ("-----BEGIN ACME RESPONSE-----", "-----END ACME RESPONSE-----")
    assert len(digest) == 43
