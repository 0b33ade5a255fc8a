# SPDX-License-Identifier: GPL-3.0-or-later
"""A bulk plan: which mailboxes are to get a certificate, which are not and why, what it will take. Orders nothing."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.member import Member
from acme_milter.config.schema import Config, Policy
from acme_milter.config.sources import LIST
from acme_milter.enrollment.kinds import missing, usages_of
from acme_milter.mailboxes.aliases import replies_of
from acme_milter.mailboxes.record import is_wanted, member_of
from acme_milter.report.left_out import Excluded, Reasons
from acme_milter.report.plan_shares import AuthorityShare, shares
from acme_milter.store import mailboxes, plan_facts, source_runs
from acme_milter.store.bulk_runs import Kind
from acme_milter.store.plan_facts import Certified, Held
from acme_milter.store.source_runs import LeftOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a mailbox must meet, all of it together; None or empty asks for nothing.

    Without ``expiring``, ``issued_before`` or ``serials``, which look at its certificate, it must have none that is
    valid. ``authority`` is whose certificate is looked at, or who is to be asked for the first one.
    """

    domains: frozenset[str] = frozenset()
    authority: str | None = None
    expiring: timedelta | None = None
    issued_before: datetime | None = None
    addresses: frozenset[str] | None = None
    """In lower case."""
    serials: frozenset[str] | None = None
    """Lower-case hex without leading zeros."""

    @property
    def looks_at_certificates(self) -> bool:
        return self.expiring is not None or self.issued_before is not None or self.serials is not None


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One mailbox: from whom, for whom, and instead of which stored certificates.

    ``orders`` is how many it takes, ``mails`` how many challenge mails these bring together.
    """

    address: str
    authority: str
    principal: str
    replaces_id: str | None = None
    serial: str | None = None
    also_replaces_id: str | None = None
    orders: int = 1
    mails: int = 1

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``items`` are sorted by domain and address, so that two plans can be compared line by line."""

    kind: Kind
    made_at: datetime
    configuration: str
    selection: Selection
    revoke: str | None = None
    items: tuple[PlanItem, ...] = field(repr=False)
    excluded: tuple[Excluded, ...] = ()
    authorities: tuple[AuthorityShare, ...] = ()

    def counts(self) -> list[tuple[str, str, int]]:
        """(domain, authority, number), sorted."""
        numbers = Counter((item.domain, item.authority) for item in self.items)
        return [(domain, authority, number) for (domain, authority), number in sorted(numbers.items())]

    @property
    def takes(self) -> timedelta:
        """Authorities work at the same time: the slowest one decides."""
        return max((share.estimate.takes for share in self.authorities), default=timedelta(0))


def make_plan(
    connection: sa.Connection,
    config: Config,
    now: datetime,
    selection: Selection,
    *,
    kind: Kind = Kind.ISSUE,
    revoke: str | None = None,
) -> Plan:
    """Look at every mailbox of the lists and the sources. ``config`` may or may not have the sources' members.

    ``revoke``: the reason with which what is replaced is revoked afterwards, a word of `enrollment.revocation_reason`.
    """
    maker = _Maker(connection, config, now, selection)
    for member, obstacle in every_mailbox(connection, config):
        maker.consider(member, obstacle)
    for run in source_runs.all_runs(connection).values():
        if run.source in config.sources:
            maker.add_left_out(run.excluded)
    maker.name_what_was_not_found()
    items = sorted(maker.items, key=lambda item: (item.domain, item.address))
    return Plan(
        kind=kind,
        made_at=now,
        configuration=str(config.path),
        selection=selection,
        revoke=revoke,
        items=tuple(items),
        excluded=maker.reasons.sorted(),
        authorities=shares(connection, config, now, items),
    )


def every_mailbox(connection: sa.Connection, config: Config) -> Iterator[tuple[Member, str | None]]:
    """Every mailbox that the configuration or a source knows, and what forbids it a certificate at all."""
    for member in config.members.values():
        if member.source == LIST:
            yield member, None
    for row in mailboxes.not_left(connection):
        listed = config.members.get(row.folded)
        if listed is not None and listed.source == LIST:
            continue
        obstacle = None
        if not is_wanted(config, row):
            obstacle = config.exclusion_of(row.address, row.source, row.groups)
        elif row.missing_since is not None:
            obstacle = f"source {row.source} does not list it since {row.missing_since:%Y-%m-%d}"
        yield member_of(row), obstacle


