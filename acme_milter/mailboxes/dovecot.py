# SPDX-License-Identifier: GPL-3.0-or-later
"""Dovecot's users as a source: what `doveadm user MASK` lists."""

from acme_milter.config.sources import DovecotSource
from acme_milter.mailboxes.source import Gathering, Reading, SourceFault
from acme_milter.program import Outcome, ProgramFault, run_program
from acme_milter.quoting import quoted

_OWN_SOCKET = (
    "give the worker a socket of its own: service auth { unix_listener acme-milter-userdb { user = acme-worker } }, "
    "and as this source's config a file with auth_socket_path = /run/dovecot/acme-milter-userdb"
)
_ADVICE = (
    (
        "User listing returned failure",
        # doveadm is told the same for both; only Dovecot's log tells them apart.
        (
            "either no userdb can list its users: set iterate_query (SQL) or iterate_attrs (LDAP); or this user may "
            f"not: {_OWN_SOCKET}. Dovecot's log says which"
        ),
    ),
    ("Permission denied", _OWN_SOCKET),
    ("No such file or directory", "is Dovecot running, and is this its configuration? doveadm service status"),
    ("Connection refused", "start Dovecot: systemctl start dovecot"),
    ("Timeout", "Dovecot's auth process does not answer; its log says why: doveadm log find"),
)


class DovecotUsers:
    """Asks the Dovecot that runs with `config`, or with the machine's own configuration."""

    def __init__(self, name: str, section: DovecotSource) -> None:
        self.name = name
        self._argv = ["doveadm", *(["-c", str(section.config)] if section.config else []), "user", section.mask]
        self._timeout = section.timeout.total_seconds()

    def read(self) -> Reading:
        """Ask doveadm once. Raises SourceFault with what to change in Dovecot."""
        try:
            outcome = run_program(self._argv, timeout=self._timeout, environment={"ACME_MILTER_SOURCE": self.name})
        except ProgramFault as fault:
            raise SourceFault(self.name, f"{fault}; try it: {self._command}") from None
        if outcome.status != 0:
            raise SourceFault(self.name, self._complaint(outcome))
        if outcome.output and not outcome.output.endswith(b"\n"):
            raise SourceFault(self.name, f"{self._command} ended in the middle of a line")
        found = Gathering(self.name)
        # Not splitlines: it would also split at characters that a broken user name may hold.
        for line in outcome.output.decode("utf-8", "replace").split("\n")[:-1]:
            found.add(line)
        return found.reading()

    @property
    def _command(self) -> str:
        return quoted(" ".join(f"'{word}'" if "*" in word or "?" in word else word for word in self._argv))

    def _complaint(self, outcome: Outcome) -> str:
        lines = outcome.error_lines()
        # doveadm panics after it could not connect; the first line is the cause, the others are its backtrace.
        said = next((line for line in lines if "Error: " in line or "Fatal: " in line), "it said nothing")
        advice = next((advice for words, advice in _ADVICE if words in said), f"try it: {self._command}")
        return f"{self._command}: {outcome.ending}: {quoted(said)}; {advice}"
