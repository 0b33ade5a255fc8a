# SPDX-License-Identifier: GPL-3.0-or-later
"""No secret turns up where it must not: logs, the store's clear columns, process arguments."""

import base64
import re
from collections.abc import Callable

import pytest

from acme_milter.lab.system import Lab


def tokens_in(raw: bytes) -> set[bytes]:
    return set(re.findall(rb"ACME: ([A-Za-z0-9_-]{20,})", raw))


def digests_in(raw: bytes) -> set[bytes]:
    return set(re.findall(rb"-----BEGIN ACME RESPONSE-----\r?\n([A-Za-z0-9_-]{43})", raw))


EAB_KEY = "c2VjcmV0LWVhYi1jYW5hcnktMDEyMzQ1Njc4OQ"


def test_no_token_digest_or_key_is_in_any_log_or_in_clear_in_the_store(
    own_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_EAB_KID", "kid-1")
    monkeypatch.setenv("LAB_EAB_HMAC", EAB_KEY)
    eab = {"kid": {"env": "LAB_EAB_KID"}, "hmac": {"env": "LAB_EAB_HMAC"}}
    lab = own_lab(mailboxes=3, testca_options={"eab": f"kid-1:{EAB_KEY}"}, authority={"eab": eab})
    assert {row["state"] for row in lab.enroll()} == {"active"}
    out = lab.directory / "out"
    exported = lab.run_command("export", lab.addresses[0], "--format", "p12-modern", "--out", str(out)).stdout
    passphrase = re.findall(r"passphrase: (\S+)", exported)[0].encode()
    secrets = {passphrase, EAB_KEY.encode(), (lab.directory / "wrapping.key").read_bytes().strip()}
    for event in lab.authority.history("mail-sent", "reply-received", raw=True):
        raw = base64.b64decode(event["raw"])
        secrets |= tokens_in(raw) | digests_in(raw)
    assert len(secrets) >= 3 + 2 * 3
    for place in (lab.run_log, lab.postfix.log_path, lab.directory / "store.db", lab.directory / "store.db-wal"):
        assert [secret for secret in secrets if secret in place.read_bytes()] == [], place
