# SPDX-License-Identifier: GPL-3.0-or-later
"""A private Dovecot without protocols: its master and auth processes, so that doveadm has somebody to ask."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from acme_milter.lab.processes import ChildProcess, ProcessFault, wait_until

LISTED = """\
  driver = passwd-file
  args = username_format=%u {directory}/users
  default_fields = uid=65534 gid=65534 home=/nonexistent"""
"""A userdb whose users can be listed."""

ASKED_ONLY = """\
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent"""
"""A userdb that knows everybody it is asked for, and can list nobody."""

_CONFIGURATION = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = /dev/stderr
protocols =
ssl = no
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
{userdb}
}}
service auth {{
  unix_listener auth-userdb {{
    mode = {mode}
    user = root
  }}
{more_sockets}
}}
"""


class DovecotLab:
    """`configuration` is what doveadm's -c wants. Needs root, as Dovecot's master does.

    `userdb` is the inside of that block; `socket_mode` is who may ask the auth process for users, `more_sockets` are
    further listeners of it. It lives in a directory of its own directly below /tmp: a unix socket's path has room for
    107 octets.
    """

    def __init__(
        self, users: Iterable[str] = (), *, userdb: str = LISTED, socket_mode: int = 0o666, more_sockets: str = ""
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dovecot-"))
        # Dovecot's own unprivileged processes read the users, and a stranger is to be refused at the socket itself.
        self.directory.chmod(0o755)
        self.configuration = self.directory / "dovecot.conf"
        self.configuration.write_text(
            _CONFIGURATION.format(
                directory=self.directory,
                userdb=userdb.format(directory=self.directory),
                mode=f"{socket_mode:04o}",
                more_sockets=more_sockets,
            )
        )
        self.set_users(users)
        self._process = ChildProcess(
            ["dovecot", "-F", "-c", str(self.configuration)], name="Dovecot", log=self.directory / "dovecot.log"
        )

    def set_users(self, users: Iterable[str]) -> None:
        """Replace the users; Dovecot looks at its file anew with every question."""
        staged = self.directory / "users.new"
        staged.write_text("".join(f"{user}:::::::\n" for user in users))
        staged.rename(self.directory / "users")

    def start(self) -> None:
        """Start it and return when its auth process can be asked; raises ProcessFault with what it said."""
        if shutil.which("dovecot") is None:
            raise ProcessFault("dovecot is not installed (Debian: dovecot-core)")
        self._process.start()
        try:
            wait_until(self._is_ready, "Dovecot's auth socket")
        except ProcessFault as fault:
            log = self._process.log_tail()
            self.stop()
            raise ProcessFault(f"{fault}\n{log}") from fault

    def stop(self) -> None:
        """End it and remove everything it had."""
        self.halt()
        shutil.rmtree(self.directory, ignore_errors=True)

    def halt(self) -> None:
        """End it as a crash would; its sockets stay behind."""
        self._process.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        if not self._process.running:
            raise ProcessFault(f"Dovecot ended with status {self._process.returncode}")
        # The master makes all sockets before it says so; whoever connects then is served.
        return "starting up" in self._process.log_tail()
