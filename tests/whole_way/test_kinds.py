# SPDX-License-Identifier: GPL-3.0-or-later
"""Kinds of certificates through Postfix, every role and the command line, opened by a program that is not ours."""

import json
import subprocess
from pathlib import Path

from acme_milter.lab.system import Lab
from tests.whole_way.conftest import BROUGHT, PAIRS


def openssl(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["openssl", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def roots_of(lab: Lab) -> str:
    return str(lab.directory / "testca" / "trust-roots.pem")


def test_with_two_certificates_one_signs_and_the_other_one_is_encrypted_to(lab: Lab, tmp_path: Path) -> None:
    mailbox = f"user0@{PAIRS}"
    rows = lab.enroll(mailbox)
    assert [(row["usage"], row["state"]) for row in rows] == [("sign", "active"), ("encrypt", "active")]
    done = lab.run_command("export", mailbox, "--format", "pem", "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    files: dict[str, list[str]] = {}
    secrets: dict[str, str] = {}
    for one in (document, *document["further"]):
        assert all(f".{one['usage']}." in file for file in one["files"])
        files[one["usage"]] = one["files"]
        secrets[one["usage"]] = one["passphrase"]
    unlock = {}
    for usage, passphrase in secrets.items():
        (tmp_path / usage).write_text(passphrase)
        unlock[usage] = ["-inkey", files[usage][1], "-passin", f"file:{tmp_path / usage}"]
    chain = files["sign"][0]
    signed = openssl("smime", "-sign", "-signer", chain, "-certfile", chain, *unlock["sign"], text="hello")
    verified = openssl("smime", "-verify", "-purpose", "smimesign", "-CAfile", roots_of(lab), text=signed)
    assert verified.strip() == "hello"
    sealed = openssl("smime", "-encrypt", "-aes256", files["encrypt"][0], text="secret")
    opened = openssl("smime", "-decrypt", "-recip", files["encrypt"][0], *unlock["encrypt"], text=sealed)
    assert opened.strip() == "secret"
    purposes = openssl("x509", "-in", files["encrypt"][0], "-noout", "-purpose")
    assert "S/MIME signing : No" in purposes
    assert "S/MIME encryption : Yes" in purposes


def test_a_request_that_was_made_elsewhere_brings_a_certificate_for_a_key_that_never_was_here(
    lab: Lab, tmp_path: Path
) -> None:
    mailbox = f"user0@{BROUGHT}"
    key, csr, out = tmp_path / "own.key", tmp_path / "own.csr", tmp_path / "out"
    openssl(
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-subj", "/", "-out", str(csr),
        "-addext", f"subjectAltName=email:{mailbox}",
    )  # fmt: skip
    wrong = lab.run_command("cert", "request", f"user1@{BROUGHT}", "--csr", str(csr))
    assert (wrong.returncode, "subjectAltName" in wrong.stderr) == (1, True)
    lab.run_command("enroll", mailbox)
    told = json.loads(lab.run_command("mailbox", "why", mailbox, "--json").stdout)
    assert told["word"] in {"trying", "waiting"}
    taken = lab.run_command("cert", "request", mailbox, "--csr", str(csr), "--json")
    assert taken.returncode == 0, taken.stderr
    assert [row["state"] for row in lab.enroll(mailbox)] == ["active"]
    exported = lab.run_command("export", mailbox, "--out", str(out), "--json")
    assert exported.returncode == 0, exported.stderr
    (chain,) = json.loads(exported.stdout)["files"]
    signed = openssl("smime", "-sign", "-signer", chain, "-certfile", chain, "-inkey", str(key), text="hello")
    assert openssl("smime", "-verify", "-CAfile", roots_of(lab), text=signed).strip() == "hello"
    refused = lab.run_command("export", mailbox, "--format", "p12-modern", "--out", str(out))
    assert (refused.returncode, "never here" in refused.stderr) == (1, True)
