# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of mailbox keys, and how a private key is made, written and read."""

from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from acme_milter.certificate.csr import MailboxPrivateKey

_PUBLIC_EXPONENT = 65537


class KeyAlgorithm(StrEnum):
    """What S/MIME BR §6.1.5 allows and mail software reads. RSA is what everybody reads."""

    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"
    P256 = "p256"
    P384 = "p384"

    @property
    def is_rsa(self) -> bool:
        return self in _RSA_BITS


_RSA_BITS = {KeyAlgorithm.RSA2048: 2048, KeyAlgorithm.RSA3072: 3072, KeyAlgorithm.RSA4096: 4096}


def generate_key(algorithm: KeyAlgorithm) -> MailboxPrivateKey:
    """A new private key. RSA takes 40 ms to a second and more; OpenSSL lets other threads run meanwhile."""
    if algorithm.is_rsa:
        return rsa.generate_private_key(_PUBLIC_EXPONENT, _RSA_BITS[algorithm])
    return ec.generate_private_key(ec.SECP256R1() if algorithm is KeyAlgorithm.P256 else ec.SECP384R1())


def algorithm_of(private_key: MailboxPrivateKey) -> KeyAlgorithm:
    """Which kind a key is that was made elsewhere. Raises ValueError for one of none of these kinds."""
    if isinstance(private_key, rsa.RSAPrivateKey):
        return KeyAlgorithm(f"rsa{private_key.key_size}")
    curves = {"secp256r1": KeyAlgorithm.P256, "secp384r1": KeyAlgorithm.P384}
    if private_key.curve.name not in curves:
        raise ValueError("not a curve that S/MIME software reads")
    return curves[private_key.curve.name]


def encode_key(private_key: MailboxPrivateKey) -> bytes:
    """DER PKCS#8, unencrypted: what is sealed."""
    return private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def decode_key(pkcs8: bytes) -> MailboxPrivateKey:
    """The key that encode_key wrote. Raises ValueError for anything else."""
    # The seal vouches for it being a key we made, or tested as it came in: testing an RSA key's primes takes 100 ms.
    private_key = load_der_private_key(pkcs8, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(private_key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("not a key of a kind that is made here")  # noqa: TRY004 the content, not our caller's type
    return private_key
