# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a bulk run's mailbox still wants what the plan said: between the two lie hours, or days."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.member import Member
from acme_milter.config.schema import Config
from acme_milter.config.sources import LIST
from acme_milter.enrollment.kinds import covers, missing, usages_of
from acme_milter.enrollment.staging import is_staging
from acme_milter.mailboxes.record import is_wanted
from acme_milter.store import mailboxes, plan_facts
from acme_milter.store.bulk_items import BulkItem
from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.store.plan_facts import Held


@dataclass(frozen=True, slots=True)
class BulkCheck:
    """What the store says of some items' mailboxes at this moment."""

    config: Config
    now: datetime
    rows: Mapping[str, StoredMailbox]
    held: Mapping[str, Sequence[Held]]
    open_orders: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, connection: sa.Connection, config: Config, now: datetime, items: Sequence[BulkItem]) -> "BulkCheck":
        """For some hundreds of items at most."""
        addresses = [item.address for item in items]
        return cls(
            config,
            now,
            mailboxes.find_many(connection, [address.lower() for address in addresses]),
            plan_facts.active_of(connection, addresses),
            frozenset(plan_facts.open_orders_of(connection, addresses)),
        )

    def is_not_known_yet(self, item: BulkItem) -> bool:
        """The store has the mailbox, the configuration in force not yet, as in the first moments of a worker."""
        row = self.rows.get(item.address.lower())
        if row is None or row.left_at is not None or self.config.member(item.address) is not None:
            return False
        return is_wanted(self.config, row)

    def obstacle(self, item: BulkItem) -> str | None:
        """Why no order is to be opened for it now; None when one is."""
        member = self.config.member(item.address)
        row = self.rows.get(item.address.lower())
        if member is None:
            if row is not None and row.left_at is not None:
                return f"the mailbox left on {row.left_at:%Y-%m-%d}"
            if row is not None and row.source != LIST:
                return self.config.exclusion_of(row.address, row.source, row.groups)
            return "is not a managed mailbox any more"
        if row is not None and row.missing_since is not None and member.source == row.source:
            return f"source {row.source} does not list it since {row.missing_since:%Y-%m-%d}"
        return self._policy_obstacle(item, member) or self._certificate_obstacle(item, member)

    def _policy_obstacle(self, item: BulkItem, member: Member) -> str | None:
        if member.source != LIST:
            excluded = self.config.exclusion_of(member.address, member.source, member.groups)
            if excluded is not None:
                return excluded
        policy = self.config.policy_for(member.address)
        if policy is None or item.authority not in self.config.authorities:
            return f"authority {item.authority} is not configured any more"
        if policy.mode == "observe":
            return "mode: observe answers no challenge"
        if policy.authorities[0] != item.authority:
            return f"its policy names authority {policy.authorities[0]} now, the plan {item.authority}; make a new plan"
        return None

    def _certificate_obstacle(self, item: BulkItem, member: Member) -> str | None:
        if member.principal != item.principal:
            return "the mailbox was given to another person since the plan was made"
        policy = self.config.policy_for(member.address)
        listed = (item.authority,) if policy is None else policy.authorities
        if any((member.address, authority) in self.open_orders for authority in listed):
            return "an order is open already"
        if item.replaces_id is not None or item.also_replaces_id is not None:
            if self.replaces(item) is None:
                return "the certificate that it was to replace is not active any more"
        elif covers(self._has(member)):
            return "has a valid certificate already"
        return None

    def replaces(self, item: BulkItem) -> str | None:
        """The certificate whose place its first order takes: of two the second, where the first is replaced already."""
        member = self.config.member(item.address)
        held = () if member is None else self.held.get(member.address, ())
        active = {one.certificate_id for one in held}
        return next((one for one in (item.replaces_id, item.also_replaces_id) if one in active), None)

    def usage(self, item: BulkItem) -> KeyUsageKind:
        """What its first order's certificate is to be for: what it lacks, or what the replaced one was for."""
        member = self.config.member(item.address)
        policy = None if member is None else self.config.policy_for(member.address)
        if member is None or policy is None:
            return KeyUsageKind.DUAL
        wanted = usages_of(policy.certificate.layout)
        first = self.replaces(item)
        replaced = [one.usage for one in self.held.get(member.address, ()) if one.certificate_id == first]
        if replaced and replaced[0] in wanted:
            return replaced[0]
        return next(iter(() if replaced else missing(wanted, self._has(member))), wanted[0])

    def _has(self, member: Member) -> frozenset[KeyUsageKind]:
        mine = (one for one in self.held.get(member.address, ()) if one.principal == member.principal)
        return frozenset(one.usage for one in mine if one.not_after > self.now and not is_staging(one.authority))
