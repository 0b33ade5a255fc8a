# SPDX-License-Identifier: GPL-3.0-or-later
"""Where certificate and key go, to the place of use: every kind of target of `deliver`, told apart by its `to`.

These say where; the delivering is done in `acme_milter.delivery`.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from acme_milter.config.secret import Secret
from acme_milter.config.section import Section
from acme_milter.config.sources import LdapBind, Text, ldap_uri
from acme_milter.config.values import (
    DomainName,
    Duration,
    FilePath,
    Host,
    LastingDuration,
    OneOrSeveral,
    Several,
    SocketMode,
    local_path,
)

BundleFormat = Literal["pem", "p12-modern", "p12-legacy", "mobileconfig"]
Chain = Literal["include", "omit"]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
ADDRESS_PLACEHOLDERS = frozenset({"address", "local", "domain"})
"""What stands for the mailbox in a path, a filter or an argument."""

HOOK_PLACEHOLDERS = ADDRESS_PLACEHOLDERS | {
    "serial",
    "certificate",
    "chain",
    "pem",
    "p12",
    "p12_legacy",
    "mobileconfig",
}
"""What a hook's arguments may hold besides: the serial number, and the path of each file that was made for it."""

WITHDRAWAL_PLACEHOLDERS = ADDRESS_PLACEHOLDERS | {"serial", "certificate"}
"""What the arguments of a hook may hold that takes a certificate back: there is no key any more to bring."""

