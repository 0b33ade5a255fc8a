# SPDX-License-Identifier: GPL-3.0-or-later
"""What a mailbox key is for."""

from enum import StrEnum


class KeyUsageKind(StrEnum):
    """RFC 8823 §3.3: both uses, or one of them."""

    DUAL = "dual"
    SIGN = "sign"
    ENCRYPT = "encrypt"
