# SPDX-License-Identifier: GPL-3.0-or-later
"""Issuance: the leaf after the S/MIME Baseline Requirements, its chains, and the faults of knob CERT."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from acme_milter.testca.addresses import Address
from acme_milter.testca.csr_check import Wanted, alternative_name
from acme_milter.testca.encoding import to_base64url
from acme_milter.testca.ledger import Issued, fresh_name
from acme_milter.testca.pki import Pki, key_usage

# S/MIME BR §7.1.6.1: mailbox-validated, by generation.
_POLICIES = {"multipurpose": "2.23.140.1.5.1.2", "strict": "2.23.140.1.5.1.3", "short": "2.23.140.1.5.1.3"}
PROFILES = {
    "multipurpose": "mailbox-validated, multipurpose",
    "strict": "mailbox-validated, strict",
    "short": "mailbox-validated, strict, valid for one day",
}
DEFAULT_PROFILE = "multipurpose"
LONGEST = timedelta(days=825)  # S/MIME BR §6.3.2


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a leaf says about whom and when."""

    addresses: tuple[Address, ...]
    wanted: Wanted
    profile: str
    not_before: datetime
    not_after: datetime


def issue(pki: Pki, leaf: Leaf, account: str, fault: str) -> Issued:
    """Sign a leaf and return it with both chains; `fault` is a value of knob CERT."""
    if fault == "expired":
        leaf = Leaf(leaf.addresses, leaf.wanted, leaf.profile, leaf.not_before - LONGEST, leaf.not_before)
    key = ec.generate_private_key(ec.SECP256R1()).public_key() if fault == "wrongkey" else leaf.wanted.key
    addresses = (Address("somebody.else", leaf.addresses[0].domain),) if fault == "wrongsan" else leaf.addresses
    if fault == "bothuses":
        leaf = replace(leaf, wanted=replace(leaf.wanted, signing=True, encryption=True))
    certificate = _sign(pki, leaf, key, addresses)
    own = certificate.public_bytes(serialization.Encoding.PEM)
    chains = [own + pki.intermediate.pem(), own + pki.cross_certified.public_bytes(serialization.Encoding.PEM)]
    if fault == "nochain":
        chains = [own]
    elif fault == "extra":
        chains = [chain + foreign_block() for chain in chains]
    return Issued(
        name=fresh_name(),
        account=account,
        identifiers=tuple(str(address) for address in leaf.addresses),
        leaf=certificate.public_bytes(serialization.Encoding.DER),
        chains=tuple(chains),
        serial=f"{certificate.serial_number:x}",
        renewal_id=renewal_id(certificate),
        not_before=leaf.not_before,
        not_after=leaf.not_after,
    )


def _sign(
    pki: Pki, leaf: Leaf, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, addresses: Sequence[Address]
) -> x509.Certificate:
    first = str(addresses[0])
    named = first.isascii() and len(first) <= 64  # the upper bound of commonName in RFC 5280
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, first)] if named else [])
    names = x509.SubjectAlternativeName([alternative_name(address) for address in addresses])
    policy = x509.PolicyInformation(ObjectIdentifier(_POLICIES[leaf.profile]), None)
    issuer = pki.intermediate
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(key)
        .serial_number(int.from_bytes(secrets.token_bytes(16), "big") | 1)  # with and without a leading zero octet
        .not_valid_before(leaf.not_before)
        .not_valid_after(leaf.not_after)
        # Critical when the subject is empty (RFC 5280 §4.2.1.6).
        .add_extension(names, critical=not named)
        .add_extension(_usage(leaf.wanted, key), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.CertificatePolicies([policy]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    return builder.sign(issuer.key, hashes.SHA256())


def _usage(wanted: Wanted, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> x509.KeyUsage:
    """RFC 8823 §3.3 and S/MIME BR §7.1.2.3: EC keys agree, RSA keys encipher."""
    bits = []
    if wanted.signing:
        bits.append("digital_signature")
    if wanted.non_repudiation:
        bits.append("content_commitment")
    if wanted.encryption:
        bits.append("key_encipherment" if isinstance(key, rsa.RSAPublicKey) else "key_agreement")
    return key_usage(*bits)


def renewal_id(certificate: x509.Certificate) -> str:
    """Return the ARI certificate identifier (RFC 9773 §4.1); the serial keeps its leading zero octet."""
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert authority is not None
    serial = certificate.serial_number
    content = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{to_base64url(authority)}.{to_base64url(content)}"


def foreign_block() -> bytes:
    """A PEM block that has no place in a chain: RFC 8555 §11.4 tells clients to refuse it."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
