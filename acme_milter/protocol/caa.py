# SPDX-License-Identifier: GPL-3.0-or-later
"""CAA records as a certificate for mail sees them: may this authority issue? (RFC 8659, RFC 9495)"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

CRITICAL = 128
"""RFC 8659 §4.1: whoever does not know the tag must not issue."""

MAIL = "issuemail"
KNOWN_TAGS = frozenset({"issue", "issuewild", MAIL, "issuevmc", "iodef", "contactemail", "contactphone"})
"""Of IANA's list, what an authority can be expected to know; the reserved ones of RFC 6844 are not in use."""

_LABEL = r"[0-9A-Za-z](?:-*[0-9A-Za-z])*"
_PARAMETER = rf"{_LABEL}[ \t]*=[ \t]*[\x21-\x3a\x3c-\x7e]*"
# RFC 9495 §3, without the white space at both ends.
_ISSUEMAIL = re.compile(
    rf"(?P<issuer>{_LABEL}(?:\.{_LABEL})*)?[ \t]*(?:;[ \t]*(?:{_PARAMETER}(?:[ \t]*;[ \t]*{_PARAMETER})*)?)?"
)
_LONGEST = 1024
"""Of a value; none that means anything is longer."""


@dataclass(frozen=True, slots=True)
class CaaRecord:
    """One CAA record: its flags octet, its tag, its value."""

    flags: int
    tag: str
    value: str


def names_to_ask(domain: str) -> Iterator[str]:
    """RFC 8659 §3: the domain, then its parents up to the last label; the first with any CAA record decides.

    ``domain`` is in A-labels. The root is not asked.
    """
    labels = domain.rstrip(".").lower().split(".")
    for at in range(len(labels)):
        yield ".".join(labels[at:])


def issuer_of(value: str) -> str | None:
    """Who is permitted by the value of one `issuemail` record, in lower case; None when it permits nobody.

    RFC 9495 §3: a value that does not follow the grammar is treated as if it named nobody. Parameters are between the
    domain's owner and the authority, and do not matter here.
    """
    value = value.strip(" \t")
    found = _ISSUEMAIL.fullmatch(value) if len(value) <= _LONGEST else None
    issuer: str | None = found["issuer"] if found else None
    return None if issuer is None else issuer.lower()


def objection(records: Sequence[CaaRecord], identities: Collection[str]) -> str | None:
    """Why an authority with these names must not issue for mail; None when it may.

    ``records`` are all CAA records of the name that decides, empty when no name has any. Without an `issuemail` record
    among them everybody may (RFC 9495 §3), whatever `issue` says.
    """
    for record in records:
        if record.flags & CRITICAL and record.tag.lower() not in KNOWN_TAGS:
            return f"it has a critical record whose tag {record.tag!r} is not known"  # RFC 8659 §4.1
    values = [record.value for record in records if record.tag.lower() == MAIL]
    if not values:
        return None
    permitted = [issuer for issuer in map(issuer_of, values) if issuer is not None]
    if {identity.rstrip(".").lower() for identity in identities} & set(permitted):
        return None
    return f"it permits only {', '.join(sorted(set(permitted)))}" if permitted else "it permits nobody"


def record_to_add(name: str, identity: str) -> str:
    """The line of a zone file that permits an authority, at the name whose records decide."""
    return f'{name.rstrip(".")}. CAA 0 {MAIL} "{identity}"'
