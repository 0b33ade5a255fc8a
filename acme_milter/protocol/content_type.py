# SPDX-License-Identifier: GPL-3.0-or-later
"""The Content-Type field (RFC 2045 §5.1) by a strict grammar: what programs read differently is refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from acme_milter.protocol.headers import Headers, unfold

MAX_OCTETS = 2048

_TOKEN = rb"[A-Za-z0-9!#$&'+^_`{|}~.-]+"
_TYPE = re.compile(rb"[ \t]*(" + _TOKEN + rb")/(" + _TOKEN + rb")[ \t]*")
# No comments, no backslashes, and no name with a * (RFC 2231): a boundary that two programs read differently is two
# mails in one.
_PARAMETER = re.compile(
    rb";[ \t]*("
    + _TOKEN
    + rb")[ \t]*=[ \t]*(?:("
    + _TOKEN
    + rb'|[A-Za-z0-9!#$&*+/:?@^_.-]+)|"([^"\\\x00-\x1f\x7f]*)")[ \t]*'
)
_IDENTITY = frozenset({b"7bit", b"8bit", b"binary"})


class InvalidContentType(ValueError):
    """The field is not one media type with parameters of the strict grammar."""

    safe_text = True


@dataclass(frozen=True, slots=True)
class ContentType:
    """`name` is "type/subtype" in lower case; `parameters` by lower-case name, values as written."""

    name: str
    parameters: Mapping[str, str] = field(repr=False)

    def parameter(self, name: str) -> str | None:
        return self.parameters.get(name)


def content_type_of(headers: Headers) -> ContentType:
    """What a mail or a part says it is; text/plain where it says nothing (RFC 2045 §5.2). Raises InvalidContentType."""
    found = headers.all(b"Content-Type")
    if not found:
        return ContentType("text/plain", {})
    if len(found) > 1:
        raise InvalidContentType("Content-Type occurs more than once")
    return parse_content_type(found[0].value)


def parse_content_type(value: bytes) -> ContentType:
    """Read a value as on the wire; raises InvalidContentType."""
    text = unfold(value).rstrip(b" \t").removesuffix(b";")
    matched = _TYPE.match(text) if len(value) <= MAX_OCTETS else None
    if matched is None:
        raise InvalidContentType("Content-Type is not a media type")
    parameters: dict[str, str] = {}
    position = matched.end()
    while position < len(text):
        found = _PARAMETER.match(text, position)
        if found is None:
            raise InvalidContentType("Content-Type has a parameter of another form than name=value")
        name = found[1].decode("ascii").lower()
        if name in parameters:
            raise InvalidContentType(f"Content-Type's {name[:20]} occurs more than once")
        quoted = found[2] if found[2] is not None else found[3]
        parameters[name] = quoted.decode("utf-8", "replace")
        position = found.end()
    return ContentType(f"{matched[1].decode('ascii')}/{matched[2].decode('ascii')}".lower(), parameters)


def is_identity_encoded(headers: Headers) -> bool:
    """Whether the octets after these fields are the content itself (RFC 2045 §6.2)."""
    return all(item.value.strip(b" \t").lower() in _IDENTITY for item in headers.all(b"Content-Transfer-Encoding"))


def is_base64_encoded(headers: Headers) -> bool:
    """Whether exactly one Content-Transfer-Encoding says base64."""
    found = headers.all(b"Content-Transfer-Encoding")
    return len(found) == 1 and found[0].value.strip(b" \t").lower() == b"base64"