class _Maker:
    def __init__(self, connection: sa.Connection, config: Config, now: datetime, selection: Selection) -> None:
        self._config = config
        self._now = now
        self._wanted = selection
        self._seen: set[str] = set()
        self._serials: set[str] = set()
        self.items: list[PlanItem] = []
        self.reasons = Reasons()
        self._open = plan_facts.open_orders(connection)
        self._held: dict[str, list[Held]] = {}
        self._has = Certified({}, {})
        if selection.looks_at_certificates:
            for held in plan_facts.active_certificates(connection):
                if self._is_meant(held):
                    self._held.setdefault(held.address, []).append(held)
        else:
            self._has = plan_facts.certified(connection, now)

    def consider(self, member: Member, obstacle: str | None) -> None:
        """Take the mailbox up, leave it out with a reason, or pass it over because nobody asked for it."""
        wanted, address = self._wanted, member.address
        if wanted.domains and member.domain not in wanted.domains:
            return
        if wanted.addresses is not None:
            if address.lower() not in wanted.addresses:
                return
            self._seen.add(address.lower())
        replaced = self._replaced(member)
        if wanted.looks_at_certificates:
            if not replaced:
                return
        elif member.principal in self._has.covered.get(address, ()):
            if wanted.addresses is not None:
                self.reasons.add("has a valid certificate; for another one: acme-milter bulk replace", address)
            return
        policy = None if obstacle else self._policy(member)
        if policy is None:
            self.reasons.add(obstacle or "its domain is not configured", address)
            return
        authority = policy.authorities[0]
        if not wanted.looks_at_certificates and wanted.authority not in {None, authority}:
            return
        obstacle = self._obstacle(member, policy, authority, replaced)
        if obstacle is not None:
            self.reasons.add(obstacle, address)
            return
        self.items.append(self._item(member, policy, authority, replaced))

    def add_left_out(self, left_out: Iterable[LeftOut]) -> None:
        """What a source lists and nobody manages: it has no row, and without a name nobody would hear of it."""
        wanted = self._wanted
        if wanted.looks_at_certificates or wanted.addresses is not None:
            return
        for one in left_out:
            policy = self._config.policies.get(one.domain)
            if wanted.domains and one.domain not in wanted.domains:
                continue
            if wanted.authority is None or (policy is not None and policy.authorities[0] == wanted.authority):
                self.reasons.add_many(one.reason, one.number, one.examples)

    def name_what_was_not_found(self) -> None:
        """What was asked for by name and is nowhere."""
        for address in sorted((self._wanted.addresses or frozenset()) - self._seen):
            reason = _exclusion_by_name(self._config, address)
            self.reasons.add(f"is not a managed mailbox{f': it {reason}' if reason else ''}", address)
        for serial in sorted((self._wanted.serials or frozenset()) - self._serials):
            self.reasons.add("no active certificate has this serial", serial)
        for address, held in self._held.items():
            if held:  # nobody came for it
                self.reasons.add("its mailbox is not managed: nothing to replace, see acme-milter cert revoke", address)

    def _item(self, member: Member, policy: Policy, authority: str, replaced: Sequence[Held]) -> PlanItem:
        wanted = usages_of(policy.certificate.layout)
        mails = replies_of(self._config, member, authority)
        if not replaced:
            partly = self._has.partly.get((member.address, member.principal), frozenset())
            orders = len(missing(wanted, partly))
            return PlanItem(member.address, authority, member.principal, orders=orders, mails=orders * mails)
        first, also = replaced[0], replaced[1].certificate_id if len(replaced) > 1 else None
        orders = len(replaced) if all(held.usage in wanted for held in replaced) else len(wanted)
        return PlanItem(
            member.address,
            authority,
            member.principal,
            first.certificate_id,
            first.serial,
            also,
            orders,
            orders * mails,
        )

    def _policy(self, member: Member) -> Policy | None:
        layers = self._config.layers.get(member.domain)
        return None if layers is None else layers.policy_of(member)

    def _obstacle(self, member: Member, policy: Policy, authority: str, replaced: Sequence[Held]) -> str | None:
        if policy.mode == "observe":
            return "mode: observe answers no challenge"
        if (member.address, authority) in self._open:
            return "an order is open already"
        if replaced and replaced[0].principal != member.principal:
            return "its certificate is of another person, who had the mailbox before"
        return None

    def _is_meant(self, held: Held) -> bool:
        wanted = self._wanted
        if wanted.serials is not None:
            if held.serial not in wanted.serials:
                return False
            self._serials.add(held.serial)
        return (
            wanted.authority in {None, held.authority}
            and (wanted.issued_before is None or held.not_before < wanted.issued_before)
            and (wanted.expiring is None or held.not_after <= self._now + wanted.expiring)
            and (not wanted.domains or held.address.rpartition("@")[2] in wanted.domains)
            and (wanted.addresses is None or held.address.lower() in wanted.addresses)
        )

    def _replaced(self, member: Member) -> list[Held]:
        """Of the certificates that are meant, the mailbox's own that lasts longest; of two kinds one each."""
        found = self._held.pop(member.address, [])
        found.sort(key=lambda held: (held.principal == member.principal, held.not_after), reverse=True)
        mine = [held for held in found if held.principal == member.principal] or found[:1]
        kinds: dict[KeyUsageKind, Held] = {}
        for held in mine:
            kinds.setdefault(held.usage, held)
        pair = [kinds[usage] for usage in usages_of("dual") if usage in kinds]
        return [kinds[KeyUsageKind.DUAL]] if KeyUsageKind.DUAL in kinds else pair


def _exclusion_by_name(config: Config, address: str) -> str | None:
    """Why a source's mailbox with this address would not be wanted, whoever it belongs to."""
    domain = config.domains.get(address.rpartition("@")[2])
    if domain is None or not domain.source:
        return None
    return config.exclusion_of(address, domain.source[0], frozenset())
