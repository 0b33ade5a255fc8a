# SPDX-License-Identifier: GPL-3.0-or-later
"""A small certificate authority that can make every mistake a test asks for."""

import base64
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
EMAIL_PROTECTION = x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION


def key_usage(*bits: str) -> x509.KeyUsage:
    """A keyUsage extension with these bits, named as x509.KeyUsage names them."""
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    more = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in bits for name in names + more})


@dataclass(frozen=True)
class Issuer:
    """A key and a certificate of its own."""

    key: PrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True)
class Draft:
    """What a certificate will say; `changed` gives one that says something else."""

    public_key: CertificatePublicKeyTypes
    subject: x509.Name = field(default_factory=lambda: x509.Name([]))
    not_before: datetime = NOW - DAY
    not_after: datetime = NOW + 365 * DAY
    serial: int = 0xABCDEF0123
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()

    def changed(self, **changes: object) -> "Draft":
        return replace(self, **changes)  # type: ignore[arg-type]  # the tests name fields of this very class

    def without(self, kind: type[x509.ExtensionType]) -> "Draft":
        return replace(self, extensions=[pair for pair in self.extensions if not isinstance(pair[0], kind)])

    def with_extension(self, extension: x509.ExtensionType, *, critical: bool = False) -> "Draft":
        return replace(self, extensions=[*self.without(type(extension)).extensions, (extension, critical)])

    def signed_by(self, issuer_name: x509.Name, issuer_key: PrivateKey) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            issuer_name, self.subject, self.public_key, self.serial, self.not_before, self.not_after
        )
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(issuer_key, hashes.SHA256())

    def issued_by(self, issuer: Issuer) -> x509.Certificate:
        return self.signed_by(issuer.certificate.subject, issuer.key)


def ca_draft(key: PrivateKey, name: str, issuer_key: PrivateKey | None = None) -> Draft:
    """A CA certificate as it should be; without an issuer, its own."""
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer_key or key).public_key())
    return Draft(
        key.public_key(),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
        NOW - 1000 * DAY,
        NOW + 3000 * DAY,
        extensions=[
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (key_usage("key_cert_sign", "crl_sign"), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (issued_by, False),
        ],
    )


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def sha1_signed(draft: Draft, own_key: PrivateKey, issuer: Issuer) -> x509.Certificate:
    """The draft signed with SHA-1 and dated today: by the openssl program, since `cryptography` no longer does."""
    request = x509.CertificateSigningRequestBuilder(draft.subject)
    for extension, critical in draft.without(x509.AuthorityKeyIdentifier).extensions:
        request = request.add_extension(extension, critical=critical)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        key = issuer.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (directory / "key.pem").write_bytes(key)
        (directory / "ca.pem").write_bytes(pem(issuer.certificate))
        csr = request.sign(own_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        issue = ["openssl", "x509", "-req", "-copy_extensions", "copyall", "-days", "3000", "-sha1", "-CAcreateserial"]
        by = ["-CA", "ca.pem", "-CAkey", "key.pem"]
        done = subprocess.run([*issue, *by], cwd=directory, input=csr, capture_output=True, check=True)
    return x509.load_pem_x509_certificate(done.stdout)


def pem_block(label: bytes, der: bytes) -> bytes:
    """One PEM block as OpenSSL writes it."""
    encoded = base64.b64encode(der)
    lines = b"".join(encoded[start : start + 64] + b"\n" for start in range(0, len(encoded), 64))
    return b"-----BEGIN " + label + b"-----\n" + lines + b"-----END " + label + b"-----\n"


def spki(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class Pki:
    """A root, an intermediate, and the draft of alice@example.org's certificate as it should be."""

    ADDRESS = "alice@example.org"

    def __init__(self) -> None:
        root_key, middle_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        root = ca_draft(root_key, "Test Root")
        self.root = Issuer(root_key, root.signed_by(root.subject, root_key))
        self.middle = Issuer(middle_key, ca_draft(middle_key, "Test Issuer", root_key).issued_by(self.root))
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.spki = spki(self.key)
        self.draft = self.leaf_draft(self.key, "digital_signature", "key_agreement")
        self.good = (self.draft.issued_by(self.middle), self.middle.certificate)

    def leaf_draft(self, key: PrivateKey, *bits: str) -> Draft:
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.SubjectAlternativeName([x509.RFC822Name(self.ADDRESS)]), True),
            (x509.ExtendedKeyUsage([EMAIL_PROTECTION]), False),
            (key_usage(*bits), True),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.middle.key.public_key()), False),
        ]
        return Draft(key.public_key(), extensions=extensions)

    def chain(self, change: Callable[[Draft], Draft] = lambda draft: draft) -> bytes:
        """The leaf, changed, and the intermediate."""
        return pem(change(self.draft).issued_by(self.middle), self.middle.certificate)
