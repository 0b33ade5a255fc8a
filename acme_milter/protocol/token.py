# SPDX-License-Identifier: GPL-3.0-or-later
"""token-part1, the three ways to join it with token-part2, the key authorization and its digest (RFC 8823 §3)."""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum

MIN_DECODED_OCTETS = 16  # RFC 8823 §3.1 item 1: at least 128 bits of entropy
MAX_DECODED_OCTETS = 96

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


class InvalidToken(ValueError):
    """A token half that is not base64url, or is too short or too long; never quotes the token."""

    safe_text = True


class TokenJoin(StrEnum):
    """How an authority concatenates the halves; RFC 8823 §3 step 6 says only "concatenates".

    STRING joins the base64url texts with padding stripped (RFC 8555 §8.1, RFC 9891 §3), STRING_PADDED joins them as
    they came, BYTES joins the decoded octets and encodes the result again.
    """

    STRING = "string"
    BYTES = "bytes"
    STRING_PADDED = "string-padded"


@dataclass(frozen=True, slots=True)
class TokenPart1:
    """The half of the token that came by mail: base64url of 16 to 96 octets, blanks removed, "=" kept.

    Padding, if any, must be right for the length. Raises InvalidToken when constructed from anything else.
    """

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        octets = len(_decode(self.text))
        if not MIN_DECODED_OCTETS <= octets <= MAX_DECODED_OCTETS:
            raise InvalidToken(f"token-part1 has {octets} octets")
        if self.text != self.stripped and len(self.text) % 4:
            raise InvalidToken("token-part1 is wrongly padded")

    @property
    def stripped(self) -> str:
        """The text without padding."""
        return self.text.rstrip("=")

    @property
    def decoded(self) -> bytes:
        """The octets the text stands for."""
        return _decode(self.text)

    def digest(self) -> bytes:
        """SHA-256 of the decoded octets (32 octets): names this challenge without revealing the token."""
        return hashlib.sha256(self.decoded).digest()


def _decode(text: str) -> bytes:
    stripped = text.rstrip("=")
    if len(text) - len(stripped) > 2 or not _BASE64URL.fullmatch(stripped) or len(stripped) % 4 == 1:
        raise InvalidToken("the token is not base64url")
    return base64.urlsafe_b64decode(stripped + "=" * (-len(stripped) % 4))


def _encode(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def join_token(part1: TokenPart1, part2: str, joining: TokenJoin) -> str:
    """The whole token: the mail's half first, the HTTPS half second (RFC 8823 §3 step 6).

    `part2` is the challenge object's `token`. Raises InvalidToken when it is not base64url.
    """
    if not _BASE64URL.fullmatch(part2.rstrip("=")):
        raise InvalidToken("token-part2 is not base64url")
    match joining:
        case TokenJoin.STRING:
            return part1.stripped + part2.rstrip("=")
        case TokenJoin.STRING_PADDED:
            return part1.text + part2
        case TokenJoin.BYTES:
            return _encode(part1.decoded + _decode(part2))


def joining_matters(part1: TokenPart1) -> bool:
    """Whether the three joinings can differ: they agree only for unpadded text of 3n octets."""
    return part1.text != part1.stripped or len(part1.decoded) % 3 != 0


def key_authorization(token: str, thumbprint: str) -> str:
    """token "." base64url(RFC 7638 thumbprint of the account key) (RFC 8555 §8.1)."""
    return f"{token}.{thumbprint}"


def response_digest(key_authorization: str) -> str:
    """base64url(SHA-256(key authorization)): 43 characters, unpadded; what the reply carries (RFC 8823 §3 step 6)."""
    return _encode(hashlib.sha256(key_authorization.encode("ascii")).digest())
