# SPDX-License-Identifier: GPL-3.0-or-later
"""Every key an administrator may write, its kind and its default; `acme-milter.yaml` explains them.

The parts are pydantic models, read one by one by the loader so that a fault in one hides none in another; Config is
what the rest of the program sees. All of it is immutable.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag

from acme_milter.config.secret import Secret, WrappingKeySource
from acme_milter.config.section import Section
from acme_milter.config.values import (
    Contact,
    Cpu,
    DomainName,
    Duration,
    FilePath,
    Host,
    HttpsUrl,
    LastingDuration,
    MilterSocket,
    Nameserver,
    Selector,
    Several,
    SocketMode,
    SocketPath,
    StoreUrl,
)
from acme_milter.protocol.dkim_policy import HeaderCoverage
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox
from acme_milter.protocol.token import TokenJoin

Mode = Literal["enforce", "observe"]
OnSuccess = Literal["discard", "deliver"]
AccountScope = Literal["shared", "per_domain", "per_mailbox"]
ChallengeTrigger = Literal["reply-first", "post-first", "auto"]
KeyAlgorithm = Literal["rsa2048", "rsa3072", "rsa4096", "p256", "p384"]

_RUN = Path("/run/acme-milter")
LONGEST_DEADLINE = timedelta(seconds=20)
_SPOOL_SOCKET = "unix:/var/spool/postfix/acme-milter/acme-milter.sock"  # Debian's smtpd is chrooted to the spool


class Store(Section):
    """The database: an SQLAlchemy URL, which may hold a password and is therefore not in the repr."""

    url: StoreUrl = Field(default="sqlite:////var/lib/acme-milter/acme-milter.db", repr=False)

    @property
    def has_password(self) -> bool:
        """True when the URL itself carries a password."""
        return urlsplit(self.url).password is not None


def _before_postfix(deadline: timedelta) -> timedelta:
    # contrib/postfix: content_timeout=30s. A mail judged later would be delivered by Postfix, and answered as well.
    if deadline > LONGEST_DEADLINE:
        raise ValueError(f"must be {LONGEST_DEADLINE.seconds}s at most: Postfix itself waits for 30s")
    return deadline


class MilterSection(Section):
    """The role beside Postfix. `socket` is libmilter's spelling; `cpu` pins the process, None lets it wander."""

    socket: MilterSocket = _SPOOL_SOCKET
    socket_mode: SocketMode = 0o660
    cpu: Cpu = "auto"
    deadline: Annotated[LastingDuration, AfterValidator(_before_postfix)] = timedelta(seconds=8)

    @property
    def socket_path(self) -> Path | None:
        """The path of a unix socket, None for inet."""
        return Path(self.socket.removeprefix("unix:")) if self.socket.startswith("unix:") else None


class WorkerSection(Section):
    """The role that answers: its unix sockets, its threads for ACME and SMTP, its DKIM children."""

    intake_socket: SocketPath = _RUN / "intake.sock"
    control_socket: SocketPath = _RUN / "control.sock"
    threads: int = Field(default=16, ge=1, le=256)
    verifiers: int = Field(default=2, ge=1, le=64)


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
    """How much of an authority is used at once: open enrollments and HTTP connections."""

    in_flight: int = Field(default=50, ge=1, le=100_000)
    connections: int = Field(default=32, ge=1, le=256)


class Authority(Section):
    """A certificate authority. A preset gives values for everything but what binds the two parties."""

    directory: HttpsUrl
    preset: str = "rfc8823"
    ca_bundle: FilePath | None = None
    trust_roots: FilePath | None = None
    contact: Several[Contact] = ()
    agree_tos: bool = False
    eab: Eab | None = None
    account: AccountScope = "shared"
    profile: Annotated[str, Field(min_length=1)] | None = None
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


class CertificatePolicy(Section):
    """What kind of certificate."""

    key: KeyAlgorithm = "rsa3072"


class DkimKey(Section):
    """The reply is signed by us, d= being the mailbox's domain."""

    selector: Selector
    key_file: FilePath


def _dkim_kind(value: object) -> str:
    return "key" if isinstance(value, dict | DkimKey) else "relay"


Dkim = Annotated[Annotated[Literal["relay"], Tag("relay")] | Annotated[DkimKey, Tag("key")], Discriminator(_dkim_kind)]


class ReplyPolicy(Section):
    """How the reply leaves: by SMTP to this Postfix, which signs it ("relay"), or signed before that by us."""

    host: Host = "127.0.0.1"
    port: int = Field(default=10028, ge=1, le=65535)
    dkim: Dkim = "relay"


class Policy(Section):
    """What holds for the mailboxes of a domain. `authorities` is in order of preference, never empty in force."""

    mode: Mode = "enforce"
    authorities: Several[str] = ()
    certificate: CertificatePolicy = CertificatePolicy()
    reply: ReplyPolicy = ReplyPolicy()
    on_success: OnSuccess = "discard"

    def overridden_by(self, other: "Policy") -> "Policy":
        """This policy with the keys that were written in `other`; maps merge, lists replace."""
        return _merged(self, other, Policy)


class MailboxesSection(Section):
    """Where a domain's mailboxes come from: for now, a list."""

    list: Several[str] = Field(repr=False)


class Domain(Policy):
    """A mail domain: its mailboxes, and whatever of the policy differs from the defaults."""

    mailboxes: MailboxesSection


S = TypeVar("S", bound=Section)


def _merged(base: S, over: Section, model: type[S]) -> S:
    changes: dict[str, object] = {}
    for name in over.model_fields_set & model.model_fields.keys():
        mine, theirs = getattr(base, name), getattr(over, name)
        same_kind = isinstance(mine, Section) and type(mine) is type(theirs) and not isinstance(mine, DkimKey)
        changes[name] = _merged(mine, theirs, type(mine)) if same_kind else theirs
    return base.model_copy(update=changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration after every check. Look-ups are by dictionary: 100 000 mailboxes cost nothing.

    `domains` and `policies` are keyed by A-label; `policies` has each domain's policy in force, with defaults and
    authorities filled in. `mailboxes` leads from the lower-case form of each managed address to the spelling that
    was configured; no two differ only by case.
    """

    path: Path
    version: int
    store: Store
    milter: MilterSection
    worker: WorkerSection
    keys: KeysSection
    dns: DnsSection
    authorities: Mapping[str, Authority]
    defaults: Policy
    domains: Mapping[str, Domain]
    policies: Mapping[str, Policy]
    mailboxes: Mapping[str, str] = field(repr=False)
    _managed: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_managed", frozenset(self.mailboxes.values()))

    def managed(self) -> frozenset[str]:
        """Every managed mailbox as configured, with its domain as a lower-case A-label."""
        return self._managed

    def canonical(self, address: str) -> str | None:
        """The configured spelling of a mailbox, None when it is not managed.

        The domain may come in any case and as U-label or A-label, the local part in any case.
        """
        found = self.mailboxes.get(address.lower())
        if found is None and not address.isascii():
            try:
                return self.mailboxes.get(str(Mailbox.parse(address, allow_utf8=True)).lower())
            except InvalidMailbox:
                return None
        return found

    def policy_for(self, address: str) -> Policy | None:
        """The policy of a mailbox in any spelling `canonical` understands, None when it is not managed."""
        canonical = self.canonical(address)
        return None if canonical is None else self.policies[canonical.rpartition("@")[2]]
