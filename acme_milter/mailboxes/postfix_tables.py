# SPDX-License-Identifier: GPL-3.0-or-later
"""Postfix's own tables as a source: every key of the tables that hold mailboxes."""

from collections.abc import Iterable

from acme_milter.config.secret import SecretUnavailable
from acme_milter.config.sources import PostfixSource
from acme_milter.mailboxes.entry import InvalidEntry, canonical_address
from acme_milter.mailboxes.postfix import NotListable, Postfix, PostfixFault, direct, split_list
from acme_milter.mailboxes.source import Gathering, Reading, SourceFault
from acme_milter.quoting import quoted

ADDRESS_TABLES = ("virtual_mailbox_maps", "relay_recipient_maps")
"""Parameters whose tables have whole addresses of mailboxes as keys; virtual_alias_maps has none of its own."""

_LOCAL = "local_recipient_maps"
_WAYS_OUT = (
    "give this source sql_preset and url when its mailboxes are in a database of a known product, else take them from "
    "a source of type dovecot, sql, ldap or command"
)


class PostfixTables:
    """Finds the tables with postconf, or takes those that the section names, and lists each with `postmap -s`."""

    def __init__(self, name: str, section: PostfixSource) -> None:
        self.name = name
        self._section = section
        self._postfix = Postfix(section.config_directory, section.timeout.total_seconds())

    def read(self) -> Reading:
        """List them all. Raises SourceFault when one of them cannot be listed as a whole."""
        found = Gathering(self.name)
        try:
            tables, local_tables, domains = self._tables(found)
            if not tables and not local_tables:
                raise SourceFault(
                    self.name, f"{', '.join((*ADDRESS_TABLES, _LOCAL))} name no table; write tables: [TYPE:PATH]"
                )
            beyond = [table for table in tables if not self._list(table, (), found)]
            for table in local_tables:
                if not self._list(table, domains, found):
                    found.remark(f"{_LOCAL}: {table} is not listed; its names are taken to be system accounts")
        except PostfixFault as fault:
            raise SourceFault(self.name, str(fault)) from None
        if beyond:
            self._ask_database(beyond, found)
        return found.reading()

    def _tables(self, found: Gathering) -> tuple[list[str], list[str], list[str]]:
        """Tables of addresses, tables of bare names, and the domains that these stand for."""
        if self._section.tables:
            return list(self._section.tables), [], []
        names = (*ADDRESS_TABLES, _LOCAL, "alias_maps", "mydestination", "myorigin")
        values = {name: split_list(value) for name, value in self._postfix.parameters(*names).items()}
        aliases = {direct(table) for table in values.get("alias_maps", ())}
        local = (table for table in values.get(_LOCAL, ()) if direct(table) not in aliases)
        domains = values.get("myorigin", []) + values.get("mydestination", [])
        return (
            _once(table for name in ADDRESS_TABLES for table in values.get(name, ())),
            # Accounts of the operating system; Postfix's default, so not worth a remark.
            _once(table for table in local if direct(table) != "unix:passwd.byname"),
            [domain for domain in _once(domains) if _is_domain(domain)],
        )

    def _list(self, table: str, domains: list[str] | tuple[()], found: Gathering) -> bool:
        """Add a table's keys; False when it can only be asked. `domains` are put behind a bare name."""
        try:
            listing = self._postfix.keys_of(table)
        except NotListable:
            return False
        for key in listing.keys:
            if key.startswith("@"):
                found.remark(f"{table}: {quoted(key)} takes mail for any name; it is not a mailbox")
            elif "@" not in key and domains:
                for domain in domains:
                    found.add(f"{key}@{domain}", place=table)
            else:
                found.add(key, place=table)
        for warning in listing.warnings:
            found.remark(f"{table}: {warning}")
        return True

    def _ask_database(self, tables: list[str], found: Gathering) -> None:
        """Tables that cannot be listed: their mailboxes come from the database behind them, if it is known."""
        section = self._section
        named = ", ".join(map(quoted, tables))
        if section.sql_preset is None:
            raise SourceFault(self.name, f"Postfix cannot list {named}, only look up in it; {_WAYS_OUT}")
        from acme_milter.mailboxes.sql import entries_of_preset  # its library only where it is wanted

        try:
            url = section.url_text() or ""
        except SecretUnavailable as absence:
            raise SourceFault(self.name, f"url: {absence}") from None
        reading = entries_of_preset(self.name, url, section.sql_preset, section.timeout)
        for entry in reading.entries:
            found.add(entry.address, id=entry.id, name=entry.name, groups=entry.groups, aliases=entry.aliases)
        for text, reason in reading.rejected:
            found.reject(text, reason)
        for sentence in (*reading.remarks, f"{named} cannot be listed; {section.sql_preset}'s tables were asked"):
            found.remark(sentence)


def _once(items: Iterable[str]) -> list[str]:
    return list({direct(item): item for item in items}.values())


def _is_domain(text: str) -> bool:
    if text.lower().startswith("localhost"):
        return False
    try:
        canonical_address(f"postmaster@{text}")
    except InvalidEntry:  # a table, a file, or a single label
        return False
    return True
