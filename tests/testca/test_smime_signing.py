# SPDX-License-Identifier: GPL-3.0-or-later
"""S/MIME-signed challenge mails of the test CA, read by openssl, which had no part in making them."""

import email
import email.policy
import re
import subprocess
from pathlib import Path

import pytest

from acme_milter.testca.knobs import SMIME_FAULTS, SMIME_FORMS
from tests.testca.conftest import Enrollment, RunningCa
from tests.testca.test_challenge_mail import challenge_mail


def opened(ca: RunningCa, mail: bytes, directory: Path) -> tuple[bytes, str] | None:
    """The signed part and the signer's certificate as text, None when the signature does not verify."""
    saved, content, signer = directory / "mail", directory / "content", directory / "signer.pem"
    saved.write_bytes(mail)
    command = ["openssl", "cms", "-verify", "-in", str(saved), "-CAfile", ca.announced["trust_roots"]]
    command += ["-purpose", "smimesign", "-out", str(content), "-signer", str(signer)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return None
    shown = ["openssl", "x509", "-in", str(signer), "-noout", "-text"]
    return content.read_bytes(), subprocess.run(shown, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("form", SMIME_FORMS.split()[1:])
def test_openssl_verifies_every_form(ca: RunningCa, enrollment: Enrollment, form: str, tmp_path: Path) -> None:
    mail = challenge_mail(ca, enrollment, SMIME=form, DKIM="unsigned")
    found = opened(ca, mail, tmp_path)
    assert found is not None
    content, certificate = found
    assert f"email:{enrollment.sender}\n" in certificate
    outer = email.message_from_bytes(mail, policy=email.policy.default)
    signed = email.message_from_bytes(content, policy=email.policy.default)
    if form == "wrapped":
        assert signed.get_content_type() == "message/rfc822"
        signed = signed.get_payload(0)  # type: ignore[assignment]  # the wrapped mail
    for name in ("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"):
        assert (signed[name] == outer[name]) == (form not in ("attribute", "sparse")), name
    assert outer.get_content_type() == ("application/pkcs7-mime" if form == "enclosing" else "multipart/signed")


def test_the_protected_fields_are_in_the_attribute(ca: RunningCa, enrollment: Enrollment, tmp_path: Path) -> None:
    mail = challenge_mail(ca, enrollment, SMIME="attribute", DKIM="unsigned")
    (tmp_path / "mail").write_bytes(mail)
    command = ["openssl", "cms", "-cmsout", "-print", "-in", str(tmp_path / "mail")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "(1.2.840.113549.1.9.16.2.55)" in shown
    assert re.search(rf":{re.escape(enrollment.address)}$", shown, re.MULTILINE)


def test_the_sparse_form_says_no_more_than_three_fields_and_no_time(
    ca: RunningCa, enrollment: Enrollment, tmp_path: Path
) -> None:
    mail = challenge_mail(ca, enrollment, SMIME="sparse", DKIM="unsigned")
    (tmp_path / "mail").write_bytes(mail)
    command = ["openssl", "cms", "-cmsout", "-print", "-in", str(tmp_path / "mail")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"VISIBLESTRING\s*:(.*)", shown) == ["From", "To", "Subject"]
    assert "signingTime" not in shown
    assert "eContent: <ABSENT>" not in shown


@pytest.mark.parametrize("fault", ["changed-body", "expired", "untrusted", "wrong-usage"])
def test_openssl_refuses_what_is_wrong_for_everybody(
    ca: RunningCa, enrollment: Enrollment, fault: str, tmp_path: Path
) -> None:
    assert opened(ca, challenge_mail(ca, enrollment, SMIME="clear", SMIME_FAULT=fault), tmp_path) is None


@pytest.mark.parametrize(
    "fault", ["no-san", "other-address", "changed-subject", "unprotected", "partly", "two-signers"]
)
def test_openssl_is_content_with_what_only_a_challenge_may_not_be(
    ca: RunningCa, enrollment: Enrollment, fault: str, tmp_path: Path
) -> None:
    assert fault in SMIME_FAULTS
    assert opened(ca, challenge_mail(ca, enrollment, SMIME="clear", SMIME_FAULT=fault), tmp_path) is not None
