# SPDX-License-Identifier: GPL-3.0-or-later
"""People come, leave and hand on their mailboxes, and everything follows by itself."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from acme_milter.lab.processes import wait_until
from acme_milter.lab.system import Lab

AFFILIATION_CHANGED = 3
BUILT_IN = "matches the built-in pattern postmaster@* (role address; include it by name to have it anyway)"
STAFF = {f"user{number}": f"id{number}" for number in range(8)}


class Office:
    """A laboratory whose mailboxes are listed in a personnel file."""

    def __init__(self, make: Callable[..., Lab], file: Path) -> None:
        self.file = file
        self.write(STAFF)
        self.lab = make(
            10,
            testca_options={"options": ["--first-pause", "0.3"]},
            sections={"sources": {"hr": {"type": "csv", "path": str(file)}}},
            policies={
                "org.example": {"source": "hr", "mailboxes": {}, "leavers": {"after": "0s", "revoke": True}},
            },
        )
        self.lab.wait_for_log("mailboxes-loaded source=hr number=8 joined=8")

    def write(self, staff: Mapping[str, str]) -> None:
        lines = ["address,id", *(f"{name}@org.example,{one}" for name, one in staff.items())]
        self.file.write_text("\n".join(lines) + "\n")
        os.utime(self.file, (0, 0))  # left alone since long ago

    def sync(self, staff: Mapping[str, str]) -> dict[str, Any]:
        self.write(staff)
        done = self.lab.run_command("mailbox", "sync", "--source", "hr", "--json")
        assert done.returncode == 0, done.stderr
        (part,) = json.loads(done.stdout)["sources"]
        found: dict[str, Any] = part
        return found

    def export(self, address: str, out: Path) -> tuple[str, bytes, bytes]:
        """Serial, certificate's public key and private key's public key, as a person gets them."""
        done = self.lab.run_command("export", address, "--format", "pem", "--out", str(out), "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        chain, key = (Path(file).read_bytes() for file in document["files"])
        leaf = x509.load_pem_x509_certificates(chain)[0]
        private = load_pem_private_key(key, document["passphrase"].encode())
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        mine = private.public_key().public_bytes(*form)
        return f"{leaf.serial_number:x}", leaf.public_key().public_bytes(*form), mine

    def wait_for_certificate(self, address: str) -> None:
        self.lab.wait_for_log(f"certificate-issued rcpt=<{address}>", timeout=30)

    def wait_for_revocation(self, serial: str) -> int:
        """The reason that the authority was given."""

        def revoked() -> list[int]:
            return [int(one["reason"]) for one in self.lab.authority.history("revoked") if one["serial"] == serial]

        wait_until(lambda: bool(revoked()), f"{serial} to be revoked", timeout=30)
        (reason,) = revoked()
        return reason


@pytest.fixture
def office(own_lab: Callable[..., Lab], tmp_path: Path) -> Office:
    return Office(own_lab, tmp_path / "hr.csv")


def test_joiners_leavers_and_heirs_of_mailboxes(office: Office, tmp_path: Path) -> None:
    lab = office.lab
    assert lab.status()["stages"].get("active", 0) == 0  # nobody of the first day is ordered for by himself

    # Somebody joins.
    joined = office.sync({**STAFF, "user8": "id8"})
    assert joined["joined"]["shown"] == [{"address": "user8@org.example", "as": "joiner"}]
    office.wait_for_certificate("user8@org.example")
    joiner, _, _ = office.export("user8@org.example", tmp_path / "joiner")

    # Somebody leaves: missing at one reading, gone at the next one, since there is no grace here.
    assert office.sync(STAFF)["missing"]["count"] == 1
    assert office.sync(STAFF)["left"]["shown"] == [{"address": "user8@org.example"}]
    assert office.wait_for_revocation(joiner) == AFFILIATION_CHANGED
    refused = lab.run_command("export", "user8@org.example", "--out", str(tmp_path / "late"))
    assert refused.returncode == 1
    assert "has left" in refused.stderr

    # Somebody's mailbox is given to another person.
    assert [row["state"] for row in lab.enroll("user1@org.example")] == ["active"]
    before, old_key, _ = office.export("user1@org.example", tmp_path / "before")
    heirs = {**STAFF, "user1": "id99"}
    assert office.sync(heirs)["reassigned"]["shown"] == [
        {"address": "user1@org.example", "from": "hr:id1", "to": "hr:id99"}
    ]
    assert office.wait_for_revocation(before) == AFFILIATION_CHANGED
    wait_until(
        lambda: lab.log_text().count("certificate-issued rcpt=<user1@org.example>") == 2, "the heir's certificate"
    )
    after, new_key, private = office.export("user1@org.example", tmp_path / "after")
    assert after != before
    assert new_key == private != old_key

    # A source that has lost everybody makes nobody leave, until a person says that it is true.
    emptied = office.sync({})
    assert [(hold["name"], hold["held"]) for hold in emptied["holds"]] == [("source-change:hr", True)]
    held = json.loads(lab.run_command("hold", "list", "--json").stdout)["holds"]
    assert [(one["name"], one["size"]) for one in held] == [("source-change:hr", 8)]
    unsure = lab.run_command("hold", "release", "source-change:hr")
    assert (unsure.returncode, "--yes" in unsure.stderr) == (2, True)
    released = lab.run_command("hold", "release", "source-change:hr", "--yes")
    assert (released.returncode, released.stdout) == (0, "source-change:hr: released\n")
    lab.wait_for_log("missing=8")
    assert "nothing is held" in lab.run_command("hold", "list").stdout


DOCUMENT = Path(__file__).parents[2] / "docs" / "leavers.md"


def test_the_commands_of_the_document_do_what_it_says(office: Office) -> None:
    assert [row["state"] for row in office.lab.enroll("user1@org.example")] == ["active"]
    office.sync({})
    blocks = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 7
    for line in lines:
        words = shlex.split(line.replace("alice@", "user1@"))
        assert words[0] == "acme-milter"
        done = office.lab.run_command(*words[1:])
        assert done.returncode == 0, f"{line}: {done.stderr}"
    office.lab.wait_for_log("certificate-revoked rcpt=<user1@org.example>")


def test_a_dry_run_needs_neither_worker_nor_store(tmp_path: Path) -> None:
    file = tmp_path / "hr.csv"
    file.write_text("address,id\nalice@org.example,1\npostmaster@org.example,2\n")
    os.utime(file, (0, 0))
    config = tmp_path / "acme-milter.yaml"
    config.write_text(
        f"""
version: 1
store: {{url: "sqlite:///{tmp_path}/store.db"}}
worker: {{control_socket: {tmp_path}/none.sock, verification: none}}
authorities: {{ca: {{directory: "https://ca.example/directory", agree_tos: true}}}}
sources: {{hr: {{type: csv, path: {file}}}, gone: {{type: csv, path: {tmp_path}/gone.csv}}}}
domains: {{org.example: {{source: [hr, gone]}}}}
"""
    )
    argv = [*Lab(tmp_path, domains={}).command("mailbox", "sync", "--dry-run")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout.splitlines() == [
        "list: 0 mailboxes; nothing has changed",
        "hr: 1 mailboxes; 1 joined, 1 excluded",
        "  + alice@org.example",
        f"  x postmaster@org.example {BUILT_IN}",
    ]
    assert f"{tmp_path}/gone.csv: No such file or directory" in done.stderr
    assert not (tmp_path / "store.db").exists()
