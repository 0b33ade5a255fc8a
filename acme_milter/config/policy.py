# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for mailboxes, as written: for everybody, for a domain, for a group of its mailboxes, for one of them."""

import os.path
from collections.abc import Mapping
from datetime import timedelta
from itertools import combinations
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from acme_milter.config.delivery import FilesTarget, Target
from acme_milter.config.patterns import PATTERN_SCHEMA, Pattern, first_match, read_pattern
from acme_milter.config.section import Section
from acme_milter.config.values import Duration, FilePath, Host, LastingDuration, OneOrSeveral, Selector, Several, Share

Mode = Literal["enforce", "observe"]
OnSuccess = Literal["discard", "deliver"]
KeyAlgorithm = Literal["rsa2048", "rsa3072", "rsa4096", "p256", "p384"]
Layout = Literal["single", "dual"]
Aliases = Literal["none", "same_certificate", "own_certificate"]
Custody = Literal["gateway", "escrow", "deliver_once", "csr"]


class CertificatePolicy(Section):
    """What kind of certificate: one for signing and encrypting, or one for each (`dual`, RFC 8823 §3.3); whether a
    person's aliases are in it, or have their own; the authority's profile, when it lists any.
    """

    key: KeyAlgorithm = "rsa3072"
    layout: Layout = "single"
    aliases: Aliases = "none"
    profile: Annotated[str, Field(min_length=1)] | None = None


class DkimKey(Section):
    """The reply is signed by us, d= being the mailbox's domain."""

    selector: Selector
    key_file: FilePath


def _dkim_kind(value: object) -> str:
    return "key" if isinstance(value, dict | DkimKey) else "relay"


Dkim = Annotated[Annotated[Literal["relay"], Tag("relay")] | Annotated[DkimKey, Tag("key")], Discriminator(_dkim_kind)]


class PostfixLog(Section):
    """A log file that Postfix writes its deliveries to."""

    log: FilePath


def _follow_kind(value: object) -> str:
    return "log" if isinstance(value, dict | PostfixLog) else "word"


Follow = Annotated[
    Annotated[Literal["queue", "journal", "none"], Tag("word")] | Annotated[PostfixLog, Tag("log")],
    Discriminator(_follow_kind),
]


class ReplyPolicy(Section):
    """How the reply leaves: by SMTP to this Postfix, which signs it ("relay"), or signed before that by us.

    `follow` is how we learn that it has left for the authority, which is told only then; `config_directory` is that
    Postfix's, where it is not the machine's own.
    """

    host: Host = "127.0.0.1"
    port: int = Field(default=10028, ge=1, le=65535)
    dkim: Dkim = "relay"
    follow: Follow = "queue"
    config_directory: FilePath | None = None


class RenewalPolicy(Section):
    """When and how a certificate is renewed, unless the authority names a window (RFC 9773), which then wins.

    `at` is a share of the lifetime, the latest planned moment; `spread` is how much earlier it may be, so that what
    was issued in one week is not renewed in one week; auto is a third of the lifetime.
    """

    at: Share = 0.67
    spread: Duration | Literal["auto"] = "auto"
    key: Literal["rotate", "reuse"] = "rotate"
    keep_old_keys: LastingDuration = timedelta(days=3650)


class LeaversPolicy(Section):
    """What becomes of a certificate whose mailbox is gone: `after` that long without it, it is not renewed any more,
    and revoked with `reason` (RFC 5280 §5.3.1) when `revoke` says so.
    """

    after: Duration = timedelta(days=14)
    revoke: bool = False
    reason: Literal["unspecified", "affiliation-changed", "cessation-of-operation"] = "affiliation-changed"


class SafetyPolicy(Section):
    """When to stop and ask instead of guessing. Only `defaults` has it: it looks at whole sources."""

    max_new_per_run: int = Field(default=500, ge=0, le=1_000_000)
    max_leavers_per_run: int = Field(default=25, ge=0, le=1_000_000)
    max_source_change: Share = 0.1


