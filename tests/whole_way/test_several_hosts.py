# SPDX-License-Identifier: GPL-3.0-or-later
"""Two MX hosts with all their roles on one PostgreSQL; challenge mails come to either of them in turn."""

import itertools
import json
import selectors
import socket
import socketserver
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from acme_milter.lab.postfix_config import MILTER_PARAMETERS
from acme_milter.lab.postgresql import PostgresLab
from acme_milter.lab.processes import ChildProcess, accepts_connections, free_port, wait_until
from acme_milter.lab.system import Lab
from tests.forked_commands import run_forked

MAILBOXES = 12
SECOND_SOCKET = "acme-milter/second.sock"  # from Postfix's queue directory
NO_KEYS_AHEAD = {"pool": {"rsa3072": 0}}


class Alternator(socketserver.ThreadingTCPServer):
    """A port whose connections go to each of ``targets`` in turn, as equal MX records would have it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.targets: Iterator[int] = iter(())
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def next_target(self) -> int:
        with self._lock:
            return next(self.targets)


class _Relay(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Alternator)
        with (
            socket.create_connection(("127.0.0.1", self.server.next_target())) as other,
            selectors.DefaultSelector() as ready,
        ):
            ways = {self.request: other, other: self.request}
            for one in ways:
                ready.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    chunk = source.recv(65536)
                    if not chunk:
                        return
                    ways[source].sendall(chunk)


@pytest.fixture
def mx() -> Iterator[Alternator]:
    with Alternator() as alternator:
        thread = threading.Thread(target=alternator.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield alternator
        alternator.shutdown()
        thread.join()


class SecondHost:
    """The same configuration as the laboratory's, with sockets of its own."""

    def __init__(self, lab: Lab) -> None:
        self.config_path = lab.directory / "second.yaml"
        run = lab.directory / "run2"
        run.mkdir()
        document = yaml.safe_load(lab.config_path.read_text())
        document["milter"]["socket"] = f"unix:{lab.postfix.queue_directory / SECOND_SOCKET}"
        document["worker"] = {"intake_socket": str(run / "intake.sock"), "control_socket": str(run / "control.sock")}
        document["keys"]["socket"] = str(run / "keyd.sock")
        self.config_path.touch(mode=0o600)
        self.config_path.write_text(yaml.safe_dump(document))
        self.log = lab.directory / "second.log"
        self.roles = ChildProcess(command(self.config_path, "run"), log=self.log, name="second acme-milter run")
        self.roles.start()
        sockets = (Path(document["worker"]["control_socket"]), lab.postfix.queue_directory / SECOND_SOCKET)
        wait_until(lambda: all(path.exists() for path in sockets), "the second host's roles", timeout=20)


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "acme_milter", "--config", str(config), *arguments]


def enroll(config: Path, addresses: Sequence[str]) -> list[str]:
    """The states in which the mailboxes' enrollments ended."""
    arguments = ("enroll", "--wait", "--json", "--timeout", "60", *addresses)
    done = run_forked(command(config, *arguments), timeout=90)
    assert done.stdout.startswith("{"), done.stderr
    return [row["state"] for row in json.loads(done.stdout)["results"]]


@contextmanager
def two_hosts(lab: Lab, mx: Alternator, second_port: int) -> Iterator[SecondHost]:
    """The second one beside the laboratory; from here on mails come to both in turn."""
    mx.targets = itertools.cycle([lab.postfix.smtp_port, second_port])
    wait_until(lambda: accepts_connections("127.0.0.1", second_port), "the second host's Postfix")
    second = SecondHost(lab)
    try:
        yield second
    finally:
        second.roles.stop()


def surroundings(postgresql: PostgresLab, mx: Alternator, second_port: int) -> dict[str, Any]:
    milters = f"{{ unix:{SECOND_SOCKET}, {MILTER_PARAMETERS} }}"
    return {
        "sections": {"store": {"url": postgresql.make_database().replace("+psycopg", "")}, "keys": NO_KEYS_AHEAD},
        "testca_options": {"options": ["--smtp-target", f"127.0.0.1:{mx.port}"]},
        "postfix_options": {
            "master_extra": f"127.0.0.1:{second_port} inet n - n - - smtpd\n  -o {{ smtpd_milters = {milters} }}\n"
        },
    }


