# SPDX-License-Identifier: GPL-3.0-or-later
"""Which code serves which kind of target."""

from collections.abc import Callable, Mapping
from typing import Any

from acme_milter.config.delivery import (
    FilesTarget,
    HookTarget,
    LdapTarget,
    SigningMilterTarget,
    SmimeaTarget,
    TargetCommon,
)
from acme_milter.delivery.files import FilesDelivery
from acme_milter.delivery.hook import HookDelivery
from acme_milter.delivery.ldap import LdapDelivery
from acme_milter.delivery.signing_milter import SigningMilterDelivery
from acme_milter.delivery.smimea import SmimeaDelivery
from acme_milter.delivery.target import Target

_MAKERS: Mapping[type[TargetCommon], Callable[[Any], Target]] = {
    FilesTarget: FilesDelivery,
    HookTarget: HookDelivery,
    LdapTarget: LdapDelivery,
    SigningMilterTarget: SigningMilterDelivery,
    SmimeaTarget: SmimeaDelivery,
}


def make_target(section: TargetCommon) -> Target:
    """The target that a section of the configuration describes."""
    return _MAKERS[type(section)](section)
