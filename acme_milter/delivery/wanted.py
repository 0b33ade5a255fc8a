# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a certificate is wanted by policy: whose it is and who issued it decide, besides what is configured."""

from collections.abc import Mapping

from acme_milter.config.delivery import TargetCommon
from acme_milter.config.schema import Config
from acme_milter.enrollment.staging import is_staging

NOWHERE: Mapping[str, TargetCommon] = {}


def targets_for(config: Config, address: str, principal: str, authority: str) -> Mapping[str, TargetCommon]:
    """The targets of the mailbox's policy by title; none for what is not its present person's, or only a trial."""
    member = config.member(address)
    if member is None or member.principal != principal or is_staging(authority):
        return NOWHERE
    return {target.title: target for target in config.layers[member.domain].policy_of(member).deliver}
