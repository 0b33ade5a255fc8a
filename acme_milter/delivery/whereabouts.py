# SPDX-License-Identifier: GPL-3.0-or-later
"""Where something was delivered that nobody uses any more: the policy of then may be another by now, or none."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from acme_milter.config.delivery import TARGET_TYPES, TargetCommon
from acme_milter.config.member import Member
from acme_milter.config.policy import Policy
from acme_milter.config.schema import Config


class Brought(Protocol):
    """What is known of a delivery: `location` is that of its target at the time, None where nobody wrote it down."""

    @property
    def address(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def location(self) -> str | None: ...


def sections_for(config: Config, holder: Member | None, one: Brought) -> Sequence[TargetCommon]:
    """The target of its title, kind and location: that of the policy of whoever had it delivered, where he is known;
    else the one that the address has, whatever groups he was in; else the one that any policy of the domain or the
    defaults name.

    None, or several different ones: nobody knows which it was, and what is there is not to be looked for elsewhere.
    """
    return _found(config, holder, one, one.location)


def takes_back(config: Config, holder: Member | None, one: Brought) -> bool:
    """Whether what was delivered there is taken back by itself: where the target has another location by now, as it is
    there, so that a person is told; of a target that nobody knows, whether its kind is.
    """
    sections = _found(config, holder, one, one.location) or _found(config, holder, one, None)
    if sections:
        return any(section.takes_back for section in sections)
    withdraws = TARGET_TYPES[one.kind].model_fields.get("withdraw") if one.kind in TARGET_TYPES else None
    return withdraws is not None and withdraws.default is True


def _found(config: Config, holder: Member | None, one: Brought, location: str | None) -> Sequence[TargetCommon]:
    def named(policies: Iterable[Policy]) -> Sequence[TargetCommon]:
        targets = dict.fromkeys(target for policy in policies for target in policy.deliver)
        found = [target for target in targets if (target.title, target.kind) == (one.target, one.kind)]
        if location is None:
            return found
        there = [target for target in found if target.location == location]
        # In one place they all look in the same way, however else they differ.
        return there[:1] if location else there

    layers = config.layers.get(one.address.rpartition("@")[2])
    if layers is None:
        return named([config.defaults])
    own = () if holder is None else named([layers.policy_of(holder)])
    return own or named(layers.policies_at(one.address)) or named([*layers.every_policy(), config.defaults])
