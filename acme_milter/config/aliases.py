# SPDX-License-Identifier: GPL-3.0-or-later
"""A person's further addresses: which of them get into the mailbox's certificate, or have one of their own."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from acme_milter.config.layering import Layers
from acme_milter.config.member import Member
from acme_milter.config.policy import Policy
from acme_milter.config.sources import LIST

Exclusion = Callable[[str, str, frozenset[str]], str | None]


@dataclass(frozen=True, slots=True)
class AliasChoice:
    """Of one mailbox. ``left_out`` are (address, reason); the text is made for people."""

    kept: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


class AliasBook:
    """What becomes of every alias of a configuration. ``members`` are by folded address, ``layers`` by domain.

    ``shared`` are, by folded address, the aliases that get into the certificate of their mailbox (`alias_of`).
    """

    def __init__(self, members: Mapping[str, Member], layers: Mapping[str, Layers], exclusion_of: Exclusion) -> None:
        self._members = members
        self._layers = layers
        self._exclusion_of = exclusion_of
        having = [member for member in members.values() if member.aliases]
        self._claims = _claims(having)
        self.shared: Mapping[str, Member] = {
            alias.lower(): _alias_member(alias, member)
            for member in having
            if self._policy_of(member).certificate.aliases == "same_certificate"
            for alias in self.of(member).kept
        }

    def __eq__(self, other: object) -> bool:
        """Whether the same becomes of the same aliases."""
        return isinstance(other, AliasBook) and (self._claims, self.shared) == (other._claims, other.shared)

    __hash__ = None  # type: ignore[assignment]  # it is compared, and never a key

    def of(self, member: Member) -> AliasChoice:
        """Which aliases of a mailbox are in its certificate, or have their own, and why the others are not."""
        policy = self._policy_of(member)
        if policy.certificate.aliases == "none" or not member.aliases:
            return AliasChoice()
        refused = {alias: self._refusal_of(alias, member, policy) for alias in member.aliases}
        return AliasChoice(
            tuple(alias for alias, why in refused.items() if why is None),
            tuple((alias, why) for alias, why in refused.items() if why is not None),
        )

    def _policy_of(self, member: Member) -> Policy:
        return self._layers[member.domain].policy_of(member)

    def _refusal_of(self, alias: str, member: Member, policy: Policy) -> str | None:
        domain = alias.rpartition("@")[2]
        if domain not in self._layers:
            return f"no domain {domain} is configured"
        excluded = None if member.source == LIST else self._exclusion_of(alias, member.source, member.groups)
        others = self._claims.get(alias.lower(), frozenset()) - {member.address}
        if excluded is not None or others:
            return excluded or f"it is an alias of {' and '.join(sorted(others))} as well"
        known = self._members.get(alias.lower())
        is_own = known is not None and known.alias_of == member.address
        if policy.certificate.aliases == "own_certificate" and (known is None or is_own):
            return None if is_own else f"the source {member.source} has not brought it yet"
        if known is not None:
            return "it is still managed with a certificate of its own" if is_own else "it is a mailbox of its own"
        if policy.custody == "csr":
            return "with custody: csr a request is brought, and names the mailbox alone"
        there = self._policy_of(_alias_member(alias, member))
        return None if there.mode == policy.mode else f"domain {domain} is in mode: {there.mode}"


def _alias_member(alias: str, member: Member) -> Member:
    return Member(alias, member.principal, member.source, member.groups, alias_of=member.address)


def _claims(members: Iterable[Member]) -> Mapping[str, frozenset[str]]:
    """From each alias, folded, to the mailboxes whose it is said to be."""
    found: dict[str, frozenset[str]] = {}
    for member in members:
        for alias in member.aliases:
            folded = alias.lower()
            found[folded] = found.get(folded, frozenset()) | {member.address}
    return found


def listed_members(
    mailboxes: Mapping[str, str], aliases: Mapping[str, tuple[str, ...]], layers: Mapping[str, Layers]
) -> dict[str, Member]:
    """What the configuration lists, by folded address, with the aliases that are to have their own certificates."""
    found: dict[str, Member] = {}
    for folded, address in mailboxes.items():
        plain = Member(address, address)
        further = aliases.get(folded, ())
        wanted = layers[plain.domain].policy_of(plain).certificate.aliases if further else "none"
        found[folded] = plain if wanted == "none" else Member(address, address, aliases=further)
        if wanted == "own_certificate":
            found |= {alias.lower(): Member(alias, address, alias_of=address) for alias in further}
    return found
