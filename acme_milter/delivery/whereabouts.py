# SPDX-License-Identifier: GPL-3.0-or-later
"""Where something was delivered that nobody uses any more: the policy of then may be another by now, or none."""

from collections.abc import Iterable, Sequence

from acme_milter.config.delivery import TARGET_TYPES, TargetCommon
from acme_milter.config.member import Member
from acme_milter.config.policy import Policy
from acme_milter.config.schema import Config


def sections_for(config: Config, holder: Member | None, address: str, title: str, kind: str) -> Sequence[TargetCommon]:
    """The target of this title and kind: that of the policy of whoever had it delivered, where he is known; else the
    one that the address has, whatever groups he was in; else the one that any policy of the domain or the defaults
    name.

    None, or several different ones: nobody knows which it was, and what is there is not to be looked for elsewhere.
    """

    def named(policies: Iterable[Policy]) -> list[TargetCommon]:
        found = (target for policy in policies for target in policy.deliver)
        return list(dict.fromkeys(target for target in found if target.title == title and target.kind == kind))

    layers = config.layers.get(address.rpartition("@")[2])
    if layers is None:
        return named([config.defaults])
    own = [] if holder is None else named([layers.policy_of(holder)])
    return own or named(layers.policies_at(address)) or named([*layers.every_policy(), config.defaults])


def takes_back(config: Config, holder: Member | None, address: str, title: str, kind: str) -> bool:
    """Whether what was delivered there is taken back by itself; of a target that nobody knows, whether its kind is."""
    sections = sections_for(config, holder, address, title, kind)
    if sections:
        return any(section.takes_back for section in sections)
    withdraws = TARGET_TYPES[kind].model_fields.get("withdraw") if kind in TARGET_TYPES else None
    return withdraws is not None and withdraws.default is True
