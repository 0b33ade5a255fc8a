# SPDX-License-Identifier: GPL-3.0-or-later
"""Every key an administrator may write, its kind and its default; `acme-milter.yaml` explains them.

The parts are pydantic models, read one by one by the loader so that a fault in one hides none in another; Config is
what the rest of the program sees. All of it is immutable.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from acme_milter.config.aliases import AliasBook, AliasChoice
from acme_milter.config.database_url import has_password
from acme_milter.config.layering import Layers
from acme_milter.config.member import Member
from acme_milter.config.policy import (
    CertificatePolicy,
    Defaults,
    DkimKey,
    Domain,
    GroupMatch,
    KeyAlgorithm,
    LeaversPolicy,
    MailboxesSection,
    MailboxGroup,
    Mode,
    OnSuccess,
    Policy,
    RenewalPolicy,
    ReplyPolicy,
    SafetyPolicy,
)
from acme_milter.config.secret import Secret, WrappingKeySource
from acme_milter.config.section import Section
from acme_milter.config.selection import Selection
from acme_milter.config.sources import SourceCommon
from acme_milter.config.values import (
    Contact,
    Cpu,
    DomainName,
    Duration,
    FilePath,
    HttpsUrl,
    LastingDuration,
    MilterSocket,
    Nameserver,
    Several,
    SocketMode,
    SocketPath,
    StoreUrl,
)
from acme_milter.enrollment.staging import is_staging, staging_of
from acme_milter.protocol.dkim_policy import HeaderCoverage
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox
from acme_milter.protocol.token import TokenJoin

__all__ = [
    "LONGEST_DEADLINE",
    "AccountScope",
    "Authority",
    "AuthorityLimits",
    "CertificatePolicy",
    "ChallengeTrigger",
    "Config",
    "Defaults",
    "DkimKey",
    "DnsSection",
    "Domain",
    "Eab",
    "GroupMatch",
    "KeyAlgorithm",
    "KeyPool",
    "KeysSection",
    "LeaversPolicy",
    "MailboxGroup",
    "MailboxesSection",
    "MilterSection",
    "Mode",
    "OnSuccess",
    "Policy",
    "RenewalPolicy",
    "ReplyPolicy",
    "SafetyPolicy",
    "Store",
    "WorkerSection",
]

AccountScope = Literal["shared", "per_domain", "per_mailbox"]
ChallengeTrigger = Literal["reply-first", "post-first", "auto"]

_RUN = Path("/run/acme-milter")
LONGEST_DEADLINE = timedelta(seconds=20)
_SPOOL_SOCKET = "unix:/var/spool/postfix/acme-milter/acme-milter.sock"  # Debian's smtpd is chrooted to the spool


class Store(Section):
    """The database: an SQLAlchemy URL, which may hold a password and is therefore not in the repr."""

    url: StoreUrl = Field(default="sqlite:////var/lib/acme-milter/acme-milter.db", repr=False)

    @property
    def has_password(self) -> bool:
        """True when the URL itself carries a password."""
        return has_password(self.url)


def _before_postfix(deadline: timedelta) -> timedelta:
    # contrib/postfix: content_timeout=30s. A mail judged later would be delivered by Postfix, and answered as well.
    if deadline > LONGEST_DEADLINE:
        raise ValueError(f"must be {LONGEST_DEADLINE.seconds}s at most: Postfix itself waits for 30s")
    return deadline


class MilterSection(Section):
    """The role beside Postfix. `socket` is libmilter's spelling; `cpu` pins the process, None lets it wander."""

    socket: MilterSocket = _SPOOL_SOCKET
    socket_mode: SocketMode = Field(default=0o660, json_schema_extra={"default": "0660"})
    cpu: Cpu = "auto"
    deadline: Annotated[LastingDuration, AfterValidator(_before_postfix)] = timedelta(seconds=8)

    @property
    def socket_path(self) -> Path | None:
        """The path of a unix socket, None for inet."""
        return Path(self.socket.removeprefix("unix:")) if self.socket.startswith("unix:") else None


