# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailbox addresses as an order, a certificate and a reply name them."""

import re
from dataclasses import dataclass

import idna

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'+/=?^_`{|}~\u0080-\U0010ffff-]+\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """local part as it was spelled, domain as lower-case A-labels (RFC 9598 compares exactly this)."""

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


def parse_address(text: object) -> Address:
    """Parse an addr-spec (RFC 5321 dot-atom, RFC 6531 local parts too); ValueError with the reason."""
    if not isinstance(text, str):
        raise ValueError("an address is a string")  # noqa: TRY004 - one kind of refusal for all callers
    local, sign, domain = text.rpartition("@")
    if not sign or not local or len(local.encode()) > 64:
        raise ValueError("an address is local-part@domain")
    # The asterisk, legal in RFC 5321, is missing from _ATOM: RFC 8823 §3 forbids it.
    if not all(_ATOM.match(atom) for atom in local.split(".")):
        raise ValueError("the local part is not a dot-atom")
    try:
        ascii_domain = idna.encode(domain.lower(), uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError("the domain is not a host name") from error
    labels = ascii_domain.split(".")
    if len(labels) < 2 or not all(_LABEL.match(label) for label in labels):
        raise ValueError("the domain is not a fully qualified host name")
    return Address(local, ascii_domain)
