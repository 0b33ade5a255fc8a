# SPDX-License-Identifier: GPL-3.0-or-later
"""What a mailbox key is for."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # every command needs this module, and hardly one of them that library, whose import takes longest
    from cryptography.x509 import KeyUsage


class KeyUsageKind(StrEnum):
    """RFC 8823 §3.3: both uses, or one of them."""

    DUAL = "dual"
    SIGN = "sign"
    ENCRYPT = "encrypt"


def usage_in(bits: "KeyUsage | None", *, is_rsa: bool) -> KeyUsageKind | None:
    """What a keyUsage extension makes of a key; without one it is for both. None: a bit that no mailbox's key has.

    RFC 8823 §3.3, S/MIME BR §7.1.2.3: RSA keys encipher, EC keys agree.
    """
    if bits is None:
        return KeyUsageKind.DUAL
    signs = bits.digital_signature or bits.content_commitment
    encrypts = bits.key_encipherment if is_rsa else bits.key_agreement
    foreign = bits.key_agreement if is_rsa else bits.key_encipherment
    # encipherOnly and decipherOnly can be asked for only beside keyAgreement.
    narrowed = bits.key_agreement and (bits.encipher_only or bits.decipher_only)
    if foreign or narrowed or bits.data_encipherment or bits.key_cert_sign or bits.crl_sign or not (signs or encrypts):
        return None
    if signs and encrypts:
        return KeyUsageKind.DUAL
    return KeyUsageKind.SIGN if signs else KeyUsageKind.ENCRYPT