class WorkerSection(Section):
    """The role that answers: its unix sockets, its threads for ACME and SMTP, its DKIM children.

    `verification` says who is asked whether a source's mailbox exists, before an order is begun for it.
    """

    intake_socket: SocketPath = _RUN / "intake.sock"
    control_socket: SocketPath = _RUN / "control.sock"
    threads: int = Field(default=16, ge=1, le=256)
    verifiers: int = Field(default=2, ge=1, le=64)
    verification: Literal["postmap", "none"] = "postmap"


class KeyPool(Section):
    """How many RSA keys are made ahead, by size; elliptic curves need none."""

    rsa2048: int = Field(default=0, ge=0, le=1000)
    rsa3072: int = Field(default=8, ge=0, le=1000)
    rsa4096: int = Field(default=0, ge=0, le=1000)


class KeysSection(Section):
    """The role that holds the wrapping key."""

    wrapping_key: WrappingKeySource = WrappingKeySource(file=Path("/etc/acme-milter/wrapping.key"))
    socket: SocketPath = Path("/run/acme-milter-keyd/keyd.sock")  # a directory that the milter's user cannot enter
    pool: KeyPool = KeyPool()


class DnsSection(Section):
    """Who is asked for the authorities' DKIM keys; no nameservers means the system's."""

    nameservers: Several[Nameserver] = ()
    timeout: LastingDuration = timedelta(seconds=5)


class Eab(Section):
    """External account binding, RFC 8555 §7.3.4: both halves as the authority's portal gives them."""

    kid: Secret
    hmac: Secret


class AuthorityLimits(Section):
    """How much of an authority is used: open enrollments and connections at once, and budgets of any sixty minutes.

    None is no limit. `failed_per_hour` is a stop, not a speed: a bulk run that meets it pauses. `background_per_hour`
    is the pace of what nobody waits for, renewals and joiners; auto is twice the mean that the forecast expects.
    `identifiers` is how many addresses one order may name.
    """

    in_flight: int = Field(default=50, ge=1, le=100_000)
    connections: int = Field(default=32, ge=1, le=256)
    orders_per_hour: int | None = Field(default=None, ge=1, le=1_000_000)
    mails_per_hour: int | None = Field(default=None, ge=1, le=1_000_000)
    failed_per_hour: int = Field(default=25, ge=1, le=1_000_000)
    background_per_hour: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = "auto"
    identifiers: int = Field(default=10, ge=1, le=100)


class Authority(Section):
    """A certificate authority. A preset gives values for everything but what binds the two parties."""

    directory: HttpsUrl
    staging: HttpsUrl | None = None
    preset: str = "rfc8823"
    ca_bundle: FilePath | None = None
    trust_roots: FilePath | None = None
    contact: Several[Contact] = ()
    agree_tos: bool = False
    eab: Eab | None = None
    account: AccountScope = "shared"
    profile: Annotated[str, Field(min_length=1)] | None = None
    preferred_chain: Annotated[str, Field(min_length=1)] | None = None
    caa: Literal["check", "ignore"] = "check"
    caa_domains: Several[DomainName] = ()
    lint: Literal["auto", "require", "none"] = "auto"
    lint_ignore: Several[Annotated[str, Field(min_length=1)]] = ()
    accept_smime_signed: bool = False
    smime_trust: FilePath | None = None
    token_join: TokenJoin = Field(default=TokenJoin.STRING, strict=False)
    challenge_trigger: ChallengeTrigger = "reply-first"
    post_delay: Duration = timedelta(seconds=2)  # the reply should be there first; some authorities read only once
    auto_post_after: LastingDuration = timedelta(minutes=10)
    dkim_headers: HeaderCoverage = Field(default=HeaderCoverage.STRICT, strict=False)
    require_auto_submitted: bool = True
    minimum_rsa_bits: int = Field(default=1024, ge=1024, le=4096)  # RFC 8301 §3.2: below 1024 never counts
    reply_to_domains: Several[DomainName] = ()
    auto_submitted_reply: bool = True
    challenge_wait: LastingDuration = timedelta(minutes=30)
    order_lifetime: LastingDuration = timedelta(hours=24)  # S/MIME BR §3.2.2.4: a token counts for at most 24 hours
    limits: AuthorityLimits = AuthorityLimits()
    use_ari: bool = True


def with_staging(named: Mapping[str, Authority]) -> dict[str, Authority]:
    """These, and the staging service of each that has one: the same in everything but where it is."""
    staging = {
        staging_of(name): each.model_copy(update={"directory": each.staging, "staging": None})
        for name, each in named.items()
        if each.staging is not None
    }
    return {**named, **staging}


