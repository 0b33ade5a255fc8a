# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a certificate that a CA sent is not taken."""

from enum import StrEnum


class CertificateFault(StrEnum):
    """The closed list of reasons; each is one check of RFC 8555 §7.4.2 and §11.4, RFC 8823 §3, RFC 8550 §4.4 or the
    S/MIME BR.
    """

    TOO_LARGE = "too-large"
    NOT_A_PEM_CHAIN = "not-a-pem-chain"
    FOREIGN_PEM_BLOCK = "foreign-pem-block"
    UNREADABLE = "unreadable"
    WRONG_KEY = "wrong-key"
    WRONG_NAME = "wrong-name"
    EXTRA_NAME = "extra-name"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    DATES_INSANE = "dates-insane"
    IS_A_CA = "is-a-ca"
    NO_EMAIL_PROTECTION = "no-email-protection"
    KEY_USAGE = "key-usage"
    UNKNOWN_CRITICAL_EXTENSION = "unknown-critical-extension"
    WEAK_SIGNATURE = "weak-signature"
    CHAIN_MISSING = "chain-missing"
    CHAIN_BROKEN = "chain-broken"
    UNTRUSTED = "untrusted"
    LINT = "lint"


class CertificateRefused(Exception):
    """The chain does not fit the enrollment. `reason` is for machines, `detail` for people; neither quotes the CA."""

    safe_text = True

    def __init__(self, reason: CertificateFault, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"
