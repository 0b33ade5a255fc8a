# SPDX-License-Identifier: GPL-3.0-or-later
"""Message identifiers that may cross from a challenge mail into our reply (RFC 5322 §3.6.4), by a strict grammar."""

import re

from acme_milter.protocol.headers import unfold

MAX_OCTETS = 250  # so that any header line holding one stays below 998 octets (RFC 5322 §2.1.1)
# A reply names a whole thread or none of it; eight ancestors of a fresh challenge mail are already absurd.
MAX_REFERENCES = 8

_ATEXT = rb"A-Za-z0-9!#$%&'*+/=?^_`{|}~.\-"
_MSG_ID = re.compile(rb"<[" + _ATEXT + rb"]+@(?:[" + _ATEXT + rb"]+|\[[A-Za-z0-9.:\-]+\])>")

_BLANKS = re.compile(rb"[ \t]+")


def parse_message_id(value: bytes) -> bytes | None:
    """The one `<left@right>` of a Message-ID value, verbatim; None when it fails the grammar or is over 250 octets."""
    candidate = unfold(value).strip(b" \t")
    if len(candidate) > MAX_OCTETS or not _MSG_ID.fullmatch(candidate):
        return None
    return candidate


def parse_references(value: bytes) -> tuple[bytes, ...]:
    """Every identifier of a References or In-Reply-To value; empty when any fails the grammar or there are over 8."""
    identifiers = _BLANKS.split(unfold(value).strip(b" \t"))
    if len(identifiers) > MAX_REFERENCES or not all(parse_message_id(item) for item in identifiers):
        return ()
    return tuple(identifiers)
