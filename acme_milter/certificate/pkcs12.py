# SPDX-License-Identifier: GPL-3.0-or-later
"""The file a user imports: key, certificate and chain under a generated passphrase (PKCS#12, RFC 7292)."""

import secrets
from enum import StrEnum

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import PBES, serialize_key_and_certificates

from acme_milter.certificate.csr import MailboxPrivateKey, spki_of
from acme_milter.certificate.pem_chain import parse_pem_chain
from acme_milter.certificate.refusal import CertificateFault, CertificateRefused

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # no I, L, O, U: read over a telephone without a mistake
_PASSPHRASE_LENGTH = 26
_KEY_ROUNDS = 20_000


class P12Format(StrEnum):
    """Which of the two dialects importers speak."""

    MODERN = "p12-modern"
    """PBES2 with AES-256-CBC and PBKDF2-HMAC-SHA256, MAC of SHA-256: OpenSSL 3, Windows since 2019, Thunderbird."""
    LEGACY = "p12-legacy"
    """3DES and a MAC of SHA-1: macOS Keychain, older Windows Server and Android."""


def generate_passphrase() -> str:
    """26 characters of Crockford's base32: 130 random bits.

    They have to be random: the MAC of a PKCS#12 file takes 2 048 rounds whatever the key takes, so a
    passphrase that a person chose can be guessed. S/MIME BR §6.1.2 asks for 112 bits.
    """
    return "".join(secrets.choice(_CROCKFORD) for _ in range(_PASSPHRASE_LENGTH))


def build_pkcs12(
    private_key: MailboxPrivateKey,
    chain_pem: bytes,
    passphrase: str,
    p12_format: P12Format,
    friendly_name: str,
    *,
    include_chain: bool = True,
) -> bytes:
    """DER of a PKCS#12 file with one key and its certificate, the first of `chain_pem`.

    The rest of the chain goes in as well unless `include_chain` is false (some webmail importers refuse a
    bundle that has one). Raises CertificateRefused when the chain does not parse or the certificate is
    another key's.
    """
    leaf, *issuers = parse_pem_chain(chain_pem)
    if spki_of(leaf.public_key()) != spki_of(private_key.public_key()):
        raise CertificateRefused(CertificateFault.WRONG_KEY, "the certificate is another key's")
    return serialize_key_and_certificates(
        friendly_name.encode("utf-8"),
        private_key,
        leaf,
        issuers if include_chain else None,
        _encryption(p12_format, passphrase),
    )


def build_encrypted_pem(private_key: MailboxPrivateKey, passphrase: str) -> bytes:
    """PEM of the key as an encrypted PKCS#8 (PBES2, AES-256-CBC, PBKDF2-HMAC-SHA256)."""
    return private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode("ascii"))
    )


def build_clear_pem(private_key: MailboxPrivateKey) -> bytes:
    """PEM of the key as an unencrypted PKCS#8: for a signing program that nobody is there to give a passphrase."""
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _encryption(p12_format: P12Format, passphrase: str) -> KeySerializationEncryption:
    builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(_KEY_ROUNDS)
    if p12_format is P12Format.MODERN:
        builder = builder.key_cert_algorithm(PBES.PBESv2SHA256AndAES256CBC).hmac_hash(hashes.SHA256())
    else:
        builder = builder.key_cert_algorithm(PBES.PBESv1SHA1And3KeyTripleDESCBC)
        builder = builder.hmac_hash(hashes.SHA1())  # noqa: S303 what the old importers read; see generate_passphrase
    return builder.build(passphrase.encode("ascii"))
