# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate's conditions by name: what each demands, which fault belongs to it, and what becomes of a mail it stops."""

import enum

from acme_milter.protocol.faults import MailFault, MailRefused

ANSWERS_PER_ORDER = 3
"""G21. More different challenges than that for one order are somebody else's orders for our mailbox."""

CONDITIONS = {
    "G1": "the mail comes from outside, not from an authenticated user",
    "G2": "exactly one envelope recipient, and it is a managed mailbox",
    "G3": "the header block has a sane size and no NUL",
    "G4": "every header that may occur once occurs once",
    "G5": "it is no list mail and no resent mail",
    "G6": "the Subject is an ACME challenge",
    "G7": "Auto-Submitted says auto-generated",
    "G8": "From is one plain address",
    "G9": "To is one plain address: the recipient and the ordered identifier",
    "G10": "an open order of ours expects a challenge from this sender",
    "G11": "the whole mail has a sane size and sane lines",
    "G12": "a DKIM signature's domain equals the From domain",
    "G13": "that signature is well-formed and uses acceptable algorithms",
    "G14": "it covers every header that RFC 8823 demands",
    "G15": "it is neither older than the order nor expired",
    "G16": "its key is published, usable and long enough",
    "G17": "the key is one that the authority's configuration admits",
    "G18": "the signature verifies",
    "G19": "Reply-To is absent, or leads to the authority",
    "G20": "this token has not been answered yet",
    "G21": f"fewer than {ANSWERS_PER_ORDER} challenges were answered for this order",
    "G22": "policy lets this mailbox answer now",
    "G23": "the answer is stored durably",
    "G24": "all that took no longer than Postfix waits",
    "G25": "the mail is kept out of the inbox",
}

SMIME_CONDITIONS = {
    "S1": "the whole mail is one S/MIME signature that can be read",
    "S2": "it has one signer, whose certificate is there, and acceptable algorithms",
    "S3": "the signature verifies",
    "S4": "the signer's certificate is for mail, valid now, and rests on one of smime_trust",
    "S5": "that certificate is the From address's",
    "S6": "the header fields that lead the answer are protected, and are the mail's",
    "S7": "it is not older than the order; without a signed time, its token was in no earlier order",
}
"""RFC 8823 §3.1 item 6: DKIM or S/MIME. Where a configuration accepts the latter, these stand in for G12 to G18."""

CONDITION_OF = {
    MailFault.HEADER_BLOCK_TOO_LARGE: "G3",
    MailFault.TOO_MANY_HEADERS: "G3",
    MailFault.HEADER_CONTROL_CHARACTER: "G3",
    MailFault.HEADER_SYNTAX: "G3",
    MailFault.BARE_NEWLINE: "G3",
    MailFault.DUPLICATE_HEADER: "G4",
    MailFault.MISSING_HEADER: "G4",
    MailFault.BLANK_BEFORE_COLON: "G5",
    MailFault.LIST_HEADER: "G5",
    MailFault.RESENT_HEADER: "G5",
    MailFault.SUBJECT_NOT_CHALLENGE: "G6",
    MailFault.NOT_AUTO_GENERATED: "G7",
    MailFault.FROM_MALFORMED: "G8",
    MailFault.TO_MALFORMED: "G9",
    MailFault.TOO_LARGE: "G11",
    MailFault.LINE_TOO_LONG: "G11",
    MailFault.DKIM_NONE: "G12",
    MailFault.DKIM_DOMAIN: "G12",
    MailFault.DKIM_TAGS: "G13",
    MailFault.DKIM_ALGORITHM: "G13",
    MailFault.DKIM_LENGTH_TAG: "G13",
    MailFault.DKIM_COVERAGE: "G14",
    MailFault.DKIM_TIME: "G15",
    MailFault.DATE_MALFORMED: "G15",
    MailFault.DKIM_KEY_MISSING: "G16",
    MailFault.DKIM_KEY_REVOKED: "G16",
    MailFault.DKIM_KEY_TESTING: "G16",
    MailFault.DKIM_KEY_UNUSABLE: "G16",
    MailFault.DKIM_KEY_TOO_SHORT: "G16",
    MailFault.DKIM_LOOKUP_DEFERRED: "G16",
    MailFault.DKIM_SIGNATURE: "G18",
    MailFault.VERIFIER_LIMIT: "G18",
    MailFault.VERIFIER_BUSY: "G18",
    MailFault.REPLY_TO_MALFORMED: "G19",
    MailFault.SMIME_NONE: "S1",
    MailFault.SMIME_STRUCTURE: "S1",
    MailFault.SMIME_MALFORMED: "S1",
    MailFault.SMIME_SIGNERS: "S2",
    MailFault.SMIME_ALGORITHM: "S2",
    MailFault.SMIME_SIGNATURE: "S3",
    MailFault.SMIME_LIMIT: "S3",
    MailFault.SMIME_BUSY: "S3",
    MailFault.SMIME_CERTIFICATE: "S4",
    MailFault.SMIME_UNTRUSTED: "S4",
    MailFault.SMIME_TRUST_UNREADABLE: "S4",
    MailFault.SMIME_ADDRESS: "S5",
    MailFault.SMIME_UNPROTECTED: "S6",
    MailFault.SMIME_HEADER_DIFFERS: "S6",
    MailFault.SMIME_TIME: "S7",
}
"""The condition that each fault of a mail's own form belongs to."""