def _told_apart(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    titles = [target.title for target in targets]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice is not None:
        raise ValueError(f"has two targets called {twice}; give one of them another name")
    files = [target for target in targets if isinstance(target, FilesTarget)]
    for one, other in combinations(files, 2):
        key = _same_files(one, other)
        if key is not None:
            titles_of_both = f"{one.title} and {other.title}"
            raise ValueError(
                f"has the same files twice: {titles_of_both} have one {key}; give one of them another {key}"
            )
    return targets


def _same_files(one: FilesTarget, other: FilesTarget) -> str | None:
    """The key by which two targets would overwrite each other's files, of which only the last one's would open."""
    if not set(one.formats) & set(other.formats):
        return None
    pairs = {"path": (one.path, other.path), "passphrase_path": (one.passphrase_path, other.passphrase_path)}
    return next((key for key, (a, b) in pairs.items() if a and b and _plain(a) == _plain(b)), None)


def _plain(template: str) -> str:
    return os.path.normpath(template.replace("{address}", "{local}@{domain}"))


class Policy(Section):
    """What holds for the mailboxes of a domain. `authorities` is in order of preference, never empty in force.

    `joiners`: whether a mailbox that comes after the first day gets its certificate by itself. `custody`: who ends up
    holding the private key. `deliver`: where certificate and key go.
    """

    mode: Mode = "enforce"
    authorities: Several[str] = ()
    certificate: CertificatePolicy = CertificatePolicy()
    reply: ReplyPolicy = ReplyPolicy()
    on_success: OnSuccess = "discard"
    joiners: Literal["automatic", "ask"] = "automatic"
    custody: Custody = "escrow"
    renewal: RenewalPolicy = RenewalPolicy()
    leavers: LeaversPolicy = LeaversPolicy()
    deliver: Annotated[Several[Target], AfterValidator(_told_apart)] = ()

    def overridden_by(self, other: "Policy") -> "Policy":
        """This policy with the keys that were written in `other`; maps merge, lists replace."""
        return _merged(self, other, Policy)


def _group_name(value: object) -> Pattern:
    if isinstance(value, str) and value:
        return Pattern.of_group(value)
    raise ValueError("must be the name of a group, as the source has it")


GroupName = Annotated[Pattern, BeforeValidator(_group_name), WithJsonSchema({"type": "string", "minLength": 1})]
AddressPattern = Annotated[Pattern, BeforeValidator(read_pattern), WithJsonSchema(PATTERN_SCHEMA)]


class GroupMatch(Section):
    """Whom a group's keys are for: members of one of `group`'s groups, addresses that match; both, where both stand."""

    group: OneOrSeveral[GroupName] = ()
    address: OneOrSeveral[AddressPattern] = ()

    @model_validator(mode="after")
    def _not_everybody(self) -> Self:
        if not self.group and not self.address:
            raise ValueError("must have group, address or both")
        return self

    def matches(self, address: str, groups: frozenset[str]) -> bool:
        """Whether a mailbox that is in these groups is meant; a group's name may be in any case."""
        if self.group and not any(pattern.matches(address, groups) for pattern in self.group):
            return False
        return not self.address or first_match(self.address, address) is not None


class MailboxGroup(Policy):
    """Some of a domain's mailboxes, and whatever of the policy differs for them."""

    match: GroupMatch


class MailboxesSection(Section):
    """Which mailboxes: those listed here, and of the sources' those that are included and not excluded.

    The first of `groups` that matches a mailbox counts; `overrides` are single mailboxes. `aliases` are further
    addresses of listed ones.
    """

    list: Several[str] = Field(default=(), repr=False)
    aliases: Mapping[str, Several[str]] = Field(default={}, repr=False)
    include: Several[AddressPattern] = (Pattern.of_addresses("*"),)
    exclude: Several[AddressPattern] = ()
    groups: Several[MailboxGroup] = ()
    overrides: Mapping[str, Policy] = Field(default={}, repr=False)


class Domain(Policy):
    """A mail domain: its mailboxes, and whatever of the policy differs from the defaults."""

    source: OneOrSeveral[str] = ()
    mailboxes: MailboxesSection = MailboxesSection()


S = TypeVar("S", bound=Section)


def _merged(base: S, over: Section, model: type[S]) -> S:
    changes: dict[str, object] = {}
    for name in over.model_fields_set & model.model_fields.keys():
        mine, theirs = getattr(base, name), getattr(over, name)
        same_kind = isinstance(mine, Section) and type(mine) is type(theirs) and not isinstance(mine, DkimKey)
        changes[name] = _merged(mine, theirs, type(mine)) if same_kind else theirs
    return base.model_copy(update=changes)


class Defaults(Policy):
    """What holds everywhere unless a domain says otherwise, and the guards."""

    safety: SafetyPolicy = SafetyPolicy()
