# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking check_issued about alice@example.org's certificate, and drafts that differ from hers."""

from collections.abc import Callable, Sequence

import pytest
from cryptography import x509

from acme_milter.certificate.issued import IssuedCertificate, check_issued
from acme_milter.certificate.refusal import CertificateFault, CertificateRefused
from acme_milter.certificate.usage import KeyUsageKind
from tests.certificate.small_pki import NOW, Draft, Pki

Change = Callable[[Draft], Draft]


def check(
    pki: Pki, chain: bytes, *, roots: Sequence[bytes] | None = None, usage: KeyUsageKind = KeyUsageKind.DUAL
) -> IssuedCertificate:
    """Check a chain as an order of alice's would."""
    return check_issued(chain, address=Pki.ADDRESS, public_key_spki=pki.spki, now=NOW, trust_roots=roots, usage=usage)


def fault_of(pki: Pki, chain: bytes, *, roots: Sequence[bytes] | None = None) -> CertificateFault:
    """Why the chain is refused."""
    with pytest.raises(CertificateRefused) as caught:
        check(pki, chain, roots=roots)
    assert str(caught.value) == f"{caught.value.reason.value}: {caught.value.detail}"
    return caught.value.reason


def named(*names: x509.GeneralName) -> Change:
    """The SAN holds these names instead."""
    return lambda draft: draft.with_extension(x509.SubjectAlternativeName(names))


def subject(oid: x509.ObjectIdentifier, value: str) -> Change:
    """The subject has this one attribute."""
    return lambda draft: draft.changed(subject=x509.Name([x509.NameAttribute(oid, value)]))
