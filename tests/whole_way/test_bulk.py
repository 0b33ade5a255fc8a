# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk runs from the command line to the certificate, on the whole mail system, and through what interrupts them."""

import csv
import io
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from acme_milter.lab.processes import wait_until
from acme_milter.lab.system import Lab
from acme_milter.report.bulk_progress import bulk_status
from acme_milter.store.database import Database

SLOW = {"FINALIZE_ASYNC": 100, "FINALIZE_POLLS": 1}


def bulk(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lab.run_command("bulk", *arguments)


@contextmanager
def watched(lab: Lab) -> Iterator[Callable[[], dict[str, Any]]]:
    """What `bulk status` says of the newest run, without a process for each look."""
    config = lab.config
    database = Database(config.store.url)

    def look() -> dict[str, Any]:
        with database.read() as connection:
            return bulk_status(connection, config, datetime.now(UTC))

    yield look
    database.close()


def planned(lab: Lab, *arguments: str) -> Path:
    path = lab.directory / "plan.json"
    made = bulk(lab, "plan", *arguments, "-o", str(path))
    assert made.returncode == 0, made.stderr
    assert "nothing is ordered yet; next: acme-milter" in made.stdout
    return path


def reported(lab: Lab) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(bulk(lab, "report", "--csv").stdout)))


def test_a_run_goes_on_after_a_kill_a_pause_and_ctrl_c(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab(mailboxes=12, knobs=SLOW, authority={"limits": {"in_flight": 3}})
    plan = planned(lab)
    assert len(json.loads(plan.read_text())["mailboxes"]) == 12
    # What a shell has started in the background ignores Ctrl-C, and hands that on.
    command = ["env", "--default-signal=INT", *lab.command("bulk", "run", str(plan), "--yes")]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "certificate-issued" in lab.log_text(), "the first certificate", timeout=40)
    lab.kill_role("worker")
    lab.wait_for_roles()
    with watched(lab) as look:
        before = look()["outcomes"]["active"]
        wait_until(lambda: look()["outcomes"]["active"] > before, "a certificate after the kill", timeout=60)
        lab.authority.freeze()  # or a slow machine would see the whole run done before the pause
        watcher.send_signal(signal.SIGINT)
        out, err = watcher.communicate(timeout=90)
        assert watcher.returncode == 75, (out, err)
        assert "is paused; what is open goes to its end" in err
        assert "bulk resume" in err
        lab.authority.thaw()
        wait_until(lambda: not look()["outcomes"]["open"], "what is open to end", timeout=60)
        at_rest = look()
    assert at_rest["run"]["state"] == "paused"
    assert at_rest["outcomes"]["waiting"] > 0
    resumed = bulk(lab, "resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "12/12 active" in resumed.stdout
    report = reported(lab)
    assert [row["outcome"] for row in report] == ["active"] * 12
    assert all(row["serial"] and row["challenge_queue_id"] and row["reply_queue_id"] for row in report)


def test_one_command_replaces_everything_and_revokes_the_old_ones_afterwards(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab(mailboxes=3)
    first = bulk(lab, "run", str(planned(lab)), "--limit", "2", "--yes")
    assert first.returncode == 0, first.stdout + first.stderr
    before = {row["address"]: row["serial"] for row in reported(lab)}
    assert len(before) == 2
    serials = lab.directory / "serials"
    serials.write_text("\n".join(serial.upper() for serial in before.values()))
    done = bulk(lab, "replace", "--serials", str(serials), "--revoke", "superseded", "--run", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {row["address"]: row["serial"] for row in reported(lab)}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    for serial in before.values():
        wait_until(lambda serial=serial: f"serial={serial}" in lab.log_text(), "the revocation")  # type: ignore[misc]  # mypy cannot tell a lambda's default
    log = lab.log_text()
    assert log.index("bulk-done") < log.index("certificate-revoked")
    assert all(f"certificate-revoked rcpt=<{address}>" in log for address in before)
    assert not any(f"serial={serial} " in log for serial in after.values())