_MADE_FOR = {"pem": "pem", "p12": "p12-modern", "p12_legacy": "p12-legacy", "mobileconfig": "mobileconfig"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def placeholders(text: str) -> frozenset[str]:
    """The names between braces in a template."""
    return frozenset(_PLACEHOLDER.findall(text))


def _only(text: str, allowed: frozenset[str]) -> str:
    unknown = sorted(placeholders(text) - allowed)
    if unknown or "{" in _PLACEHOLDER.sub("", text) or "}" in _PLACEHOLDER.sub("", text):
        what = f"{{{unknown[0]}}}" if unknown else "a brace without its other half"
        raise ValueError(f"has {what}; there are {', '.join(f'{{{name}}}' for name in sorted(allowed))}")
    return text


def _path_template(value: object, info: ValidationInfo) -> str:
    """A path that differs by mailbox: {address}, or {local} and {domain}."""
    path = _only(str(local_path(value, info)), ADDRESS_PLACEHOLDERS)
    if not placeholders(path) & {"address", "local"}:
        raise ValueError("must hold {address}, or {local} with {domain}: each mailbox has a place of its own")
    return path


def _about_mailbox(text: str) -> str:
    return _only(text, ADDRESS_PLACEHOLDERS)


def _hook_argument(text: str) -> str:
    return _only(text, HOOK_PLACEHOLDERS)


def _withdrawal_argument(text: str) -> str:
    return _only(text, WITHDRAWAL_PLACEHOLDERS)


def _name(value: str) -> str:
    if not _NAME.match(value):
        raise ValueError("must be a name of letters, digits, dots, dashes and underscores")
    return value


PathTemplate = Annotated[str, BeforeValidator(_path_template)]
"""A path, absolute, with {address}, {local} and {domain} still in it."""

Argument = Annotated[str, Field(min_length=1)]


class TargetCommon(Section):
    """What every target has. `name` tells two of a kind apart: what was delivered is remembered by it."""

    name: Annotated[str, AfterValidator(_name)] | None = None
    timeout: LastingDuration = timedelta(seconds=30)

    @property
    def kind(self) -> str:
        """The target's `to`."""
        return str(getattr(self, "to", ""))

    @property
    def title(self) -> str:
        """Its name, or what it is."""
        return self.name or self.kind

    @property
    def takes_back(self) -> bool:
        """Whether what was delivered there is taken back by itself, once nobody should use it any more."""
        return bool(getattr(self, "withdraw", False))

    @property
    def takes_key(self) -> bool:
        """Whether it gets the private key, and not only the certificate."""
        return False

    @property
    def location(self) -> str:
        """The paths below which it puts things on this machine, which tell two targets of one name apart; empty where
        it puts them elsewhere.
        """
        return ""


class FilesTarget(TargetCommon):
    """Files in a directory of the mailbox's own. A passphrase never lies beside the file that it opens: it has a
    directory of its own, or stays sealed in the store until somebody asks for it. They stay when a mailbox leaves,
    unless `withdraw` says otherwise: old mail needs the key.
    """

    to: Literal["files"]
    path: PathTemplate
    formats: OneOrSeveral[BundleFormat] = ("p12-modern",)
    chain: Chain = "include"
    mode: SocketMode = Field(default=0o600, json_schema_extra={"default": "0600"})
    owner: Text | None = None
    group: Text | None = None
    passphrase_path: PathTemplate | None = None
    withdraw: bool = False

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if not self.formats:
            raise ValueError("formats names none")
        passphrases = self.passphrase_path
        if passphrases is not None and f"{passphrases}/".startswith(f"{self.path}/"):
            raise ValueError("passphrase_path is inside path: a passphrase must not lie beside the file that it opens")
        return self

    @property
    def takes_key(self) -> bool:
        return True

    @property
    def location(self) -> str:
        return " ".join(filter(None, (self.path, self.passphrase_path)))


class HookTarget(TargetCommon):
    """A program, started without a shell. Files are made for it in a directory that is deleted when it has ended; the
    passphrase comes on its standard input, never in an argument or in the environment.
    """

    to: Literal["hook"]
    argv: Annotated[Several[Annotated[Argument, AfterValidator(_hook_argument)]], Field(min_length=1)]
    withdraw_argv: Several[Annotated[Argument, AfterValidator(_withdrawal_argument)]] = ()
    formats: OneOrSeveral[BundleFormat] = ("p12-modern",)
    chain: Chain = "include"

    @model_validator(mode="after")
    def _has_what_it_names(self) -> Self:
        named = {name for argument in self.argv for name in placeholders(argument)}
        lacking = sorted(name for name in named if name in _MADE_FOR and _MADE_FOR[name] not in self.formats)
        if lacking:
            raise ValueError(f"argv has {{{lacking[0]}}}, but formats does not name {_MADE_FOR[lacking[0]]}")
        return self

    @property
    def takes_back(self) -> bool:
        """Only its own program knows where it has put what it was given."""
        return bool(self.withdraw_argv)

    @property
    def takes_key(self) -> bool:
        """Every format has the key in it."""
        return bool(self.formats)


class LdapTarget(TargetCommon):
    """An entry of a directory gets the certificate, never the key. `ad` is a directory whose attribute is
    userCertificate; elsewhere it is userCertificate;binary (RFC 4523 §2.1).
    """

    to: Literal["ldap", "ad"]
    uri: Annotated[str, BeforeValidator(ldap_uri)]
    bind: LdapBind | None = None
    base: Text
    filter: Annotated[Text, AfterValidator(_about_mailbox)] = "(mail={address})"
    attribute: Text | None = None
    stale_usersmimecertificate: Literal["clear", "keep"] = "clear"
    keep: int = Field(default=2, ge=1, le=100)
    ca_bundle: FilePath | None = None
    starttls: bool = False
    withdraw: bool = True

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.starttls and not self.uri.startswith("ldap://"):
            raise ValueError("starttls is for ldap:// only")
        if not placeholders(self.filter) & {"address", "local"}:
            raise ValueError("filter must hold {address} or {local}: one entry is meant, not all of them")
        if self.filter.count("(") != self.filter.count(")") or not self.filter.startswith("("):
            raise ValueError("filter must be an LDAP filter with its parentheses, such as (mail={address})")
        return self

    @property
    def attribute_in_force(self) -> str:
        """The attribute that is written."""
        return self.attribute or ("userCertificate" if self.to == "ad" else "userCertificate;binary")


class SigningMilterTarget(TargetCommon):
    """A signing milter's directory: NAME-cert+key.pem with the key in clear, NAME-chain.pem, and a line in its table.

    Whoever reads that directory signs as the mailbox; `custody: gateway` says that this is wanted.
    """

    to: Literal["signing-milter"]
    directory: FilePath
    table: FilePath | None = None
    mode: SocketMode = Field(default=0o640, json_schema_extra={"default": "0640"})
    group: Text | None = None
    reload: Several[Argument] = ()
    withdraw: bool = True

    @model_validator(mode="after")
    def _for_few(self) -> Self:
        if self.mode & ~0o640:
            raise ValueError(f"mode {self.mode:04o} is more than 0640; the files hold private keys in clear")
        return self

    @property
    def takes_key(self) -> bool:
        return True

    @property
    def location(self) -> str:
        return " ".join(str(path) for path in (self.directory, self.table) if path is not None)


class TsigKey(Section):
    """The key that a name server knows us by (RFC 8945)."""

    key_name: Annotated[str, AfterValidator(_name)]
    algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"] = "hmac-sha256"
    secret: Secret


class SmimeaTarget(TargetCommon):
    """The certificate in DNS (RFC 8162): a zone file's snippet, or an update of the zone (RFC 2136) under TSIG."""

    to: Literal["smimea"]
    mode: Literal["zone", "nsupdate"]
    usage: Literal["3 0 0", "3 1 1", "3 1 2", "3 0 1", "3 0 2"] = "3 0 0"
    ttl: Duration = timedelta(hours=1)
    path: FilePath | None = None
    server: Host | None = None
    port: int = Field(default=53, ge=1, le=65535)
    zone: DomainName | None = None
    tsig: TsigKey | None = None
    withdraw: bool = True

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.mode == "zone" and self.path is None:
            raise ValueError("mode: zone needs path, the file that the zone includes")
        if self.mode == "nsupdate" and (self.server is None or self.tsig is None):
            raise ValueError("mode: nsupdate needs server and tsig: an unsigned update is anybody's")
        return self

    @property
    def location(self) -> str:
        return str(self.path or "") if self.mode == "zone" else ""


TARGET_TYPES: Mapping[str, type[TargetCommon]] = {
    "files": FilesTarget,
    "hook": HookTarget,
    "ldap": LdapTarget,
    "ad": LdapTarget,
    "signing-milter": SigningMilterTarget,
    "smimea": SmimeaTarget,
}

Target = Annotated[
    FilesTarget | HookTarget | LdapTarget | SigningMilterTarget | SmimeaTarget, Field(discriminator="to")
]