def _look_up(known: Mapping[str, Member], address: str) -> Member | None:
    found = known.get(address.lower())
    if found is None and not address.isascii():
        try:
            return known.get(str(Mailbox.parse(address, allow_utf8=True)).lower())
        except InvalidMailbox:
            return None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration after every check. Look-ups are by dictionary: 100 000 mailboxes cost nothing.

    `domains` and `policies` are keyed by A-label; `policies` has each domain's policy in force, with defaults and
    authorities filled in, `layers` those of its groups and single mailboxes. `members` leads from the lower-case form
    of each managed address to what is known of it; no two differ only by case. A file knows the listed ones;
    `with_members` adds those that the sources brought. `selections` say which of them are wanted. `authorities` has the
    named ones, and after them, as NAME:staging, the staging service of each that has one.
    """

    path: Path
    version: int
    store: Store
    milter: MilterSection
    worker: WorkerSection
    keys: KeysSection
    dns: DnsSection
    authorities: Mapping[str, Authority]
    sources: Mapping[str, SourceCommon]
    defaults: Defaults
    domains: Mapping[str, Domain]
    layers: Mapping[str, Layers]
    selections: Mapping[str, Selection]
    members: Mapping[str, Member] = field(repr=False)
    policies: Mapping[str, Policy] = field(init=False)
    _managed: frozenset[str] = field(init=False, repr=False)
    _book: AliasBook = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policies", {name: layers.base for name, layers in self.layers.items()})
        book = AliasBook(self.members, self.layers, self.exclusion_of)
        object.__setattr__(self, "_book", book)
        addresses = (member.address for known in (self.members, book.shared) for member in known.values())
        object.__setattr__(self, "_managed", frozenset(addresses))

    @property
    def named_authorities(self) -> Mapping[str, Authority]:
        """The authorities that the file names, without the staging services of some of them."""
        return {name: each for name, each in self.authorities.items() if not is_staging(name)}

    def with_members(self, found: Iterable[Member]) -> "Config":
        """This configuration with the mailboxes that the store knows.

        What is known of a listed one wins over the list: whose keys its keys are, and the spelling that an open order
        was placed with. Whether a domain wants a mailbox at all was decided before (`mailboxes.record`); those of
        domains that are not configured any more are left out.
        """
        members = {member.address.lower(): member for member in found if member.domain in self.policies}
        return dataclasses.replace(self, members=dict(self.members) | members)

    def managed(self) -> frozenset[str]:
        """Every managed address as configured, with its domain as a lower-case A-label: the mailboxes, and the aliases
        that get into their certificates.
        """
        return self._managed

    def member(self, address: str) -> Member | None:
        """What is known of a mailbox, None when it is not managed.

        The domain may come in any case and as U-label or A-label, the local part in any case.
        """
        return _look_up(self.members, address)

    def alias(self, address: str) -> Member | None:
        """What is known of an alias that gets into its mailbox's certificate, in any spelling `member` understands."""
        return _look_up(self._book.shared, address) if self._book.shared else None

    def canonical(self, address: str) -> str | None:
        """The configured spelling of a managed address in any spelling `member` understands, None when it is none."""
        found = self.member(address) or self.alias(address)
        return None if found is None else found.address

    def policy_for(self, address: str) -> Policy | None:
        """The policy of a managed address in any spelling `member` understands, None when it is none. In another domain
        than its mailbox's, an alias follows that domain's.
        """
        found = self.member(address) or self.alias(address)
        return None if found is None else self.layers[found.domain].policy_of(found)

    def aliases_of(self, member: Member) -> AliasChoice:
        """Which aliases of a mailbox are in its certificate, or have their own, and why the others are not."""
        return self._book.of(member)

    def exclusion_of(self, address: str, source: str, groups: frozenset[str]) -> str | None:
        """Why a mailbox that `source` knows, and that is in these groups, is not wanted; None when it is.

        The address has its domain as lower-case A-label. The text is made for people: it names the key or the pattern.
        """
        domain = address.rpartition("@")[2].lower()
        selection = self.selections.get(domain)
        return (
            f"no domain {domain} is configured"
            if selection is None
            else selection.exclusion_of(address, source, groups)
        )
