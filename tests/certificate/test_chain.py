# SPDX-License-Identifier: GPL-3.0-or-later
"""A chain is taken when each certificate issued the one before it, up to a configured root if there are any."""

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from acme_milter.certificate.issued import check_issued
from acme_milter.certificate.refusal import CertificateFault, CertificateRefused
from acme_milter.certificate.subject_name import InvalidAddress
from tests.certificate.questions import Change, check, fault_of
from tests.certificate.small_pki import NOW, Issuer, Pki, ca_draft, key_usage, pem, sha1_signed

ADDRESS = Pki.ADDRESS
SECOND = timedelta(seconds=1)


def test_a_lone_leaf_is_taken_only_when_a_configured_root_issued_it(pki: Pki) -> None:
    leaf = pem(pki.draft.issued_by(pki.middle))
    assert fault_of(pki, leaf) is CertificateFault.CHAIN_MISSING
    assert fault_of(pki, leaf, roots=[pem(pki.root.certificate)]) is CertificateFault.UNTRUSTED
    check(pki, leaf, roots=[pem(pki.middle.certificate)])


def test_a_chain_out_of_order_or_with_a_gap_or_a_stranger_is_refused(pki: Pki) -> None:
    leaf, middle, root = pki.draft.issued_by(pki.middle), pki.middle.certificate, pki.root.certificate
    other = Pki()
    assert fault_of(pki, pem(middle, leaf)) is CertificateFault.WRONG_KEY
    for chain in (
        (leaf, root, middle),
        (leaf, root),
        (leaf, middle, middle),
        (leaf, leaf, middle),
        (leaf, other.middle.certificate),
        (leaf, middle, other.root.certificate),
    ):
        assert fault_of(pki, pem(*chain)) is CertificateFault.CHAIN_BROKEN


def test_the_root_may_be_sent_along(pki: Pki) -> None:
    chain = pki.chain() + pem(pki.root.certificate)
    check(pki, chain)
    check(pki, chain, roots=[pem(pki.root.certificate)])


@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_with_trust_roots_the_chain_has_to_end_at_one(pki: Pki, encoding: serialization.Encoding) -> None:
    other = Pki()
    right, wrong = (ca.root.certificate.public_bytes(encoding) for ca in (pki, other))
    check(pki, pki.chain(), roots=[wrong, right])
    check(pki, pki.chain(), roots=[pem(other.root.certificate, pki.root.certificate)])
    for roots in ([wrong], []):
        assert fault_of(pki, pki.chain(), roots=roots) is CertificateFault.UNTRUSTED
        assert fault_of(pki, pki.chain() + pem(pki.root.certificate), roots=roots) is CertificateFault.UNTRUSTED


def test_trust_roots_that_are_none_and_an_address_that_is_none_are_our_own_fault(pki: Pki) -> None:
    with pytest.raises(ValueError, match="pars"):
        check(pki, pki.chain(), roots=[b"no certificate"])
    with pytest.raises(InvalidAddress):
        check_issued(pki.chain(), address="no address", public_key_spki=pki.spki, now=NOW)


def test_our_own_key_as_its_own_issuer_is_refused(pki: Pki) -> None:
    draft = pki.draft.changed(subject=pki.middle.certificate.subject)
    leaf = draft.signed_by(draft.subject, pki.key)
    assert fault_of(pki, pem(leaf, leaf)) is CertificateFault.CHAIN_BROKEN
    assert fault_of(pki, pem(leaf, pki.middle.certificate)) is CertificateFault.CHAIN_BROKEN
    assert fault_of(pki, pem(leaf), roots=[pem(pki.root.certificate)]) is CertificateFault.UNTRUSTED


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.without(x509.BasicConstraints),
        lambda d: d.with_extension(x509.BasicConstraints(ca=False, path_length=None)),
        lambda d: d.with_extension(key_usage("digital_signature")),
        lambda d: d.changed(not_after=NOW - SECOND),
        lambda d: d.changed(not_before=NOW + SECOND),
        lambda d: d.changed(subject=x509.Name([])),
    ],
)
def test_an_issuer_that_may_not_issue_is_refused(pki: Pki, change: Change) -> None:
    draft = change(ca_draft(pki.middle.key, "Test Issuer"))
    chain = pem(pki.draft.issued_by(pki.middle), draft.issued_by(pki.root))
    assert fault_of(pki, chain) is CertificateFault.CHAIN_BROKEN
    if draft.not_before < NOW < draft.not_after:
        as_root = [pem(draft.issued_by(pki.root))]
        assert fault_of(pki, pem(pki.draft.issued_by(pki.middle)), roots=as_root) in {
            CertificateFault.CHAIN_BROKEN,
            CertificateFault.UNTRUSTED,
        }


def test_a_path_length_that_is_exceeded_is_refused(pki: Pki) -> None:
    lowest_key = ec.generate_private_key(ec.SECP256R1())
    short = ca_draft(pki.middle.key, "Test Issuer").with_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    middle = Issuer(pki.middle.key, short.issued_by(pki.root))
    lowest = Issuer(lowest_key, ca_draft(lowest_key, "Lowest").issued_by(middle))
    check(pki, pem(pki.draft.issued_by(middle), middle.certificate))
    chain = pem(pki.draft.issued_by(lowest), lowest.certificate, middle.certificate)
    assert fault_of(pki, chain) is CertificateFault.CHAIN_BROKEN


def test_a_certificate_signed_with_sha1_is_refused(pki: Pki) -> None:
    """openssl stamps it with today's date, so today is the day of the check."""
    draft = replace(pki.draft, not_after=NOW + timedelta(days=2900))  # whatever today is
    leaf, root = draft.issued_by(pki.middle), pem(pki.root.certificate)
    weak_leaf = sha1_signed(draft, pki.key, pki.middle)
    weak_middle = sha1_signed(ca_draft(pki.middle.key, "Test Issuer"), pki.middle.key, pki.root)
    today = max(weak_leaf.not_valid_before_utc, weak_middle.not_valid_before_utc)
    check_today = partial(check_issued, address=ADDRESS, public_key_spki=pki.spki, now=today)
    for chain, roots in (
        (pem(weak_leaf, pki.middle.certificate), None),
        (pem(leaf, weak_middle), [root]),
        (pem(leaf, weak_middle) + root, None),
    ):
        with pytest.raises(CertificateRefused) as caught:
            check_today(chain, trust_roots=roots)
        assert caught.value.reason is CertificateFault.WEAK_SIGNATURE
