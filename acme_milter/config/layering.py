# SPDX-License-Identifier: GPL-3.0-or-later
"""Which policy holds for a mailbox: its domain's, under its group's, under its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from acme_milter.config.member import Member
from acme_milter.config.policy import Domain, GroupMatch, Policy
from acme_milter.protocol.mailbox import Mailbox


def in_force(policy: Policy, authorities: Sequence[str]) -> Policy:
    """The policy with every authority there is where it names none."""
    return policy if policy.authorities else policy.model_copy(update={"authorities": tuple(authorities)})


def folded_address(address: str) -> str:
    """The key of a written address among the overrides; raises InvalidMailbox."""
    return str(Mailbox.parse(address, allow_utf8=True)).lower()


@dataclass(frozen=True, slots=True)
class Layers:
    """A domain's policies, each merged once: 100 000 mailboxes share as many as there are groups.

    `base` is the domain's policy in force; `overrides` is keyed by the address in lower case.
    """

    base: Policy
    groups: Sequence[tuple[GroupMatch, Policy]]
    overrides: Mapping[str, Policy]
    authorities: tuple[str, ...]
    _own: dict[tuple[int | None, str], Policy] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, defaults: Policy, domain: Domain, authorities: Sequence[str]) -> "Layers":
        """What a domain's part of the configuration says, on top of the defaults."""
        base = defaults.overridden_by(domain)
        written = domain.mailboxes
        return cls(
            in_force(base, authorities),
            [(group.match, in_force(base.overridden_by(group), authorities)) for group in written.groups],
            {folded_address(address): policy for address, policy in written.overrides.items()},
            tuple(authorities),
        )

    def group_of(self, member: Member) -> int | None:
        """The position of the first group that matches, None when none does. An alias is where its mailbox is."""
        for position, (match, _) in enumerate(self.groups):
            if match.matches(member.alias_of or member.address, member.groups):
                return position
        return None

    def policy_of(self, member: Member) -> Policy:
        """The policy in force of one of the domain's mailboxes."""
        position = self.group_of(member)
        shared = self.base if position is None else self.groups[position][1]
        folded = member.address.lower()
        if member.alias_of is not None and folded not in self.overrides:
            folded = member.alias_of.lower()
        override = self.overrides.get(folded)
        if override is None:
            return shared
        own = self._own.get((position, folded))
        if own is None:
            own = self._own[(position, folded)] = in_force(shared.overridden_by(override), self.authorities)
        return own

    def policies_at(self, address: str) -> list[Policy]:
        """Each policy that a mailbox of this address can have, whosever it is and whatever groups that person is in."""
        shared = [self.base, *(policy for _, policy in self.groups)]
        override = self.overrides.get(address.lower())
        return shared if override is None else [policy.overridden_by(override) for policy in shared]

    def every_policy(self) -> list[Policy]:
        """Policies that together hold each value some mailbox of this domain can have."""
        single = (self.base.overridden_by(override) for override in self.overrides.values())
        return [self.base, *(policy for _, policy in self.groups), *single]
