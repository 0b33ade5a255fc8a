# SPDX-License-Identifier: GPL-3.0-or-later
"""The CA's own keys and certificates in the state directory: made once, read again at the next start."""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS = timedelta(days=7305)  # long enough for a rehearsal of many years
_USAGE_BITS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Ca:
    """A CA certificate with its P-256 key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def pem(self) -> bytes:
        """Return the certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Pki:
    """S/MIME: two roots, and one intermediate certified by both (for the alternate chain)."""

    root: Ca
    other_root: Ca
    intermediate: Ca
    cross_certified: x509.Certificate
    trust_roots: Path
    tls_bundle: Path
    tls_certificate: Path
    tls_key: Path


def open_pki(directory: Path, hosts: Sequence[str], now: datetime) -> Pki:
    """Read or make everything in `directory` (0700). `hosts` are the names and addresses the TLS certificate serves."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = _open_ca(directory / "smime-root", "acme-milter test S/MIME root", None, now)
    other_root = _open_ca(directory / "smime-other-root", "acme-milter test S/MIME other root", None, now)
    intermediate = _open_ca(directory / "smime-issuing", "acme-milter test S/MIME issuing CA", root, now)
    crossed = _ca_certificate(intermediate.certificate.subject, intermediate.key.public_key(), other_root, now)
    tls_root = _open_ca(directory / "tls-root", "acme-milter test TLS root", None, now)
    trust_roots = directory / "trust-roots.pem"
    trust_roots.write_bytes(root.pem() + other_root.pem())
    tls_key, tls_certificate = directory / "tls.key", directory / "tls.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    write_private_key(tls_key, key)
    tls_certificate.write_bytes(_server_certificate(tls_root, key.public_key(), hosts, now))
    return Pki(
        root, other_root, intermediate, crossed, trust_roots, directory / "tls-root.pem", tls_certificate, tls_key
    )


def write_private_key(path: Path, key: PrivateKey) -> None:
    """Write a private key as PKCS#8 PEM, 0600 from its first byte on."""
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - mode
        file.write(data)


def _open_ca(stem: Path, name: str, issuer: Ca | None, now: datetime) -> Ca:
    key_path, certificate_path = stem.with_suffix(".key"), stem.with_suffix(".pem")
    if key_path.exists() and certificate_path.exists():
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return Ca(x509.load_pem_x509_certificate(certificate_path.read_bytes()), key)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    ca = Ca(_ca_certificate(subject, key.public_key(), issuer, now, key), key)
    write_private_key(key_path, key)
    certificate_path.write_bytes(ca.pem())
    return ca


def _ca_certificate(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: Ca | None,
    now: datetime,
    own_key: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    signer = issuer.key if issuer is not None else own_key
    assert signer is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None if issuer is None else 0), critical=True)
        .add_extension(key_usage("key_cert_sign", "crl_sign", "digital_signature"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if issuer is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _server_certificate(
    issuer: Ca, public_key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now: datetime
) -> bytes:
    names = [_host_name(host) for host in dict.fromkeys(hosts)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def key_usage(*bits: str) -> x509.KeyUsage:
    """Return a key usage extension with these bits, named as `cryptography` names them."""
    return x509.KeyUsage(**{bit: bit in bits for bit in _USAGE_BITS})