_NOBODYS_ALARM = frozenset(
    {
        MailFault.HEADER_BLOCK_TOO_LARGE,
        MailFault.TOO_MANY_HEADERS,
        MailFault.HEADER_CONTROL_CHARACTER,
        MailFault.SUBJECT_NOT_CHALLENGE,
    }
)


class Reason(enum.StrEnum):
    """Why a mail was stopped, where the mail's own form is not the reason (those are ``MailFault``)."""

    NOT_FROM_OUTSIDE = "not-from-outside"
    SEVERAL_RECIPIENTS = "several-recipients"
    NOT_MANAGED = "not-managed"
    RECIPIENT_MISMATCH = "recipient-mismatch"
    UNSOLICITED = "unsolicited"
    ORDER_NOT_KNOWN_YET = "order-not-known-yet"
    DKIM_TEMPERROR = "dkim-temperror"
    SMIME_TEMPERROR = "smime-temperror"
    REPLY_TO_FOREIGN = "reply-to-foreign"
    ANSWERED_ALREADY = "answered-already"
    TOO_MANY_CHALLENGES = "too-many-challenges"
    OBSERVING = "observing"
    STORE_UNAVAILABLE = "store-unavailable"
    TOO_SLOW = "too-slow"
    TOO_LONG_IN_DOUBT = "too-long-in-doubt"
    INTERNAL = "internal"
    ACCEPTED = "accepted"


class Outcome(enum.Enum):
    """What becomes of a mail that a condition stopped."""

    DELIVER = "deliver"  # it is none of our business
    DELIVER_AND_ALERT = "deliver-and-alert"  # it is delivered, and somebody should look
    TRY_LATER = "try-later"  # rule T: 451, this one mail, thirty minutes at most
    DUPLICATE = "duplicate"  # ours, proven, and answered before: suppressed without a second answer


class Stopped(Exception):
    """A condition does not hold. ``detail`` is fit for a log line and names the header or the key to change."""

    safe_text = True

    def __init__(self, condition: str, outcome: Outcome, reason: Reason | MailFault, detail: str = "") -> None:
        super().__init__(f"{condition} {reason}: {detail}")
        self.condition = condition
        self.outcome = outcome
        self.reason = reason
        self.detail = detail


def stopped_by(refused: MailRefused) -> Stopped:
    """Give the mail's own fault its condition. Not being a challenge at all is nobody's alarm."""
    outcome = Outcome.DELIVER if refused.fault in _NOBODYS_ALARM else Outcome.DELIVER_AND_ALERT
    return Stopped(CONDITION_OF[refused.fault], outcome, refused.fault, refused.detail)
