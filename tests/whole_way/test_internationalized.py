# SPDX-License-Identifier: GPL-3.0-or-later
"""A mailbox whose name is not ASCII gets its certificate like any other (RFC 6531, RFC 9598)."""

import subprocess
from pathlib import Path

import pytest

from acme_milter.lab.system import Lab
from tests.whole_way.conftest import INTERNATIONALIZED


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("jürgen@müller.example", f"jürgen@{INTERNATIONALIZED}"),
        (f"用户@{INTERNATIONALIZED}", f"用户@{INTERNATIONALIZED}"),
        ("plain@MÜLLER.example", f"plain@{INTERNATIONALIZED}"),
    ],
)
def test_the_certificate_names_the_mailbox_as_the_standard_wants_it(
    lab: Lab, tmp_path: Path, written: str, address: str
) -> None:
    (row,) = lab.enroll(written)
    assert (row["state"], row["address"]) == ("active", address)
    assert lab.postfix.inbox(address) == []
    lab.run_command("export", written, "--format", "pem", "--out", str(tmp_path))
    (file,) = tmp_path.glob("*.chain.pem")
    command = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-nameopt", "utf8", "-in", str(file)]
    shown = subprocess.run(command, capture_output=True, check=True).stdout.decode("utf-8")
    assert ("SmtpUTF8Mailbox" in shown) is not address.isascii()
    assert address.rpartition("@")[2] in shown
