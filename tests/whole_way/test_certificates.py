# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes out is opened by programs that are not ours."""

import json
import subprocess
from pathlib import Path

import pytest

from acme_milter.lab.system import Lab


def openssl(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["openssl", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def export(lab: Lab, mailbox: str, form: str, out: Path) -> tuple[list[Path], str]:
    done = lab.run_command("export", mailbox, "--format", form, "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    return [Path(file) for file in document["files"]], document["passphrase"]


@pytest.fixture
def issued(lab: Lab, mailbox: str) -> str:
    assert [row["state"] for row in lab.enroll(mailbox)] == ["active"]
    return mailbox


def test_the_chain_and_key_sign_encrypt_and_decrypt(lab: Lab, issued: str, tmp_path: Path) -> None:
    (chain, key), passphrase = export(lab, issued, "pem", tmp_path / "out")
    secret = tmp_path / "pass"
    secret.write_text(passphrase)
    unlock = ["-inkey", str(key), "-passin", f"file:{secret}"]
    signed = openssl("smime", "-sign", "-signer", str(chain), "-certfile", str(chain), *unlock, text="hello")
    (tmp_path / "signed").write_text(signed)
    roots = str(lab.directory / "testca" / "roots.pem")
    if not Path(roots).exists():
        roots = json.loads((lab.directory / "testca" / "ready.json").read_text())["trust_roots"]
    said = openssl("smime", "-verify", "-in", str(tmp_path / "signed"), "-CAfile", roots, "-purpose", "smimesign")
    assert said.strip() == "hello"
    assert issued in openssl("x509", "-in", str(chain), "-noout", "-ext", "subjectAltName")


@pytest.mark.parametrize("form", ["p12-modern", "p12-legacy"])
def test_openssl_opens_the_pkcs12_and_the_file_is_private(lab: Lab, issued: str, tmp_path: Path, form: str) -> None:
    (file,), passphrase = export(lab, issued, form, tmp_path / "out")
    legacy = ["-legacy"] if form == "p12-legacy" else []
    shown = openssl("pkcs12", "-in", str(file), "-passin", f"pass:{passphrase}", "-nodes", *legacy)
    assert "BEGIN PRIVATE KEY" in shown
    assert shown.count("BEGIN CERTIFICATE") >= 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert passphrase.encode() not in file.read_bytes()


def test_each_export_has_a_passphrase_of_its_own(lab: Lab, issued: str, tmp_path: Path) -> None:
    passphrases = {export(lab, issued, "p12-modern", tmp_path / str(n))[1] for n in range(3)}
    assert len(passphrases) == 3


def test_an_address_without_a_certificate_cannot_be_exported(lab: Lab, mailbox: str, tmp_path: Path) -> None:
    done = lab.run_command("export", mailbox, "--out", str(tmp_path))
    assert done.returncode == 1
    assert f"acme-milter enroll {mailbox}" in done.stderr


def test_enrolling_again_is_only_done_when_asked_for(lab: Lab, issued: str) -> None:
    assert "already-active" in lab.run_command("enroll", issued).stdout
    rows = json.loads(lab.run_command("enroll", "--again", "--wait", "--json", issued).stdout)["results"]
    assert [row["state"] for row in rows] == ["active"]
    assert [row["state"] for row in lab.status()["mailboxes"] if row["address"] == issued] == ["active"]


def test_an_unmanaged_address_is_refused_with_the_key_to_change(lab: Lab) -> None:
    done = lab.run_command("enroll", "nobody@org.example")
    assert done.returncode == 1
    assert "not a managed mailbox" in done.stderr
