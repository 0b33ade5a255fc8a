# SPDX-License-Identifier: GPL-3.0-or-later
"""From a section below `sources` to the source it describes; each kind's module is imported only when it is used."""

from collections.abc import Callable
from datetime import date

from acme_milter.config.sources import (
    CommandSource,
    CsvSource,
    DovecotSource,
    LdapSource,
    PostfixSource,
    SourceCommon,
    SqlSource,
)
from acme_milter.mailboxes.csv_file import local_day
from acme_milter.mailboxes.source import Source


def source_of(name: str, section: SourceCommon, *, today: Callable[[], date] = local_day) -> Source:
    """The source of one section; `today` is asked where a mailbox has a first or a last day."""
    # Imported here: SQL and LDAP need libraries that not everybody has installed.
    match section:
        case PostfixSource():
            from acme_milter.mailboxes.postfix_tables import PostfixTables

            return PostfixTables(name, section)
        case DovecotSource():
            from acme_milter.mailboxes.dovecot import DovecotUsers

            return DovecotUsers(name, section)
        case CsvSource():
            from acme_milter.mailboxes.csv_file import CsvFile

            return CsvFile(name, section, today=today)
        case CommandSource():
            from acme_milter.mailboxes.command import CommandOutput

            return CommandOutput(name, section)
        case SqlSource():
            from acme_milter.mailboxes.sql import SqlSource as Database

            return Database(name, section)
        case LdapSource():
            from acme_milter.mailboxes.ldap_directory import LdapSource as Directory

            return Directory(name, section)
        case _:
            raise AssertionError(f"no source of type {type(section).__name__}")
