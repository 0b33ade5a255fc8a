# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether each certificate of a chain issued the one before it, up to a root if roots are configured (RFC 5280 §6)."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from acme_milter.certificate.refusal import CertificateFault, CertificateRefused

Chain = Sequence[x509.Certificate]
ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)


def load_trust_roots(encoded: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """Certificates from PEM bundles or single DER files. Raises ValueError when one holds no certificate."""
    roots: list[x509.Certificate] = []
    for item in encoded:
        if b"-----BEGIN" in item:
            roots += x509.load_pem_x509_certificates(item)
        else:
            roots.append(x509.load_der_x509_certificate(item))
    return tuple(roots)


def extension_of(certificate: x509.Certificate, kind: type[ExtensionT]) -> ExtensionT | None:
    """The certificate's extension of this kind, None where it has none."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def check_chain(chain: Chain, now: datetime, roots: Chain | None) -> None:
    """Check every link, signature and issuer of a leaf-first chain at `now`. Raises CertificateRefused.

    Without `roots` the chain has to bring the leaf's issuer, and the last certificate is believed. With them
    the last certificate has to be a root or issued by one; an empty list trusts nobody.
    """
    if roots is None and len(chain) == 1:
        raise CertificateRefused(
            CertificateFault.CHAIN_MISSING, "no issuer came with it, and no trust roots are configured"
        )
    for depth, (subject, issuer) in enumerate(pairwise(chain)):
        _check_signature_hash(subject, depth)
        _check_issuer(issuer, depth, now)
        if not _issued_by(subject, issuer):
            raise CertificateRefused(
                CertificateFault.CHAIN_BROKEN, f"certificate {depth + 2} did not issue certificate {depth + 1}"
            )
    if roots is not None:
        _check_anchor(chain, now, roots)


def _check_anchor(chain: Chain, now: datetime, roots: Chain) -> None:
    last = chain[-1]
    if len(chain) > 1 and any(root == last for root in roots):
        return
    _check_signature_hash(last, len(chain) - 1)
    for root in roots:
        if _is_valid_at(root, now) and _issued_by(last, root):
            _check_issuer(root, len(chain) - 1, now)
            return
    raise CertificateRefused(CertificateFault.UNTRUSTED, "the chain does not end at a configured trust root")


def _issued_by(subject: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        subject.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _check_issuer(issuer: x509.Certificate, intermediates_below: int, now: datetime) -> None:
    """RFC 5280 §6.1.4 (k) to (n): a CA, with room in its path length, that may sign certificates, valid now."""
    name = f"issuer {intermediates_below + 1}"
    constraints = extension_of(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise CertificateRefused(CertificateFault.CHAIN_BROKEN, f"{name} is no CA")
    if constraints.path_length is not None and constraints.path_length < intermediates_below:
        raise CertificateRefused(CertificateFault.CHAIN_BROKEN, f"{name}'s path length is exceeded")
    usage = extension_of(issuer, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise CertificateRefused(CertificateFault.CHAIN_BROKEN, f"{name} may not sign certificates")
    if not _is_valid_at(issuer, now):
        raise CertificateRefused(CertificateFault.CHAIN_BROKEN, f"{name} is not valid now")


def _check_signature_hash(certificate: x509.Certificate, depth: int) -> None:
    # MD5 collides in practice, SHA-1 for a price; S/MIME BR §7.1.3.2 allows neither.
    algorithm = certificate.signature_hash_algorithm
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        raise CertificateRefused(
            CertificateFault.WEAK_SIGNATURE, f"certificate {depth + 1} is signed with {algorithm.name}"
        )


def _is_valid_at(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
