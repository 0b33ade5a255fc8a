# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate that claims to keep the S/MIME Baseline Requirements is held to them; any other is left alone."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acme_milter.certificate.lint import check_lint
from acme_milter.certificate.refusal import CertificateFault, CertificateRefused
from tests.certificate.small_pki import Draft, Pki, key_usage

MAILBOX_MULTIPURPOSE = x509.ObjectIdentifier("2.23.140.1.5.1.2")


def claiming(draft: Draft) -> Draft:
    policies = x509.CertificatePolicies([x509.PolicyInformation(MAILBOX_MULTIPURPOSE, None)])
    return draft.with_extension(policies)


def lint(pki: Pki, draft: Draft, required: bool = False, ignored: tuple[str, ...] = ()) -> str | None:
    """What is found, None when the certificate is taken."""
    leaf = draft.issued_by(pki.middle)
    try:
        check_lint(leaf.public_bytes(Encoding.DER), Pki.ADDRESS, required=required, ignored=ignored)
    except CertificateRefused as refused:
        return refused.detail if refused.reason is CertificateFault.LINT else f"another reason: {refused}"
    return None


def test_what_claims_nothing_is_left_alone_unless_the_claim_is_required(pki: Pki) -> None:
    assert lint(pki, pki.draft) is None
    assert lint(pki, pki.draft, required=True) == "it claims no S/MIME policy of the CA/B Forum"


def test_a_certificate_that_keeps_its_claim_is_taken(pki: Pki) -> None:
    assert lint(pki, kept(pki)) is None


def kept(pki: Pki) -> Draft:
    """As the requirements want it."""
    draft = claiming(pki.draft)
    lists = x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier("http://ca.example.com/crl")], None, None, None)]
    )
    return draft.with_extension(lists)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda draft: draft.changed(not_after=draft.not_before + timedelta(days=900)), "validity"),
        (lambda draft: draft.with_extension(key_usage("digital_signature", "key_cert_sign"), critical=True), "usage"),
        (lambda draft: draft.without(x509.CRLDistributionPoints).without(x509.AuthorityKeyIdentifier), "authority_key"),
    ],
    ids=["three-years", "may-sign-certificates", "no-authority-key"],
)
def test_a_certificate_that_breaks_its_claim_is_refused_with_the_finding(
    pki: Pki, change: object, finding: str
) -> None:
    assert callable(change)
    found = lint(pki, change(kept(pki)))
    assert found is not None
    assert found.startswith("pkilint finds ")
    assert finding in found


def test_a_finding_that_is_to_be_ignored_does_not_count(pki: Pki) -> None:
    broken = kept(pki).changed(not_after=kept(pki).not_before + timedelta(days=900))
    found = lint(pki, broken)
    assert found is not None
    codes = tuple(part.split(" ")[0] for part in found.removeprefix("pkilint finds ").split("; "))
    assert lint(pki, broken, ignored=codes) is None
