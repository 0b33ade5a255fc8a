# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole way: from an account to a chain that OpenSSL accepts."""

import email
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.testca.conftest import Enrollment, RunningCa


def test_a_mailbox_gets_a_certificate_that_openssl_verifies(
    ca: RunningCa, enrollment: Enrollment, tmp_path: Path
) -> None:
    order = enrollment.place()
    assert order["status"] == "pending"
    authorization = enrollment.fetch_authorization()
    assert authorization["identifier"] == {"type": "email", "value": enrollment.address}
    mail = enrollment.receive()
    assert email.message_from_bytes(mail)["From"] == enrollment.sender
    assert enrollment.answer(mail)[0] == 250
    assert enrollment.client.post(enrollment.challenge, {}).json()["status"] == "valid"
    assert enrollment.order()["status"] == "ready"
    assert enrollment.finalize().json()["status"] == "valid"
    answer = enrollment.client.post(enrollment.order()["certificate"])
    assert answer.headers["Content-Type"] == "application/pem-certificate-chain"
    leaf, issuer = x509.load_pem_x509_certificates(answer.content)
    leaf.verify_directly_issued_by(issuer)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.RFC822Name) == [enrollment.address]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.EMAIL_PROTECTION]
    for chain in (answer, enrollment.client.post(f"{enrollment.order()['certificate']}/1")):
        path = tmp_path / "chain.pem"
        path.write_bytes(chain.content)
        roots = ca.announced["trust_roots"]
        command = ["openssl", "verify", "-purpose", "smimesign", "-CAfile", roots, "-untrusted", str(path), str(path)]
        assert "OK" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
