# SPDX-License-Identifier: GPL-3.0-or-later
"""A changed configuration is taken over whole or not at all, and no open order notices."""

import json
import logging
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from acme_milter.config.fault import Fault
from acme_milter.config.loader import load
from acme_milter.config.member import Member
from acme_milter.config.schema import Config
from acme_milter.ipc.client import FrameClient
from acme_milter.lab.processes import wait_until
from acme_milter.worker.answer import SigningKeyUnavailable, load_signers
from acme_milter.worker.reload import Reloader
from acme_milter.worker.standing_config import StandingConfig
from tests.forked_commands import Lab
from tests.protocol.smime_mail import root
from tests.scratch import scratch

GOOD = (
    "authorities: {a: {preset: castle, agree_tos: true}}\ndomains:\n  o.example: {mailboxes: {list: [x@o.example]}}\n"
)
FOUND = [Member("y@o.example", "hr:7", "hr"), Member("z@p.example", "z@p.example", "hr")]


NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


class File:
    """A configuration file that is in force in this process."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "acme-milter.yaml"
        self.write(GOOD)
        self.standing = StandingConfig(load(self.path))
        self.now = NOW
        self.reloader = Reloader(self.standing, load_signers, lambda: self.now)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.path.chmod(0o600)

    @property
    def managed(self) -> set[str]:
        return set(self.standing.current().managed())


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


def test_the_sources_mailboxes_outlive_the_file_that_named_them(file: File) -> None:
    file.standing.replace_members(FOUND)
    assert file.managed == {"x@o.example", "y@o.example"}
    file.write(GOOD + "  p.example: {mode: observe, mailboxes: {list: []}}\n")
    assert file.reloader.reload()
    assert file.managed == {"x@o.example", "y@o.example", "z@p.example"}
    file.standing.replace_members([])
    assert file.managed == {"x@o.example"}


def test_a_fault_keeps_what_is_in_force_and_every_fault_is_logged(file: File, caplog: pytest.LogCaptureFixture) -> None:
    before = file.standing.current()
    file.write(GOOD + "  p.example: {mailboxes: {list: [p]}, mod: x}\n")
    assert not file.reloader.reload()
    assert file.standing.current() is before
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 3
    assert f'fault="{file.path}:4: domains.p.example.mailboxes.list[0]: is no mail address' in logged[0]
    assert f'fault="{file.path}:4: domains.p.example.mod: unknown key (did you mean mode?)"' in logged[1]
    assert "config-reload-failed faults=2" in logged[2]
    assert file.standing.last_fault == f"{file.standing.last_faults[0]} (and 1 more)"
    file.write(GOOD)
    assert file.reloader.reload()
    assert file.standing.last_fault is None


def test_the_worker_tells_since_when_the_file_is_refused_and_what_waits_for_a_restart(file: File) -> None:
    assert file.reloader.answer({}) == {
        "file": str(file.path), "refused": [], "faults": 0, "since": None, "needs_restart": []
    }  # fmt: skip
    file.write(GOOD + "worker: {threads: 3}\n")
    assert file.reloader.reload()
    file.write(GOOD + "mod: x\n" * 2)
    for _ in range(2):
        assert not file.reloader.reload()
        file.now += timedelta(hours=1)
    told = file.reloader.answer({})
    assert told["refused"] == [str(fault) for fault in file.standing.last_faults]
    assert (told["since"], told["needs_restart"]) == (NOW.isoformat(), ["worker.threads"])
    file.write(GOOD)
    assert file.reloader.reload()
    told = file.reloader.answer({})
    assert (told["refused"], told["since"], told["needs_restart"]) == ([], None, [])


def test_a_file_that_is_gone_and_a_key_that_cannot_sign_are_faults_too(file: File, tmp_path: Path) -> None:
    file.path.unlink()
    assert not file.reloader.reload()
    (tmp_path / "k").write_text("no key")
    file.write(GOOD.replace("{mailboxes", "{reply: {dkim: {selector: s, key_file: k}}, mailboxes"))
    assert not file.reloader.reload()
    assert isinstance(file.standing.last_faults[0], Fault)
    with pytest.raises(SigningKeyUnavailable):
        load_signers(load(file.path))
    assert file.managed == {"x@o.example"}


def test_keys_that_wait_for_a_restart_are_named_and_stay_what_they_are(
    file: File, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file.write(GOOD + "store: {url: 'sqlite:////x.db'}\nworker: {threads: 3}\ndefaults: {mode: observe}\n")
    for _ in range(2):  # they are named for as long as they wait
        caplog.clear()
        assert file.reloader.reload()
        assert "needs_restart=store.url,worker.threads" in caplog.text
    config = file.standing.current()
    assert (config.worker.threads, config.policies["o.example"].mode) == (16, "observe")
    assert config.store.url != "sqlite:////x.db"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    names = [f"user{number}" for number in range(7)]
    listed = {"mailboxes": {"list": [f"{name}@org.example" for name in names[:5]]}}
    domains, policies = {"org.example": names}, {"org.example": listed}
    with (
        scratch("reload") as place,
        Lab(place / "lab", domains=domains, policies=policies, reply_dkim="own") as running,
    ):
        yield running


def changed(lab: Lab, count: int, *, faulty: bool = False, **authority: Any) -> None:
    """Rewrite the file for ``count`` mailboxes, and wait until the running worker has judged it."""
    document = yaml.safe_load(lab.config_path.read_text())
    document["domains"]["org.example"]["mailboxes"]["list"] = lab.addresses[:count]
    document["authorities"]["testca"] |= authority
    if faulty:
        document["defaults"]["mod"] = "observe"
    else:
        document["defaults"].pop("mod", None)
    lab.config_path.write_text(yaml.safe_dump(document))
    word = "config-reload-failed faults=" if faulty else "config-loaded"
    before = lab.log_text().count(word)
    lab.roles.signal(signal.SIGHUP)
    wait_until(lambda: lab.log_text().count(word) > before, word, timeout=20)


def outcome(lab: Lab, address: str) -> object:
    """What the running worker says to an order for this mailbox."""
    with FrameClient(lab.config_path.parent / "run" / "control.sock", timeout=10) as worker:
        answer: Any = worker.call({"call": "enroll", "addresses": [address]})[0]
    return answer["results"][0]["outcome"]


def status_tells_what_is_refused(lab: Lab) -> None:
    """Although the file that names the sockets is the one with the fault."""
    done = subprocess.run(lab.command("status", "--json"), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 78
    assert "defaults.mod: unknown key (did you mean mode?)" in done.stderr
    document = json.loads(done.stdout)
    assert document["running"] == {"keyd": True, "worker": True}
    need = document["needs_you"][0]
    assert (need["kind"], document["configuration"]["faults"]) == ("configuration", 1)
    assert "defaults.mod: unknown key (did you mean mode?)" in need["text"]
    done = subprocess.run(lab.command("status"), capture_output=True, text=True, timeout=30, check=False)
    assert "UTC the configuration file is refused, and an earlier one stays in force: " in done.stdout


def test_run_hands_the_hangup_to_a_worker_that_takes_a_good_file_and_keeps_its_own_over_a_bad_one(lab: Lab) -> None:
    worker = lab.pid_of("worker")
    changed(lab, 6, faulty=True)
    assert "unknown key (did you mean mode?)" in lab.wait_for_log("config-reload-failed fault=")
    assert outcome(lab, lab.addresses[5]) == "not-managed"
    status_tells_what_is_refused(lab)
    changed(lab, 6)
    assert outcome(lab, lab.addresses[5]) in {"opened", "already-open"}  # the worker may have come first: it is new
    assert lab.enroll(lab.addresses[0])[0]["state"] == "active"
    assert lab.pid_of("worker") == worker


def test_a_reload_with_other_settings_while_orders_are_open_loses_none(lab: Lab) -> None:
    open_ones = lab.addresses[1:5]
    lab.authority.set_knobs(REPLY_GREYLIST=100)
    lab.run_command("enroll", *open_ones[:2])
    lab.wait_for_log("reply-queued rcpt=<user2@org.example>")
    lab.authority.freeze()
    lab.run_command("enroll", *open_ones[2:])
    changed(lab, 6, contact=["pki@org.example"], limits={"connections": 2})
    lab.authority.thaw()
    changed(lab, 6, contact=[], limits={"connections": 3})
    lab.authority.reset_knobs()
    lab.postfix.flush()
    results = lab.enroll(*open_ones)
    assert {result["state"] for result in results} == {"active"}
    assert "internal-error" not in lab.log_text()


def test_the_configuration_in_force_is_a_whole_one(file: File) -> None:
    seen: list[Config] = [file.standing.current()]
    file.write(GOOD.replace("x@", "new@"))
    assert file.reloader.reload()
    seen.append(file.standing.current())
    assert [set(config.managed()) for config in seen] == [{"x@o.example"}, {"new@o.example"}]


def test_other_certificates_in_the_ca_bundle_count_from_the_hangup_on(lab: Lab) -> None:
    """The last one: afterwards the laboratory's authority counts as broken."""
    bundle, mailbox = lab.config_path.parent / "its-own-ca.pem", lab.addresses[6]
    bundle.write_bytes(lab.authority.ca_bundle.read_bytes())
    changed(lab, 7, ca_bundle=str(bundle))
    bundle.write_bytes(root().pem)
    changed(lab, 7)
    lab.run_command("enroll", mailbox)
    lab.wait_for_log("TLS certificate refused")
