# SPDX-License-Identifier: GPL-3.0-or-later
"""A test CA as a real process beside an organization with mail and DNS; clients with an account there."""

import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.testca.organization import DOMAIN, Organization, digest_of, make_reply, send, token_of
from tests.testca.small_acme import SmallAcme, make_csr

_numbers = itertools.count()


@dataclass
class RunningCa:
    """A started CA, its announcement and what tests do with it."""

    process: subprocess.Popen[str]
    organization: Organization
    announced: dict[str, Any]
    session: requests.Session

    def client(self) -> SmallAcme:
        return SmallAcme(self.announced["directory"], self.announced["ca_bundle"])

    def history(self, *kinds: str, after: int = 0, wait: float = 0, raw: bool = False) -> list[dict[str, Any]]:
        query = {"after": str(after), "kind": ",".join(kinds), "wait": str(wait), "raw": "1" if raw else "0"}
        answer = self.session.get(f"{self.announced['control']}/history", params=query).json()
        return list(answer["events"])

    def last(self) -> int:
        return int(self.session.get(f"{self.announced['control']}/history").json()["last"])

    def chaos(self, **knobs: object) -> requests.Response:
        return self.session.post(f"{self.announced['control']}/chaos", json=knobs)

    def stop(self) -> float:
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(10)
        self.session.close()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return time.monotonic() - began


StartCa = Callable[..., RunningCa]


def start_ca(directory: Path, organization: Organization, *arguments: str) -> RunningCa:
    announcement = directory / "directory.json"
    process = subprocess.Popen(
        [
            sys.executable,
            *("-W", "error", "-m", "acme_milter.testca", "--state-dir", str(directory / "state")),
            *("--directory-out", str(announcement), "--smtp-target", f"127.0.0.1:{organization.mx_port}"),
            *("--resolver", f"127.0.0.1:{organization.dns_port}", "--first-pause", "0.1", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert select.select([process.stdout], [], [], 30)[0], "the CA said nothing for 30 seconds"
    line = process.stdout.readline()
    assert line.startswith("ready https://"), process.stderr.read()
    announced = json.loads(announcement.read_text())
    session = requests.Session()
    session.trust_env = False
    session.verify = announced["ca_bundle"]
    return RunningCa(process, organization, announced, session)


@pytest.fixture(scope="package")
def organization() -> Iterator[Organization]:
    made = Organization()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="package")
def shared_ca(tmp_path_factory: pytest.TempPathFactory, organization: Organization) -> Iterator[RunningCa]:
    running = start_ca(tmp_path_factory.mktemp("testca"), organization)
    yield running
    running.stop()


@pytest.fixture
def ca(shared_ca: RunningCa) -> Iterator[RunningCa]:
    """The shared CA, calm before and after."""
    yield shared_ca
    shared_ca.session.delete(f"{shared_ca.announced['control']}/chaos")
    shared_ca.organization.answers.clear()
    shared_ca.organization.servfail.clear()


@pytest.fixture
def client(ca: RunningCa) -> Iterator[SmallAcme]:
    made = ca.client()
    made.register()
    yield made
    made.close()


@dataclass
class Enrollment:
    """One order of one fresh mailbox, taken step by step."""

    ca: RunningCa
    client: SmallAcme
    address: str
    url: str = ""
    authorization: str = ""
    challenge: str = ""
    part2: str = ""
    sender: str = ""

    def place(self, **members: object) -> dict[str, Any]:
        answer = self.client.order(self.address, **members)
        assert answer.status_code == 201, answer.text
        self.url = answer.headers["Location"]
        order: dict[str, Any] = answer.json()
        self.authorization = order["authorizations"][0]
        return order

    def fetch_authorization(self) -> dict[str, Any]:
        body: dict[str, Any] = self.client.post(self.authorization).json()
        challenge = body["challenges"][0]
        self.challenge, self.part2, self.sender = challenge["url"], challenge["token"], challenge["from"]
        return body

    def receive(self) -> bytes:
        return self.ca.organization.receive(self.address)

    def digest(self, mail: bytes, *, joining: str = "string") -> str:
        return digest_of(token_of(mail), self.part2, self.client.thumbprint(), joining=joining)

    def deliver(self, raw: bytes) -> tuple[int, bytes]:
        return send(self.ca.announced["mx_port"], raw)

    def answer(self, mail: bytes) -> tuple[int, bytes]:
        return self.deliver(self.ca.organization.sign(make_reply(mail, self.digest(mail))))

    def validate(self) -> None:
        self.place()
        self.fetch_authorization()
        assert self.answer(self.receive())[0] == 250
        self.client.post(self.challenge, {})
        assert self.order()["status"] == "ready"

    def order(self) -> dict[str, Any]:
        body: dict[str, Any] = self.client.post(self.url).json()
        return body

    def finalize(self, csr: str | None = None) -> requests.Response:
        return self.client.post(f"{self.url}/finalize", {"csr": csr or make_csr(self.address)})

    def challenge_state(self) -> dict[str, Any]:
        body: dict[str, Any] = self.client.post(self.challenge).json()
        return body

    def verdict(self) -> dict[str, Any]:
        """The newest reply event of this mailbox."""
        found = [one for one in self.ca.history("reply-received") if one.get("identifier") == self.address]
        return found[-1]


@pytest.fixture
def enrollment(ca: RunningCa, client: SmallAcme) -> Enrollment:
    return Enrollment(ca, client, f"user{next(_numbers)}.{os.getpid()}@{DOMAIN}")
