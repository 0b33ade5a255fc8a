# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a mail is no challenge of ours: one closed list of words, and the exception that carries one of them."""

from enum import StrEnum


class MailFault(StrEnum):
    """The condition that failed; the value is what logs, counters and `challenge verify` show."""

    HEADER_BLOCK_TOO_LARGE = "header-block-too-large"
    TOO_MANY_HEADERS = "too-many-headers"
    HEADER_CONTROL_CHARACTER = "header-control-character"
    HEADER_SYNTAX = "header-syntax"
    BLANK_BEFORE_COLON = "blank-before-colon"
    BARE_NEWLINE = "bare-newline"
    DUPLICATE_HEADER = "duplicate-header"
    MISSING_HEADER = "missing-header"
    LIST_HEADER = "list-header"
    RESENT_HEADER = "resent-header"
    SUBJECT_NOT_CHALLENGE = "subject-not-challenge"
    NOT_AUTO_GENERATED = "not-auto-generated"
    FROM_MALFORMED = "from-malformed"
    TO_MALFORMED = "to-malformed"
    REPLY_TO_MALFORMED = "reply-to-malformed"
    DATE_MALFORMED = "date-malformed"
    TOO_LARGE = "too-large"
    LINE_TOO_LONG = "line-too-long"
    DKIM_NONE = "dkim-none"
    DKIM_DOMAIN = "dkim-domain"
    DKIM_TAGS = "dkim-tags"
    DKIM_ALGORITHM = "dkim-algorithm"
    DKIM_LENGTH_TAG = "dkim-length-tag"
    DKIM_COVERAGE = "dkim-coverage"
    DKIM_TIME = "dkim-time"
    DKIM_KEY_MISSING = "dkim-key-missing"
    DKIM_KEY_REVOKED = "dkim-key-revoked"
    DKIM_KEY_TESTING = "dkim-key-testing"
    DKIM_KEY_UNUSABLE = "dkim-key-unusable"
    DKIM_KEY_TOO_SHORT = "dkim-key-too-short"
    DKIM_SIGNATURE = "dkim-signature"
    DKIM_LOOKUP_DEFERRED = "dkim-lookup-deferred"
    VERIFIER_LIMIT = "verifier-limit"
    VERIFIER_BUSY = "verifier-busy"
    SMIME_NONE = "smime-none"
    SMIME_STRUCTURE = "smime-structure"
    SMIME_MALFORMED = "smime-malformed"
    SMIME_SIGNERS = "smime-signers"
    SMIME_ALGORITHM = "smime-algorithm"
    SMIME_SIGNATURE = "smime-signature"
    SMIME_LIMIT = "smime-limit"
    SMIME_BUSY = "smime-busy"
    SMIME_CERTIFICATE = "smime-certificate"
    SMIME_UNTRUSTED = "smime-untrusted"
    SMIME_TRUST_UNREADABLE = "smime-trust-unreadable"
    SMIME_ADDRESS = "smime-address"
    SMIME_UNPROTECTED = "smime-unprotected"
    SMIME_HEADER_DIFFERS = "smime-header-differs"
    SMIME_TIME = "smime-time"


class MailRefused(Exception):
    """A mail failed one condition of the gate.

    `fault` says which; `detail` names the header or tag for an operator and never holds text taken from a token,
    a key or an unchecked header value.
    """

    safe_text = True

    def __init__(self, fault: MailFault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail
