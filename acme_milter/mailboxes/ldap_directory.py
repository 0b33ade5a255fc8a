# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes from a directory: OpenLDAP, Active Directory or another that speaks LDAP version 3.

Searching is another process's work (`ldap_search`), what an entry means is in `ldap_entry`; here is what lies between.
"""

import base64
import dataclasses
import json
import sys
from collections.abc import Iterator

from acme_milter.config.secret import SecretUnavailable
from acme_milter.config.sources import LdapSource as LdapSection
from acme_milter.ldap_connection import shows_the_password
from acme_milter.mailboxes.ldap_entry import LdapEntries
from acme_milter.mailboxes.ldap_search import Search
from acme_milter.mailboxes.source import Reading, SourceFault
from acme_milter.program import Outcome, ProgramFault, run_program
from acme_milter.quoting import quoted

_GRACE = 2.0  # seconds beyond the timeout for it to say by itself what was slow
_MAX_OUTPUT = 512 * 1024 * 1024


class LdapSource:
    """A section of type ``ldap``."""

    def __init__(self, name: str, section: LdapSection) -> None:
        self.name = name
        self._section = section

    def read(self) -> Reading:
        """Search the directory. Raises SourceFault."""
        section = self._section
        if section.ca_bundle is not None and not section.ca_bundle.is_file():
            raise SourceFault(self.name, f"ca_bundle: the file {section.ca_bundle} is not there")
        entries = LdapEntries(self.name, section)
        if self.shows_the_password:
            entries.remark("the bind password crosses the network unencrypted; use ldaps:// or starttls: true")
        asked = self._search(entries.attributes)
        try:
            done = run_program(
                [sys.executable, "-m", "acme_milter.mailboxes.ldap_search"],
                timeout=asked.timeout + _GRACE,
                given=json.dumps(dataclasses.asdict(asked)).encode(),
                max_output=_MAX_OUTPUT,
            )
        except ProgramFault:
            what = f"{section.uri}: no complete answer within {asked.timeout:g} s; raise timeout, or see what it is at"
            raise SourceFault(self.name, what) from None
        for line in self._complete(done):
            dn, attributes = line
            values = {name: [base64.b64decode(value) for value in found] for name, found in attributes.items()}
            entries.take(dn, values)
        return entries.reading()

    @property
    def shows_the_password(self) -> bool:
        """True when anybody between us and the directory could read the bind password."""
        section = self._section
        return section.bind is not None and shows_the_password(section.uri, starttls=section.starttls)

    def _search(self, attributes: list[str]) -> Search:
        section = self._section
        try:
            password = section.bind.password.read() if section.bind else ""
        except SecretUnavailable as reason:
            raise SourceFault(self.name, f"bind.password: {reason}") from None
        return Search(
            uri=section.uri,
            base=section.base,
            scope=section.scope,
            filter=section.filter,
            attributes=attributes,
            page_size=section.page_size,
            timeout=section.timeout.total_seconds(),
            bind_dn=section.bind.dn if section.bind else None,
            password=password,
            starttls=section.starttls,
            ca_bundle=str(section.ca_bundle) if section.ca_bundle else None,
        )

    def _complete(self, done: Outcome) -> Iterator[tuple[str | None, dict[str, list[str]]]]:
        """The entries, when the search says itself that these are all."""
        *lines, last = done.output.splitlines() or [b""]
        ending = json.loads(last) if done.status == 0 and last.startswith(b"{") else {}
        if ending.get("fault"):
            raise SourceFault(self.name, ending["fault"])
        if not ending.get("end"):
            said = quoted((done.error_lines() or [""])[-1])
            raise SourceFault(self.name, f"the search ended early ({done.ending}) {said}".rstrip())
        for line in lines:
            dn, attributes = json.loads(line)
            yield dn, attributes