def enroll_from_both(lab: Lab, second: SecondHost, addresses: Sequence[str]) -> list[list[str]]:
    """Both are asked for the same certificates at the same time."""
    with ThreadPoolExecutor(2) as hosts:
        return list(hosts.map(lambda config: enroll(config, addresses), [lab.config_path, second.config_path]))


def assert_calm(*logs: str) -> None:
    for log in logs:
        assert "internal-error" not in log
        assert "store-unavailable" not in log


def test_two_hosts_share_the_work_and_every_mailbox_has_one_order(
    own_lab: Callable[..., Lab], postgresql: PostgresLab, mx: Alternator, tmp_path: Path
) -> None:
    second_port = free_port()
    lab = own_lab(mailboxes=MAILBOXES, **surroundings(postgresql, mx, second_port))
    with two_hosts(lab, mx, second_port) as second:
        states = enroll_from_both(lab, second, lab.addresses)
        exported = subprocess.run(
            command(second.config_path, "export", lab.addresses[0], "--format", "pem", "--out", str(tmp_path / "out")),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert states == [["active"] * MAILBOXES] * 2
    ordered = [address for order in lab.authority.orders() for address in order["identifiers"]]
    assert sorted(ordered) == sorted(lab.addresses)
    recorded = [log.count("challenge-accepted") for log in (lab.log_text(), second.log.read_text())]
    assert sum(recorded) == MAILBOXES
    assert all(recorded), f"each host answers the mails that come to it: {recorded}"
    assert exported.returncode == 0, exported.stderr
    assert_calm(lab.log_text(), second.log.read_text())


def test_two_hosts_prove_a_mailbox_and_its_aliases_for_two_certificates_whichever_gets_the_mails(
    own_lab: Callable[..., Lab], postgresql: PostgresLab, mx: Alternator
) -> None:
    """All challenges of an order come at once, half of them to each host, and most of them before their turn."""
    second_port = free_port()
    mailboxes = {f"user{number}@org.example": [f"a{number}@org.example", f"b{number}@org.example"] for number in (0, 1)}
    everybody = [address for mailbox, aliases in mailboxes.items() for address in (mailbox, *aliases)]
    lab = own_lab(
        domains={"org.example": [address.partition("@")[0] for address in everybody]},
        policies={
            "org.example": {
                "certificate": {"layout": "dual", "aliases": "same_certificate"},
                "mailboxes": {"list": list(mailboxes), "aliases": mailboxes},
            }
        },
        authority={"limits": {"mails_per_hour": 12}},
        knobs={"MAIL_AT": "neworder"},
        **surroundings(postgresql, mx, second_port),
    )
    with two_hosts(lab, mx, second_port) as second:
        states = enroll_from_both(lab, second, list(mailboxes))
        status = json.loads(lab.run_command("authority", "list", "--json").stdout)
    assert states == [["active"] * 4] * 2  # two certificates each
    ordered = sorted(sorted(order["identifiers"]) for order in lab.authority.orders())
    assert ordered == sorted(2 * [sorted((mailbox, *aliases)) for mailbox, aliases in mailboxes.items()])
    replies = Counter(reply["sender"] for reply in lab.authority.history("reply-received"))
    assert replies == dict.fromkeys(everybody, 2)
    logs = (lab.log_text(), second.log.read_text())
    accepted = [log.count("challenge-accepted") for log in logs]
    assert sum(accepted) == 12
    assert all(accepted), f"each host answers the mails that come to it: {accepted}"
    assert any('reply="in its turn"' in log for log in logs)
    assert [lab.postfix.inbox(address) for address in everybody] == [[]] * 6
    assert status["authorities"][0]["budgets"]["mails_per_hour"] == {"used": 12, "limit": 12}
    assert_calm(*logs)
