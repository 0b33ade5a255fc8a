# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole way on the loopback: test CA, Postfix, name server, a signer, and acme-milter's own roles, all real."""

import contextlib
import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from acme_milter.config.loader import load
from acme_milter.config.schema import Config
from acme_milter.lab.authority import AuthorityLab
from acme_milter.lab.name_server import NameServer
from acme_milter.lab.opendkim import OpenDkimSigner
from acme_milter.lab.postfix import PostfixLab
from acme_milter.lab.processes import ChildProcess, ProcessFault, free_port, wait_until

SELECTOR = "lab"
AUTHORITY = "testca"
CA_DOMAINS = ("ca.example", "replies.ca.example", "elsewhere.example")


class Lab:
    """A mail system in ``directory``, for the mailboxes of ``domains`` (domain → local parts).

    ``reply_dkim``: "relay" has OpenDKIM sign the replies in Postfix, "own" has acme-milter sign them. ``follow`` is how
    their departure is learnt; "log" is Postfix's log, wherever that is. ``authority``,
    ``defaults`` and ``sections`` add to, or replace, what the configuration file says. ``more_authorities`` are further
    names for the same CA, with settings of their own; ``policies`` are what differs for a domain; ``knobs`` the CA's;
    ``more_routes`` where mail for further domains goes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        domains: Mapping[str, Sequence[str]],
        reply_dkim: str = "relay",
        follow: object = "none",
        authority: Mapping[str, object] | None = None,
        defaults: Mapping[str, object] | None = None,
        sections: Mapping[str, Mapping[str, object]] | None = None,
        more_authorities: Mapping[str, Mapping[str, object]] | None = None,
        staging: bool = False,
        policies: Mapping[str, Mapping[str, object]] | None = None,
        knobs: Mapping[str, object] | None = None,
        testca_options: Mapping[str, Any] | None = None,
        postfix_options: Mapping[str, Any] | None = None,
        more_routes: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        self.directory = directory
        self.config_path = directory / "acme-milter.yaml"
        self.run_log = directory / "acme-milter.log"
        self.domains = {domain: list(names) for domain, names in domains.items()}
        self._reply_dkim = reply_dkim
        self._follow = follow
        self._authority_settings = dict(authority or {})
        self._defaults = dict(defaults or {})
        self._sections = dict(sections or {})
        self._more_authorities = dict(more_authorities or {})
        self._staging = staging
        self._policies = dict(policies or {})
        self._knobs = dict(knobs or {})
        self._testca_options = dict(testca_options or {})
        self._postfix_options = dict(postfix_options or {})
        self._more_routes = dict(more_routes or {})
        self._started: list[Any] = []
        self.name_server: NameServer
        self.postfix: PostfixLab
        self.authority: AuthorityLab
        self.roles: ChildProcess

    @property
    def addresses(self) -> list[str]:
        return [f"{name}@{domain}" for domain, names in self.domains.items() for name in names]

    @property
    def config(self) -> Config:
        """The configuration as the roles read it."""
        return load(self.config_path)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; raises ProcessFault. Whatever had started is stopped again when something does not."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        try:
            self._start_name_server()
            self._start_mail()
            self._write_configuration()
            self.start_roles()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything, the last one first. Files stay; ``postfix.remove`` is not needed to delete them."""
        while self._started:
            self._started.pop().stop()

    def start_roles(self) -> None:
        """Start `acme-milter run` and wait until the worker and the milter answer."""
        # What a killed role leaves lies here, not in everybody's /tmp.
        scratch = self.directory / "tmp"
        scratch.mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(scratch)}
        self.roles = ChildProcess(self.command("run"), log=self.run_log, name="acme-milter run", env=environment)
        self.roles.start()
        self._started.append(self.roles)
        self.wait_for_roles()

    def wait_for_roles(self) -> None:
        """Return when the worker and the milter listen; raises ProcessFault with the end of their log."""
        config = self.config
        assert config.milter.socket_path is not None
        for path in (config.worker.control_socket, config.milter.socket_path):
            try:
                wait_until(lambda path=path: _listens(path), f"a listener at {path}", timeout=60)  # type: ignore[misc]  # mypy cannot tell a lambda's default
            except ProcessFault as fault:
                raise ProcessFault(f"{fault}\n{self.roles.log_tail(40)}") from None

    def stop_roles(self, *, kill: bool = False) -> None:
        """End `acme-milter run`, politely or as a crash would."""
        self._started.remove(self.roles)
        if kill:
            self.roles.kill()
        else:
            self.roles.stop()

    def kill_role(self, name: str) -> None:
        """SIGKILL to one role, as a crash would; `run` starts it again."""
        os.kill(self.pid_of(name), signal.SIGKILL)

    def pid_of(self, name: str) -> int:
        """The process of a role (milter, worker, keyd); raises ProcessFault when it is not running."""
        wanted = self.command(name)[1:]
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with contextlib.suppress(OSError):
                    if (process / "cmdline").read_bytes().decode().split("\0")[1:-1] == wanted:
                        return int(process.name)
        raise ProcessFault(f"{name} is not running\n{self.roles.log_tail(20)}")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "acme_milter", "--config", str(self.config_path), *arguments]

    def run_command(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run an acme-milter command to its end and capture what it prints."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout, check=False)

    def enroll(self, *addresses: str, timeout: float = 60) -> list[dict[str, Any]]:
        """`enroll --wait --json` for these mailboxes (default: all); returns its results."""
        wanted = addresses or tuple(self.addresses)
        done = self.run_command("enroll", "--wait", "--json", "--timeout", str(timeout), *wanted, timeout=timeout + 30)
        if not done.stdout.startswith("{"):
            raise ProcessFault(f"enroll ended with {done.returncode}: {done.stderr}\n{self.roles.log_tail(40)}")
        results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
        return results

    def status(self) -> dict[str, Any]:
        """`status --all --json`."""
        document: dict[str, Any] = json.loads(self.run_command("status", "--all", "--json").stdout)
        return document

    def send(self, raw: bytes, sender: str, *recipients: str, options: Sequence[str] = ()) -> None:
        """Bring a mail to the MX face, as the internet would."""
        with smtplib.SMTP("127.0.0.1", self.postfix.smtp_port, local_hostname="client.example", timeout=30) as smtp:
            smtp.sendmail(sender, recipients, raw, mail_options=options)

    def wait_for_mail(self, address: str, count: int = 1, timeout: float = 20) -> list[bytes]:
        """The mailbox's mails, once there are ``count``."""
        wait_until(lambda: len(self.postfix.inbox(address)) >= count, f"{count} mail(s) for {address}", timeout=timeout)
        return self.postfix.inbox(address)

    def wait_for_log(self, text: str, timeout: float = 20) -> str:
        """The first line of our own log that holds ``text``."""
        wait_until(lambda: text in self.log_text(), f"{text!r} in the log", timeout=timeout)
        return next(line for line in self.log_text().splitlines() if text in line)

    def log_text(self) -> str:
        return self.run_log.read_text(errors="replace") if self.run_log.exists() else ""

    def _start_name_server(self) -> None:
        self._key_file = self.directory / "dkim.pem"
        self.dkim_record = f"v=DKIM1; k=rsa; p={make_dkim_key(self._key_file)}"
        self.name_server = NameServer()
        self.name_server.start()
        self._started.append(self.name_server)
        for domain in self.domains:
            self.name_server.add_txt(f"{SELECTOR}._domainkey.{domain}", self.dkim_record)

    def _start_mail(self) -> None:
        signers = []
        if self._reply_dkim == "relay":
            keys = dict.fromkeys(self.domains, (SELECTOR, self._key_file))
            signer = OpenDkimSigner(self.directory / "opendkim", keys)
            signer.start()
            self._started.append(signer)
            signers.append(signer.socket)
        mx_port = free_port()
        self.postfix = PostfixLab(
            self.directory / "postfix",
            domains=self.domains,
            milter_socket=f"unix:{self._milter_socket}",
            ca_routes={**dict.fromkeys(CA_DOMAINS, ("127.0.0.1", mx_port)), **self._more_routes},
            relay_milters=signers,
            **self._postfix_options,
        )
        self.postfix.start()
        self._started.append(self.postfix)
        self.authority = AuthorityLab(
            self.directory / "testca",
            smtp_port=self.postfix.smtp_port,
            mx_port=mx_port,
            resolver_port=self.name_server.port,
            knobs=self._knobs,
            **self._testca_options,
        )
        self.authority.start()
        self._started.append(self.authority)

    @property
    def _milter_socket(self) -> Path:
        return self.directory / "postfix" / "queue" / "acme-milter" / "acme-milter.sock"

    def _write_configuration(self) -> None:
        run = self.directory / "run"
        run.mkdir(exist_ok=True)
        wrapping_key = self.directory / "wrapping.key"
        own_key = {"selector": SELECTOR, "key_file": str(self._key_file)}
        document: dict[str, Any] = {
            "version": 1,
            "store": {"url": f"sqlite:///{self.directory / 'store.db'}"},
            "milter": {"socket": f"unix:{self._milter_socket}"},
            "worker": {"intake_socket": str(run / "intake.sock"), "control_socket": str(run / "control.sock")},
            "keys": {
                "wrapping_key": {"file": str(wrapping_key)},
                "socket": str(run / "keyd.sock"),
                "pool": {"rsa3072": 0},  # two seconds of work at each start, for keys that hardly anybody takes here
            },
            "dns": {"nameservers": [f"127.0.0.1:{self.authority.dns_port}"]},
            "authorities": {
                name: {
                    "directory": self.authority.directory_url,
                    **({"staging": self.authority.directory_url} if self._staging else {}),
                    "ca_bundle": str(self.authority.ca_bundle),
                    "contact": [f"postmaster@{next(iter(self.domains))}"],
                    "agree_tos": True,
                    "post_delay": "0s",  # the test CA decides when the reply arrives, and minds no early POST
                    **settings,
                }
                for name, settings in {AUTHORITY: self._authority_settings, **self._more_authorities}.items()
            },
            "defaults": {
                "authorities": [AUTHORITY],
                "certificate": {"key": "p256"},
                "reply": {
                    "host": "127.0.0.1",
                    "port": self.postfix.reply_port,
                    "dkim": "relay" if self._reply_dkim == "relay" else own_key,
                    # As with post_delay: a reply that is late, or lost, is what the authority makes of it.
                    "follow": {"log": str(self.postfix.log_path)} if self._follow == "log" else self._follow,
                    "config_directory": str(self.postfix.config_directory),
                },
                **self._defaults,
            },
            "domains": {
                domain: {
                    "mailboxes": {"list": [f"{name}@{domain}" for name in names]},
                    **self._policies.get(domain, {}),
                }
                for domain, names in self.domains.items()
            },
        }
        for section, content in self._sections.items():
            document[section] = {**document.get(section, {}), **content}
        self.config_path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
        self.config_path.chmod(0o600)


def make_dkim_key(path: Path) -> str:
    """Write a new RSA-2048 key to ``path`` (PEM, 0600); return its public half as a key record's p= wants it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    lines = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().splitlines()
    return "".join(lines[1:-1])


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
