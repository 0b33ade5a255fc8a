# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses are meant: shell-like patterns, regular expressions between slashes, members of a group.

All of them ignore case, and look at the whole address. The patterns that are built in name what no person reads.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from acme_milter.config.values import shown
from acme_milter.protocol.mailbox import InvalidMailbox, canonical_domain

MAX_LENGTH = 500
PATTERN_SCHEMA: dict[str, Any] = {
    "description": "noreply@*, /^test[0-9]+@/ or {group: NAME}; case does not matter.",
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH},
        {
            "type": "object",
            "properties": {"group": {"type": "string", "minLength": 1}},
            "required": ["group"],
            "additionalProperties": False,
        },
    ],
}
"""JSON Schema of a pattern as it is written."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern as it was written; equal when written alike."""

    text: str
    group: str | None = None
    _compiled: re.Pattern[str] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_addresses(cls, text: str) -> "Pattern":
        """From `noreply@*` or `/^test[0-9]+@/`; raises ValueError in the administrator's words."""
        if not text or len(text) > MAX_LENGTH:
            raise ValueError("must be a pattern such as noreply@*, *-room@* or /^test[0-9]+@/")
        if text.startswith("/"):
            return cls(text, None, _regular_expression(text))
        if "@" not in text and not text.endswith("*"):
            raise ValueError(f"matches no address, it has no @ (did you mean {text}@*?)")
        local, at, domain = text.rpartition("@")
        folded = f"{local}{at}{_canonical(domain)}".lower()
        return cls(text, None, re.compile(rf"\A{fnmatch.translate(folded)}", re.IGNORECASE))

    @classmethod
    def of_group(cls, name: str) -> "Pattern":
        """Whoever is in the group that a source calls `name`."""
        return cls(f"{{group: {name}}}", name.lower())

    def matches(self, address: str, groups: frozenset[str] = frozenset()) -> bool:
        """Whether this address is meant; its groups may be spelled in any case."""
        if self._compiled is not None:
            return self._compiled.search(address) is not None
        return any(name.lower() == self.group for name in groups)

    @property
    def group_name(self) -> str | None:
        """The group whose members are meant, as it was written; None when addresses are meant."""
        return None if self.group is None else self.text[len("{group: ") : -1]

    @property
    def address(self) -> str | None:
        """The one address that this pattern names, None when it is a real pattern. As members have it,
        but in lower case.
        """
        special = self._compiled is None or self.text.startswith("/") or any(c in self.text for c in "*?[")
        if special:
            return None
        local, at, domain = self.text.rpartition("@")
        return f"{local}{at}{_canonical(domain)}".lower()

    def __str__(self) -> str:
        return self.text


def _regular_expression(text: str) -> re.Pattern[str]:
    if len(text) < 3 or not text.endswith("/"):
        raise ValueError("a regular expression stands between two slashes: /^test[0-9]+@/")
    try:
        return re.compile(text[1:-1], re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {shown(text)}: {error}") from None


def read_pattern(value: object) -> Pattern:
    """A pattern as YAML gives it: text, or {group: NAME}. Raises ValueError in the administrator's words."""
    match value:
        case Pattern():
            return value
        case str():
            return Pattern.of_addresses(value)
        case {"group": str() as name, **others} if name and not others:
            return Pattern.of_group(name)
        case _:
            raise ValueError("must be a pattern such as noreply@*, /^test[0-9]+@/ or {group: NAME}")


def _canonical(domain: str) -> str:
    """A domain without wildcards as addresses have it, anything else as it stands."""
    try:
        return canonical_domain(domain)
    except InvalidMailbox:
        return domain


def names_another_domain(text: str, domain: str) -> bool:
    """True when a pattern, as written, spells a whole domain that is not this one (a lower-case A-label)."""
    named = text.rpartition("@")[2]
    if text.startswith("/") or "@" not in text or any(c in named for c in "*?["):
        return False
    return _canonical(named) != domain


def first_match(patterns: Iterable[Pattern], address: str, groups: frozenset[str] = frozenset()) -> Pattern | None:
    """The first of `patterns` that means this address."""
    return next((pattern for pattern in patterns if pattern.matches(address, groups)), None)


_KINDS: Mapping[str, tuple[str, ...]] = {
    # RFC 2142 names most of them.
    "role address": (
        "postmaster@*",
        "hostmaster@*",
        "webmaster@*",
        "abuse@*",
        "security@*",
        "noc@*",
        "usenet@*",
        "news@*",
        "uucp@*",
        "ftp@*",
        "www@*",
    ),
    "system address": (
        "root@*",
        "daemon@*",
        "nobody@*",
        "mailer-daemon@*",
        "www-data@*",
        "cron@*",
        "vmail@*",
        "noreply@*",
        "no-reply@*",
        "noreply-*@*",
        "no-reply-*@*",
        "donotreply@*",
        "do-not-reply@*",
        "bounce@*",
        "bounces@*",
        "bounce+*@*",
        "bounces+*@*",
        "healthmailbox*@*",
        "systemmailbox{*@*",
        "discoverysearchmailbox{*@*",
        "federatedemail.*@*",
        "migration.8f3e7716-*@*",
    ),
    "mailing list's address": (
        "majordomo@*",
        "mailman@*",
        "mailman-*@*",
        "listserv@*",
        "sympa@*",
        "*-request@*",
        "*-bounces@*",
        "*-bounces+*@*",
        "*-owner@*",
        "owner-*@*",
        "*-confirm@*",
        "*-confirm+*@*",
        "*-subscribe@*",
        "*-unsubscribe@*",
    ),
}


@cache
def _built_in() -> tuple[tuple[tuple[Pattern, str], ...], re.Pattern[str]]:
    """Every built-in pattern with its kind, and all of them as one: nearly every address matches none."""
    each = tuple((Pattern.of_addresses(text), kind) for kind, texts in _KINDS.items() for text in texts)
    return each, re.compile("|".join(fnmatch.translate(pattern.text) for pattern, _ in each), re.IGNORECASE)


def built_in_match(address: str) -> tuple[Pattern, str] | None:
    """The built-in pattern that means this address, and what such an address is; None for a person's."""
    each, any_of_them = _built_in()
    if any_of_them.match(address) is None:
        return None
    return next((found for found in each if found[0].matches(address)), None)
