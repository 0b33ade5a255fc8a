# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether CAA records let this CA issue for mail, as a CA reads RFC 8659 and RFC 9495."""

import string

from dnslib import QTYPE

from acme_milter.testca.names import LookupFailedError, look_up
from acme_milter.testca.office import Office
from acme_milter.testca.problem import ProblemError, subproblem

_UNDERSTOOD = {"issue", "issuewild", "issuemail", "issuevmc", "iodef", "contactemail", "contactphone"}
_LABEL = set(string.ascii_letters + string.digits + "-")


async def refuse_by_caa(office: Office, identifiers: tuple[str, ...]) -> None:
    """Knob CAA: raise ProblemError (RFC 8555 §6.7, caa) for the first address whose domain does not want us."""
    if office.chaos.word("CAA") != "enforced" or office.options.resolver is None:
        return
    for identifier in identifiers:
        try:
            records = await _relevant(office.options.resolver, identifier.rpartition("@")[2])
        except LookupFailedError as error:
            raise _refusal(identifier, f"CAA could not be looked up: {error}") from error
        if any(flags & 128 and tag not in _UNDERSTOOD for flags, tag, _ in records):
            raise _refusal(identifier, "a critical CAA record is not understood")
        for_mail = [value for _, tag, value in records if tag == "issuemail"]
        if for_mail and office.options.domain not in map(_issuer, for_mail):
            raise _refusal(identifier, f"CAA issuemail does not name {office.options.domain}")


def _refusal(identifier: str, detail: str) -> ProblemError:
    named = {"type": "email", "value": identifier}
    return ProblemError("caa", detail, subproblems=[subproblem("caa", detail, named)])


async def _relevant(resolver: tuple[str, int], domain: str) -> list[tuple[int, str, str]]:
    """The CAA record set of the domain or of its closest ancestor that has one."""
    while domain:
        answers = await look_up(resolver, domain, "CAA")
        found = [one.rdata for one in answers if one.rtype == QTYPE.CAA]
        if found:
            return [(one.flags, one.tag.lower(), one.value) for one in found]
        domain = domain.partition(".")[2]
    return []


def _issuer(value: str) -> str | None:
    """The issuer's name before the first semicolon; None for an empty or a malformed one."""
    name, _, parameters = value.partition(";")
    name = name.strip(" \t").lower()
    labels = name.split(".")
    if not all(label and set(label) <= _LABEL and label[0] != "-" and label[-1] != "-" for label in labels):
        return None
    for parameter in parameters.split(";") if parameters.strip(" \t") else []:
        tag, equals, _ = parameter.strip(" \t").partition("=")
        if not equals or not tag.strip(" \t"):
            return None
    return name
