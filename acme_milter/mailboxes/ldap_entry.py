# SPDX-License-Identifier: GPL-3.0-or-later
"""What a directory's entry says of a mailbox: addresses, the person's lasting id, groups."""

import uuid
from collections.abc import Mapping, Sequence

from acme_milter.config.sources import LdapSource as LdapSection
from acme_milter.mailboxes.source import Gathering, Reading, SourceFault
from acme_milter.quoting import quoted

_CONTROL = "userAccountControl"
_DISABLED = 0x2  # ACCOUNTDISABLE
_LITTLE_ENDIAN = frozenset({"objectguid", "mail-guid", "msexchmailboxguid"})  # as Windows writes a GUID's octets

Values = Mapping[str, Sequence[bytes]]


class LdapEntries:
    """Turns the entries of one search into a Reading. ``source`` is the source's name."""

    def __init__(self, source: str, section: LdapSection) -> None:
        self._source = source
        self._map = section.map
        self._leaves_disabled_out = section.preset == "active-directory"
        self._gathering = Gathering(source)
        self._seen = 0
        self._with_id = 0
        self._with_groups = 0
        self._elsewhere = 0

    @property
    def attributes(self) -> list[str]:
        """The attributes to ask for: entryUUID and memberOf may be operational, and are not given unasked."""
        wanted = [self._map.address, self._map.aliases, self._map.name, self._map.id, self._map.groups]
        return [*dict.fromkeys(filter(None, wanted)), *([_CONTROL] if self._leaves_disabled_out else [])]

    def remark(self, sentence: str) -> None:
        """Note something the administrator should know."""
        self._gathering.remark(sentence)

    def take(self, dn: str | None, attributes: Values) -> None:
        """One entry, or a reference to another directory (``dn`` None), which is counted and not followed."""
        if dn is None:
            self._elsewhere += 1
            return
        found = {name.lower(): values for name, values in attributes.items()}
        if self._leaves_disabled_out and _is_disabled(found):
            return
        self._seen += 1
        place = f"entry {quoted(dn)}"
        if cut := next((name for name in found if ";range=" in name), None):
            self._gathering.reject(place, f"the directory gives only a part of {cut.partition(';')[0]}")
            return
        lasting = self._id(found)
        groups = _texts(found, self._map.groups)
        self._with_id += lasting is not None
        self._with_groups += bool(groups)
        addresses, aliases = self._addresses(found)
        if not addresses:
            self._gathering.reject(place, f"it has no {self._map.address}")
        elif self._map.id is not None and lasting is None:
            # Taken as a mailbox without a person, it would change hands as soon as the id could be read again.
            for address in addresses:
                self._gathering.reject(address, f"{place}: it has no single value of {self._map.id}")
        else:
            name = next(iter(_texts(found, self._map.name)), None)
            for address in addresses:
                self._gathering.add(address, id=lasting, name=name, groups=groups, aliases=aliases, place=place)

    def reading(self) -> Reading:
        """Everything that was taken. Raises SourceFault when no entry at all has the id that makes people of them."""
        if self._seen and self._map.id is not None and not self._with_id:
            what = f"no entry has the attribute {self._map.id}; correct map.id, or let this login read it"
            raise SourceFault(self._source, what)
        if self._seen and self._map.groups is not None and not self._with_groups:
            self.remark(f"no entry has the attribute {self._map.groups}: no groups are known (map.groups)")
        if self._elsewhere:
            self.remark(f"{self._elsewhere} references to other directories were not followed")
        return self._gathering.reading()

    def _id(self, found: Values) -> str | None:
        values = found.get((self._map.id or "").lower(), ())
        return _id_text(self._map.id or "", values[0]) if len(values) == 1 else None

    def _addresses(self, found: Values) -> tuple[list[str], list[str]]:
        """The mailboxes, and their aliases.

        Each value of the address attribute is a mailbox: a directory keeps values in no order, so none of them is the
        first. Among proxyAddresses, `SMTP:` marks the one that is the mailbox, and `smtp:` its aliases.
        """
        addresses = list(_texts(found, self._map.address))
        aliases, primary = [], []
        for text in _texts(found, self._map.aliases):
            kind, colon, rest = text.partition(":")
            if not colon:
                aliases.append(text)
            elif kind == "SMTP":
                primary.append(rest)
            elif kind.lower() == "smtp":
                aliases.append(rest)
        return (primary or addresses), aliases


def _is_disabled(found: Values) -> bool:
    values = found.get(_CONTROL.lower(), ())
    text = values[0] if values else b""
    return text.isdigit() and bool(int(text) & _DISABLED)


def _texts(found: Values, attribute: str | None) -> list[str]:
    """The values as text. RFC 4511 §4.1.2: UTF-8; what is not will be refused as an address for its odd character."""
    return [value.decode("utf-8", "replace") for value in found.get((attribute or "").lower(), ())]


def _id_text(attribute: str, value: bytes) -> str | None:
    """An id as text that stays the same: objectGUID as Windows shows it, other octets as UUID or hexadecimal."""
    if attribute.lower() in _LITTLE_ENDIAN and len(value) == 16:
        return str(uuid.UUID(bytes_le=value))
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if text.isprintable():
        return text or None
    return str(uuid.UUID(bytes=value)) if len(value) == 16 else value.hex()
