# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenDKIM as the site's signer in front of the reply face, and as a verifier that is not ours."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from acme_milter.lab.processes import ChildProcess, ProcessFault, accepts_connections, free_port, wait_until

# RFC 8823 §3.2 item 9: the names a reply's h= must hold, absent headers included.
REPLY_NAMES = (
    "From", "Sender", "Reply-To", "To", "CC", "Subject", "Date", "In-Reply-To", "References", "Message-ID",
    "Content-Type", "Content-Transfer-Encoding",
)  # fmt: skip
_ALSO_SIGNED = ("Auto-Submitted", "MIME-Version")

# OversignHeaders lists each name once more than the mail has it: an absent header once, so that it cannot be added.
_SIGNING = """\
Mode s
Canonicalization relaxed/simple
SignatureAlgorithm rsa-sha256
InternalHosts 127.0.0.1
KeyTable file:{directory}/key.table
SigningTable refile:{directory}/signing.table
SignHeaders {signed}
OversignHeaders {oversigned}
"""
_COMMON = """\
Background no
Syslog no
RequireSafeKeys no
UMask 007
PidFile {directory}/opendkim.pid
"""
_VERIFYING = """\
Mode v
AuthservID {authserv_id}
AlwaysAddARHeader yes
InternalHosts 192.0.2.1
TestDNSData file:{directory}/dns.table
On-Default accept
"""


class _OpenDkim:
    """`opendkim` in the foreground on a free loopback port; `socket` is its address in libmilter's spelling."""

    def __init__(self, directory: Path, configuration: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.socket = f"inet:{self.port}@127.0.0.1"
        directory.mkdir(parents=True, exist_ok=True)
        self.configuration = directory / "opendkim.conf"
        self.configuration.write_text(f"Socket {self.socket}\n{configuration}")
        self._process = ChildProcess(
            ["opendkim", "-f", "-x", str(self.configuration)], name="OpenDKIM", log=directory / "opendkim.log"
        )

    def start(self) -> None:
        """Start it and return when it takes connections; raises ProcessFault with what it said when it does not."""
        _require_opendkim()
        self._process.start()
        try:
            wait_until(self._is_ready, f"OpenDKIM on port {self.port}")
        except ProcessFault as exc:
            self.stop()
            raise ProcessFault(f"{exc}\n{self._process.log_tail()}") from exc

    def stop(self) -> None:
        """End it. Not by SIGTERM, which libmilter looks for only every few seconds: nothing here needs its goodbye."""
        self._process.kill()

    def __enter__(self) -> "_OpenDkim":
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        if not self._process.running:
            raise ProcessFault(f"OpenDKIM ended with status {self._process.returncode}")
        return accepts_connections("127.0.0.1", self.port)


class OpenDkimSigner(_OpenDkim):
    """A signing milter. `keys` maps each domain to its selector and the file of its private key (PEM)."""

    def __init__(
        self,
        directory: Path,
        keys: Mapping[str, tuple[str, Path]],
        *,
        oversigned: Sequence[str] = (*REPLY_NAMES, *_ALSO_SIGNED),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        key_lines, signing_lines = [], []
        for domain, (selector, path) in keys.items():
            key_lines.append(f"{domain} {domain}:{selector}:{path}\n")
            signing_lines.append(f"*@{domain} {domain}\n")
        (directory / "key.table").write_text("".join(key_lines))
        (directory / "signing.table").write_text("".join(signing_lines))
        text = (_COMMON + _SIGNING).format(
            directory=directory,
            signed=",".join((*REPLY_NAMES, *_ALSO_SIGNED)),
            oversigned=",".join(oversigned),
        )
        super().__init__(directory, text)


class OpenDkimVerifier(_OpenDkim):
    """A verifying milter that adds Authentication-Results with `authserv_id`. `dns` maps key names to TXT records."""

    def __init__(self, directory: Path, dns: Mapping[str, str], *, authserv_id: str = "mx.lab.invalid") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        _write_dns(directory / "dns.table", dns)
        super().__init__(directory, (_COMMON + _VERIFYING).format(directory=directory, authserv_id=authserv_id))


@dataclass(frozen=True, slots=True)
class OpenDkimOpinion:
    """What `opendkim -t` said about one message."""

    passed: bool
    text: str


def ask_opendkim(directory: Path, raw: bytes, dns: Mapping[str, str]) -> OpenDkimOpinion:
    """Have OpenDKIM verify one message (CRLF line ends), no mail system needed. `dns` maps key names to TXT records."""
    _require_opendkim()
    directory.mkdir(parents=True, exist_ok=True)
    _write_dns(directory / "dns.table", dns)
    configuration = directory / "test.conf"
    configuration.write_text((_COMMON + _VERIFYING).format(directory=directory, authserv_id="mx.lab.invalid"))
    message = directory / "message.eml"
    message.write_bytes(raw)
    done = subprocess.run(
        ["opendkim", "-x", str(configuration), "-vv", "-t", str(message)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    return OpenDkimOpinion(bool(re.search(r"verification \(s=.*\) succeeded", text)), text)


def _write_dns(path: Path, dns: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name} {text}\n" for name, text in dns.items()))


def _require_opendkim() -> None:
    if shutil.which("opendkim") is None:
        raise ProcessFault("OpenDKIM is not installed (Debian: apt-get install opendkim)")
