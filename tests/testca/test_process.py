# SPDX-License-Identifier: GPL-3.0-or-later
"""The process: announces itself when it is ready, and ends quickly and cleanly."""

import json
import smtplib
import stat
import subprocess
import sys
import threading
from pathlib import Path

from tests.testca.conftest import Enrollment, start_ca
from tests.testca.organization import Organization


def test_it_ends_within_two_seconds_with_everything_open(tmp_path: Path, organization: Organization) -> None:
    running = start_ca(tmp_path, organization)
    client = running.client()
    client.register()
    enrollment = Enrollment(running, client, "ending@org.example")
    enrollment.place()
    enrollment.fetch_authorization()
    enrollment.receive()
    reader = threading.Thread(target=lambda: running.history("revoked", wait=20))
    reader.start()
    with smtplib.SMTP("127.0.0.1", running.announced["mx_port"], timeout=10) as session:
        session.ehlo()
        running.process.terminate()
        out, errors = running.process.communicate(timeout=10)
        session.close()
    assert (running.process.returncode, out, errors) == (0, "", "")
    reader.join(5)
    assert not reader.is_alive()
    client.close()
    running.session.close()


def test_its_keys_outlive_it(tmp_path: Path, organization: Organization) -> None:
    first = start_ca(tmp_path, organization)
    roots = Path(first.announced["trust_roots"]).read_bytes()
    records = first.session.get(f"{first.announced['control']}/dns").json()["txt"]
    assert first.stop() < 2
    second = start_ca(tmp_path, organization)
    assert Path(second.announced["trust_roots"]).read_bytes() == roots
    again = second.session.get(f"{second.announced['control']}/dns").json()["txt"]
    assert again["rsa1._domainkey.ca.example"] == records["rsa1._domainkey.ca.example"]
    second.stop()
    for key in (tmp_path / "state").glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_announcement_says_where_everything_is(tmp_path: Path, organization: Organization) -> None:
    running = start_ca(tmp_path, organization)
    announced = json.loads((tmp_path / "directory.json").read_text())
    assert {"directory", "ca_bundle", "mx_port", "dns_port", "control"} <= set(announced)
    assert announced["pid"] == running.process.pid
    running.stop()


def test_a_port_in_use_is_said_plainly(tmp_path: Path, organization: Organization) -> None:
    taken = f"127.0.0.1:{organization.mx_port}"
    command = [sys.executable, "-m", "acme_milter.testca", "--smtp-target", taken, "--reply-dkim", "off"]
    command += ["--state-dir", str(tmp_path), "--mx-listen", taken]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr
