# SPDX-License-Identifier: GPL-3.0-or-later
"""The wrapping key of a new installation, and of one that has lost it."""

from collections.abc import Callable

from acme_milter.cli.exit_codes import ExitCode
from acme_milter.lab.system import Lab


def test_a_new_installation_makes_its_own_key_and_asks_for_a_backup(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab()
    key = lab.directory / "wrapping.key"
    assert key.stat().st_mode & 0o777 == 0o600
    line = lab.wait_for_log("key-made")
    assert "back it up" in line
    assert key.read_text().strip() not in lab.log_text()


def test_a_store_whose_key_was_lost_is_left_alone_and_says_which_key_it_wants(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab()
    key = lab.directory / "wrapping.key"
    assert [row["state"] for row in lab.enroll()] == ["active"]
    right = key.read_bytes()
    lab.stop_roles()
    key.unlink()
    done = lab.run_command("run", timeout=60)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "put the right wrapping key back" in done.stderr
    key.write_bytes(right)
    lab.start_roles()
    assert [row["state"] for row in lab.status()["mailboxes"]] == ["active"]
