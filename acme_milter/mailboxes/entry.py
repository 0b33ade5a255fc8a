# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source says of one mailbox."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox

MAX_WORD = (
    255  # characters of an id or a group, or of a name that is kept; more is a column that was mistaken for another one
)
# Controls, direction marks, unpaired surrogates: they would reach terminals, logs and the database.
_UNSEEN = frozenset({"Cc", "Cf", "Cs"})


class InvalidEntry(ValueError):
    """The source's record is no usable mailbox; `reason` says why and holds nothing of the record itself."""

    safe_text = True

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Entry:
    """One mailbox of one source; made by `checked`.

    `address` has its domain as lower-case A-label and its local part as the source has it; two that differ only by
    case are one mailbox. `id` is the source's lasting name for the person, None when it knows none. `alias_of` is the
    mailbox whose alias this is, where aliases are managed like mailboxes.
    """

    address: str
    id: str | None = None
    name: str | None = None
    groups: frozenset[str] = frozenset()
    aliases: tuple[str, ...] = ()
    alias_of: str | None = None

    @classmethod
    def checked(
        cls,
        address: str,
        *,
        id: str | None = None,  # noqa: A002 -- the field's name
        name: str | None = None,
        groups: Iterable[str] = (),
        aliases: Iterable[str] = (),
    ) -> Self:
        """An entry of a source's words. Blanks around each are dropped, an empty one is none at all.

        An alias that is no mail address is left out: nothing is ordered for it. A name is only shown, so it is made
        fit to show rather than refused. Raises InvalidEntry.
        """
        own = canonical_address(address)
        others = each_once(filter(None, map(_address_or_none, aliases)))
        return cls(
            own,
            _word("id", id),
            _shown_name(name),
            frozenset(filter(None, (_word("group", group) for group in groups))),
            tuple(other for other in others if other != own),
        )

    def principal(self, source: str) -> str:
        """Whose keys this mailbox's keys are: the person where `source` names one, else the address itself."""
        return self.address if self.id is None else f"{source}:{self.id}"


def each_once(addresses: Iterable[str]) -> tuple[str, ...]:
    """Without those that are there before in another case: for mail they are the same address."""
    found: dict[str, str] = {}
    for address in addresses:
        found.setdefault(address.lower(), address)
    return tuple(found.values())


def canonical_address(text: str) -> str:
    """The address with its domain in canonical form, by the strict grammar; raises InvalidEntry."""
    try:
        mailbox = Mailbox.parse(text.strip(), allow_utf8=True)
    except InvalidMailbox as problem:
        raise InvalidEntry(str(problem)) from None
    return str(mailbox)


def _address_or_none(text: str) -> str | None:
    try:
        return canonical_address(text)
    except InvalidEntry:
        return None


def _word(what: str, text: str | None) -> str | None:
    word = (text or "").strip()
    if len(word) > MAX_WORD:
        raise InvalidEntry(f"the {what} has more than {MAX_WORD} characters")
    if any(unicodedata.category(char) in _UNSEEN for char in word):
        raise InvalidEntry(f"the {what} holds a control or an invisible character")
    return word or None


def _shown_name(text: str | None) -> str | None:
    seen = "".join(" " if unicodedata.category(char) in _UNSEEN else char for char in text or "")
    return " ".join(seen.split())[:MAX_WORD] or None
