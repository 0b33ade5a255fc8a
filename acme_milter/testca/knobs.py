# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of fault knobs: name, kind of value, calm default, meaning."""

import math
from dataclasses import dataclass
from enum import Enum

KnobValue = int | float | str


class KnobError(ValueError):
    """An unknown knob or a value it does not take; the text lists what is valid."""


class Kind(Enum):
    """What values a knob takes."""

    PERCENT = "0..100 (how many of a hundred), or on|off"
    SWITCH = "on|off (1|0), or a percentage written 5%"
    SECONDS = "seconds, 0 or more"
    INTEGER = "a whole number"
    WORD = "one of a list"
    TEXT = "free text, empty for off"


@dataclass(frozen=True, slots=True)
class Knob:
    """One knob. A word that ends in a colon takes a parameter (`missing-name:Sender`)."""

    name: str
    kind: Kind
    default: KnobValue
    meaning: str
    words: tuple[str, ...] = ()
    low: float = 0
    high: float = math.inf

    @property
    def chance(self) -> bool:
        """It is thrown dice for."""
        return self.kind in (Kind.PERCENT, Kind.SWITCH)

    def parse(self, value: object) -> KnobValue:
        """Return the value in its own type; KnobError naming what is valid."""
        text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value).strip()
        try:
            return self._parse_text(text)
        except ValueError as error:
            raise KnobError(f"{self.name}={text}: not valid; {self.name} takes {self.valid()}") from error

    def _parse_text(self, text: str) -> KnobValue:
        if self.kind is Kind.TEXT:
            return text
        if self.kind is Kind.WORD:
            word, colon, parameter = text.partition(":")
            if word + colon not in self.words or bool(colon) != bool(parameter):
                raise ValueError(text)
            return text
        if self.chance:
            return self._parse_percentage(text)
        number = float(text) if self.kind is Kind.SECONDS else int(text)
        if not self.low <= number <= self.high:
            raise ValueError(text)
        return number

    def _parse_percentage(self, text: str) -> float:
        switched = {"on": 100.0, "true": 100.0, "yes": 100.0, "off": 0.0, "false": 0.0, "no": 0.0}
        if text.lower() in switched:
            return switched[text.lower()]
        percent = float(text.removesuffix("%"))
        # A bare 1 of a switch is meant as "on"; of a percentage as one in a hundred.
        if self.kind is Kind.SWITCH and text in ("1", "1.0"):
            return 100.0
        if not 0 <= percent <= 100:
            raise ValueError(text)
        return percent

    def valid(self) -> str:
        """Say which values are valid, for error texts and the control API."""
        if self.kind is Kind.WORD:
            return "|".join(word + "X" if word.endswith(":") else word for word in self.words)
        if self.kind is Kind.INTEGER:
            return f"{self.low:g}..{self.high:g}"
        return str(self.kind.value)


def _percent(name: str, meaning: str) -> Knob:
    return Knob(name, Kind.PERCENT, 0.0, meaning)


def _switch(name: str, meaning: str) -> Knob:
    return Knob(name, Kind.SWITCH, 0.0, meaning)


def _seconds(name: str, default: float, meaning: str) -> Knob:
    return Knob(name, Kind.SECONDS, default, meaning)


def _integer(name: str, default: int, low: int, high: int, meaning: str) -> Knob:
    return Knob(name, Kind.INTEGER, default, meaning, low=low, high=high)


def _word(name: str, words: str, meaning: str) -> Knob:
    """The first word is the calm default."""
    return Knob(name, Kind.WORD, words.split(maxsplit=1)[0], meaning, words=tuple(words.split()))


DKIM_FAULTS = (
    "good unsigned rsa-sha1 length-tag missing-name: parent-domain other-domain two-signatures-first-bad bad-signature "
    "body-changed testing-key revoked-key no-key wrong-key web-key sha1-only-key two-records expired future simple"
)

SMIME_FORMS = "none clear wrapped attribute enclosing sparse"
SMIME_FAULTS = (
    "good other-address no-san changed-from changed-to changed-subject changed-body expired untrusted wrong-usage "
    "two-signers twice nested unprotected partly sha1"
)

_ALL = (
    # HTTP (RFC 8555)
    _percent("NONCEREJECT", "a good nonce is answered badNonce"),
    _percent("HTTP_5XX", "a POST is answered 500 or 503 before anything happens"),
    _percent("HTTP_RESET_AFTER_COMMIT", "a POST takes effect, then the connection is cut without an answer"),
    _seconds("SLOW", 0, "random delay of up to so many seconds before each answer"),
    _word("RETRY_AFTER", "int date garbage huge neg none", "the form of Retry-After"),
    _integer("RETRY_AFTER_SECONDS", 1, 0, 86400, "the value of Retry-After in the forms int and date"),
    _word("LIMIT_FIELDS", "none draft older x", "how the header fields of each answer tell the limits"),
    _percent("RATELIMIT", "newOrder and finalize are answered 429 rateLimited"),
    _percent("CRASH", "the whole CA dies at a POST (exit 70, its memory lost)"),
    _percent("AUTHZ_PREVALIDATED", "a new authorization is valid from the start, and no mail is sent"),
    _percent("AUTHZREUSE", "a valid authorization of the account is reused in a new order"),
    _percent("ORDERREUSE", "newOrder answers with the account's open order for the same identifiers"),
    _seconds("ORDER_LIFETIME", 86400, "how long an order may stay open"),
    _seconds("AUTHZ_LIFETIME", 86400, "how long an authorization counts"),
    _percent("FINALIZE_ASYNC", "finalize answers processing; the order turns valid after FINALIZE_POLLS polls"),
    _integer("FINALIZE_POLLS", 2, 1, 1000, "polls of the order until an asynchronous finalize is done"),
    _percent("FINALIZE_500", "finalize is answered 500 and nothing happens"),
    _percent("FINALIZE_500_LATE", "finalize takes effect, and is answered 500 all the same"),
    _switch("NO_ERROR_OBJECTS", "what has turned invalid does not say why"),
    _switch("PROCESSING_WITH_ERROR", "a challenge shows an error while processing (RFC 8555 erratum 5732)"),
    Knob("REFUSE_ADDRESS", Kind.TEXT, "", "newOrder refuses these addresses or domains (comma between)"),
    _word("CAA", "ignored enforced", "newOrder refuses an address whose domain's CAA records do not name the CA"),
    _word("CERT", "good wrongkey wrongsan expired nochain extra bothuses", "what is wrong with the certificate"),
    _word("ALTERNATE", "offered none broken", "the second chain of each certificate, that of the other root"),
    _seconds("CERT_LIFETIME", 365 * 86400, "how long a certificate is valid"),
    _word(
        "REVOCATION", "good noreason refused", "revokeCert refuses every reason (badRevocationReason), or everything"
    ),
    _integer("TERMS_VERSION", 1, 1, 1000, "accounts that agreed to older terms are answered userActionRequired"),
    _word("ARI", "normal now past backwards", "the suggested renewal window (RFC 9773)"),
    # The challenge mail (RFC 8823 §3.1)
    _word("MAIL_AT", "authz neworder post", "when the challenge mail is sent"),
    _switch("MAIL_BEFORE_HTTP", "the mail's first delivery attempt is awaited before the HTTP answer"),
    _seconds("MAIL_DELAY", 0, "the mail waits so long before its first attempt"),
    _percent("MAIL_LOSS", "the mail is never sent"),
    _percent("MAIL_DUP", "the same mail is sent twice"),
    _percent("MAIL_REORDER", "the mail is held 0.5 to 2 seconds, so that others overtake it"),
    _percent("MAIL_FOREIGN", "a properly signed challenge of somebody else's order goes out first"),
    _word("MAIL_FROM", "unique fixed", "the From address: one per authorization or one for all"),
    _word("MAIL_RETURN_PATH", "address null", "the envelope sender"),
    Knob("MAIL_MULTI_RCPT", Kind.TEXT, "", "a second recipient in the same transaction"),
    _word("MAIL_REPLY_TO", "none same subdomain elsewhere two empty", "the Reply-To header"),
    _word("MAIL_SUBJECT", "plain folded q b split latin1 re", "how the Subject is written"),
    _word("AUTO_SUBMITTED", "yes no comment replied", "the Auto-Submitted header"),
    _word("MAIL_DATE", "now absent old future garbage", "the Date header"),
    _word(
        "MAIL_EXTRA_HEADER",
        "none second-subject second-from second-to second-message-id list-id reply-to sender",
        "a header put on top of the signed mail",
    ),
    _word("DKIM", DKIM_FAULTS, "the signature of the challenge mail"),
    _word("DKIM_KEYS", "configured rsa ed25519 both", "the keys that sign, where they are not those of the start"),
    _word("DKIM_NAMES", "strict present", "h= lists all 13 names of RFC 8823 §3.1, or only those present"),
    _word("SMIME", SMIME_FORMS, "an S/MIME signature of the challenge mail, by the RFC that protects its headers"),
    _word("SMIME_FAULT", SMIME_FAULTS, "what is wrong with that signature"),
    _word("DNS", "good servfail timeout nxdomain", "how the CA's own name server answers"),
    # The token (RFC 8823 §3 step 6)
    _word("TOKEN_JOIN", "string bytes string-padded", "how token-part1 and token-part2 are joined"),
    _integer("TOKEN_PART1_BYTES", 32, 8, 64, "length of token-part1; a multiple of 3 hides the joining"),
    # The reply (RFC 8823 §3.2)
    _switch("EARLY_POST_INVALID", "a challenge POSTed before its reply arrived turns invalid"),
    _seconds("REPLY_PATIENCE", 0, "a POSTed challenge turns invalid when no reply came for so long; 0: never"),
    _seconds("REPLY_READ_DELAY", 0, "the reply's mailbox is read so long after it came"),
    _switch("EARLY_POST_FORGOTTEN", "a challenge POSTed before its reply arrived stays pending"),
    _word("VALIDATE_AT", "reply post", "the reply decides on arrival, or only together with the POST"),
    _switch("MATCH_BY_FROM", "a reply belongs to its sender's newest open challenge, whatever its Subject says"),
    _word("REPLY_THREADING", "ignored checked required", "what In-Reply-To and References must be"),
    _percent("REPLY_GREYLIST", "a reply is answered 451 and must come again"),
    _percent("REPLY_BOUNCE", "a reply is answered 550 5.7.26"),
)

KNOBS: dict[str, Knob] = {knob.name: knob for knob in _ALL}
