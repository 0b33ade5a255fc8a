# SPDX-License-Identifier: GPL-3.0-or-later
"""`enroll` without a worker or without addresses; hang-ups to `run` and to the roles."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from acme_milter.cli.enroll import enroll
from acme_milter.ipc.server import FrameServer
from acme_milter.keys.wrapping_key import create_wrapping_key_file
from tests.forked_commands import run_forked


def configured(directory: Path) -> Path:
    path = directory / "acme-milter.yaml"
    key = directory / "wrapping.key"
    create_wrapping_key_file(key)
    path.write_text(
        f"store: {{url: 'sqlite:///{directory}/store.db'}}\n"
        "authorities: {ca: {directory: 'https://ca.example/d', agree_tos: true}}\n"
        "domains: {org.example: {mailboxes: {list: [alice@org.example]}}}\n"
        f"milter: {{socket: 'unix:{directory}/m.sock'}}\n"
        f"worker: {{intake_socket: {directory}/i.sock, control_socket: {directory}/c.sock}}\n"
        f"keys: {{socket: {directory}/k.sock, wrapping_key: {{file: {key}}}, pool: {{rsa3072: 0}}}}\n"
    )
    path.chmod(0o600)
    return path


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "acme_milter", "--config", str(config), *arguments]


@pytest.mark.parametrize(
    ("arguments", "given", "words"),
    [
        (("-",), "", "no address was given"),
        (("-",), "# a comment\n\n", "no address"),
        (("--timeout", "-1", "a"), "", ">=0"),
    ],
)
def test_asking_for_nothing_is_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], given: str, words: str) -> None:
    run = command(configured(tmp_path), "enroll", *arguments)
    done = run_forked(run, given=given)
    assert done.returncode == 2
    assert words in done.stderr


def test_without_a_worker_it_names_the_command_that_starts_one(tmp_path: Path) -> None:
    config = configured(tmp_path)
    run = command(config, "enroll", "alice@org.example")
    done = run_forked(run)
    assert done.returncode == 75
    assert f"start it with: acme-milter --config {config} run" in done.stderr


@pytest.mark.parametrize(("mode", "told"), [("observe", True), ("enforce", False)])
def test_under_mode_observe_it_says_that_no_certificate_will_come(tmp_path: Path, mode: str, told: bool) -> None:
    config = configured(tmp_path)
    config.write_text(config.read_text() + f"defaults: {{mode: {mode}}}\n")

    def handle(header: dict[str, object], _body: bytes) -> tuple[dict[str, object], bytes]:
        return {"results": [{"address": "alice@org.example", "outcome": "opened", "id": "1"}]}, b""

    with FrameServer(tmp_path / "c.sock", 0o600, handle, threads=1):
        run = command(config, "enroll", "alice@org.example")
        done = run_forked(run)
    assert (done.returncode, done.stdout) == (0, "alice@org.example: opened\n")
    assert ("set mode: enforce and reload" in done.stderr) is told


def test_who_stops_waiting_is_told_that_the_orders_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    opened = [{"address": "alice@org.example", "outcome": "opened", "id": "1"}]
    monkeypatch.setattr("acme_milter.cli.enroll.ask_for", lambda *_arguments, **_options: opened)
    monkeypatch.setattr("acme_milter.cli.ordering.follow", interrupted)
    done = CliRunner().invoke(enroll, ["--wait", "alice@org.example"], obj=configured(tmp_path))
    assert done.exit_code == 75
    assert "they go on without me" in done.output


def log_when(path: Path, words: str, count: int = 1) -> str:
    give_up = time.monotonic() + 60
    while path.read_text().count(words) < count:
        assert time.monotonic() < give_up, path.read_text()
        time.sleep(0.05)
    return path.read_text()


def test_a_hangup_ends_nothing_and_has_the_worker_read_its_configuration(tmp_path: Path) -> None:
    config, log = configured(tmp_path), tmp_path / "log"
    with log.open("wb") as stream:
        run = subprocess.Popen(command(config, "run"), stderr=stream)
    try:
        log_when(log, "role-ready", 3)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        assert len(children) == 3
        for child in children:
            os.kill(int(child), signal.SIGHUP)
        log_when(log, "config-loaded", 1)
        run.send_signal(signal.SIGHUP)
        log_when(log, "config-loaded", 2)
        assert Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split() == children
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0
    finally:
        run.kill()
        run.wait()
    assert log.read_text().count("role-stopped") == 3
    assert not list(tmp_path.glob("*.sock"))
