# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory: where everything else is (RFC 8555 §7.1.1, RFC 9773 §4.1, draft-ietf-acme-profiles)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from acme_milter.acme.fields import Fields
from acme_milter.acme.problem import printable

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Meta:
    """terms: URL of the terms of service; eab_required: externalAccountRequired; profiles: name → description;
    caa_identities: names to look for in CAA records (RFC 9495). Texts are shown to people, never followed."""

    terms: str | None = None
    website: str | None = None
    eab_required: bool = False
    profiles: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    caa_identities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Directory:
    """URLs, all on the directory's origin. None: the server does not offer it."""

    new_nonce: str
    new_account: str
    new_order: str
    revoke_cert: str | None
    key_change: str | None
    renewal_info: str | None
    meta: Meta

    @classmethod
    def parse(cls, fields: Fields) -> "Directory":
        """Read a directory object. Raises BadAnswer when what we cannot do without is missing or elsewhere."""
        meta = fields.optional_object("meta")
        return cls(
            new_nonce=fields.url("newNonce"),
            new_account=fields.url("newAccount"),
            new_order=fields.url("newOrder"),
            revoke_cert=fields.optional_url("revokeCert"),
            key_change=fields.optional_url("keyChange"),
            renewal_info=fields.optional_url("renewalInfo"),
            meta=Meta() if meta is None else _parse_meta(meta),
        )

    def holds(self, url: str) -> bool:
        """Whether `url` is one of the directory's resources."""
        return url in {self.new_nonce, self.new_account, self.new_order, self.revoke_cert, self.key_change}


def _parse_meta(meta: Fields) -> Meta:
    profiles = meta.optional_object("profiles")
    described = {} if profiles is None else profiles.values
    return Meta(
        terms=_shown(meta.optional_text("termsOfService")),
        website=_shown(meta.optional_text("website")),
        eab_required=meta.flag("externalAccountRequired"),
        profiles=MappingProxyType(
            {
                name: printable(text, _LONGEST_NAME) if isinstance(text, str) else ""
                for name, text in list(described.items())[:_LONGEST_NAME]
            }
        ),
        caa_identities=tuple(
            printable(name, _LONGEST_NAME) for name in meta.items("caaIdentities") if isinstance(name, str)
        ),
    )


def _shown(text: str | None) -> str | None:
    return None if text is None else printable(text, 2048)
