# SPDX-License-Identifier: GPL-3.0-or-later
"""Where something was delivered that nobody uses any more: the policy of then may be another by now, or none."""

from collections.abc import Sequence

from acme_milter.config.delivery import TARGET_TYPES, TargetCommon
from acme_milter.config.policy import Policy
from acme_milter.config.schema import Config


def sections_for(config: Config, address: str, title: str, kind: str) -> Sequence[TargetCommon]:
    """The target of this title and kind: the mailbox's own, while it is managed; else its domain's; else the only one
    that any policy of the domain or the defaults name. None, or several different ones: nobody knows which it was.
    """

    def named(policy: Policy) -> list[TargetCommon]:
        return [target for target in policy.deliver if target.title == title and target.kind == kind]

    member = config.member(address)
    layers = config.layers.get(address.rpartition("@")[2])
    first = [] if member is None else [config.layers[member.domain].policy_of(member)]
    others: list[Policy] = [config.defaults]
    if layers is not None:
        first.append(layers.base)
        others = [*layers.every_policy(), config.defaults]
    for policy in first:
        if found := named(policy):
            return found
    return list(dict.fromkeys(target for policy in others for target in named(policy)))


def takes_back(config: Config, address: str, title: str, kind: str) -> bool:
    """Whether what was delivered there is taken back by itself; of a target that nobody knows, whether its kind is."""
    sections = sections_for(config, address, title, kind)
    if sections:
        return any(section.takes_back for section in sections)
    withdraws = TARGET_TYPES[kind].model_fields.get("withdraw") if kind in TARGET_TYPES else None
    return withdraws is not None and withdraws.default is True
