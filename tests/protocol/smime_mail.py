# SPDX-License-Identifier: GPL-3.0-or-later
"""S/MIME-signed challenge mails for tests: signed by the real openssl command, whose reading of the RFCs is not ours.

Keys and certificates are made once per test process, in a directory of their own.
"""

import atexit
import base64
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.protocol.sample_mail import NOW, SENDER, SampleMail, good_mail

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_ABOUT_CONTENT = ("Content-Type", "MIME-Version", "Content-Transfer-Encoding")
_YEAR = timedelta(days=365)


@functools.cache
def place() -> Path:
    """A directory for what openssl reads and writes."""
    made = Path(tempfile.mkdtemp(prefix="smime-"))
    atexit.register(shutil.rmtree, made)
    return made


@functools.cache
def key_named(name: str, kind: str = "p256") -> Key:
    """A key per name: p256, p384, p521, or rsa and its bits."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))
    curves: Mapping[str, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


class Identity:
    """A certificate and its key. Without `issuer` it is a root."""

    def __init__(
        self,
        name: str,
        issuer: "Identity | None" = None,
        *,
        kind: str = "p256",
        ca: bool = False,
        addresses: Sequence[str] = (),
        purposes: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.EMAIL_PROTECTION,),
        begins: timedelta = -timedelta(days=1),
        lasts: timedelta = _YEAR,
        signs: bool = True,
        path_length: int | None = None,
        critical: x509.ExtensionType | None = None,
    ) -> None:
        self.name = name
        self.key = key_named(name, kind)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = issuer.key if issuer is not None else self.key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + begins)
            .not_valid_after(NOW + begins + lasts)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(_usage(ca=ca, signs=signs), critical=True)
        )
        if issuer is not None:
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
        if addresses:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.RFC822Name(one) for one in addresses]), critical=False
            )
        if purposes is not None and not (ca and issuer is None):
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if critical is not None:
            builder = builder.add_extension(critical, critical=True)
        self.certificate: x509.Certificate = builder.sign(signer, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def files(self) -> tuple[str, str]:
        """The certificate and the key as files for openssl."""
        stem = place() / f"{self.certificate.serial_number:x}"
        certificate, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
        certificate.write_bytes(self.pem)
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(certificate), str(key)


def _usage(*, ca: bool, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs and not ca,
        content_commitment=False,
        key_encipherment=not ca and not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


@functools.cache
def root() -> Identity:
    return Identity("root of the tests", ca=True)


@functools.cache
def issuing() -> Identity:
    return Identity("issuing of the tests", root(), ca=True)


@functools.cache
def signer(kind: str = "p256") -> Identity:
    """The good signer, by kind of key."""
    return Identity(f"signer {kind}", issuing(), kind=kind, addresses=[SENDER])


class SignedSample:
    """A challenge mail and how openssl shall sign it."""

    def __init__(self, mail: SampleMail | None = None) -> None:
        self.mail = mail or good_mail()
        self.by: list[Identity] = [signer()]
        self.others: list[Identity] = [issuing()]
        self.options: list[str] = []
        self.inside: bytes | None = None

    def signed_by(self, *identities: Identity) -> Self:
        self.by = list(identities)
        return self

    def bringing(self, *identities: Identity) -> Self:
        self.others = list(identities)
        return self

    def with_options(self, *options: str) -> Self:
        self.options = list(options)
        return self

    def over(self, content: bytes) -> Self:
        """Sign these octets instead of the mail's own part with hp="clear"."""
        self.inside = content
        return self

    def content(self) -> bytes:
        return clear_part(self.mail) if self.inside is None else self.inside

    def der(self, *, detached: bool = True) -> bytes:
        """The SignedData."""
        content, bundle = place() / "content", place() / "others.pem"
        content.write_bytes(self.content())
        bundle.write_bytes(b"".join(one.pem for one in self.others))
        command = ["openssl", "cms", "-sign", "-binary", "-in", str(content), "-outform", "DER"]
        for identity in self.by:
            certificate, key = identity.files()
            command += ["-signer", certificate, "-inkey", key]
        command += ["-certfile", str(bundle)] if self.others else []
        command += [] if detached else ["-nodetach"]
        return subprocess.run([*command, *self.options], check=True, capture_output=True).stdout

    def raw(self, der: bytes | None = None) -> bytes:
        """As multipart/signed."""
        return multipart(self.mail, self.content(), self.der() if der is None else der)

    def enclosing(self, der: bytes | None = None) -> bytes:
        """As application/pkcs7-mime."""
        kind = "\r\n smime-type=signed-data; name=smime.p7m"
        outer = about(self.mail).set("Content-Type", f" application/pkcs7-mime;{kind}")
        outer = outer.set("MIME-Version", " 1.0").set("Content-Transfer-Encoding", " base64")
        return outer.with_body(in_base64(self.der(detached=False) if der is None else der)).raw()


def about(mail: SampleMail) -> SampleMail:
    """The mail without the fields about its content."""
    return mail.drop(*_ABOUT_CONTENT)


def clear_part(mail: SampleMail, content_type: str = ' text/plain; hp="clear"') -> bytes:
    """What RFC 9788 has signed: the mail's fields and its text."""
    return about(mail).set("Content-Type", content_type).with_body(mail.body).raw()


def in_base64(octets: bytes) -> bytes:
    return base64.encodebytes(octets).replace(b"\n", b"\r\n")


def multipart(mail: SampleMail, content: bytes, der: bytes, *, kind: str | None = None, boundary: str = "b") -> bytes:
    """multipart/signed (RFC 8551 §3.5.3) under the mail's fields."""
    default = f' multipart/signed; protocol="application/pkcs7-signature"; micalg=sha-256; boundary="{boundary}"'
    outer = about(mail).set("Content-Type", kind or default).set("MIME-Version", " 1.0")
    signature = (
        b"Content-Type: application/pkcs7-signature; name=smime.p7s\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    )
    line = f"--{boundary}\r\n".encode()
    end = f"--{boundary}--\r\n".encode()
    return outer.with_body(line + content + b"\r\n" + line + signature + in_base64(der) + b"\r\n" + end).raw()
