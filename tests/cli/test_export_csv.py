# SPDX-License-Identifier: GPL-3.0-or-later
"""`export --format gmail-csv | intune-csv`, and the pages about files: their commands and their YAML are pasted."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from acme_milter.config.loader import load
from tests.cli.conftest import Office
from tests.forked_commands import run_forked

ALICE, NEVER = "alice@org.example", "never@org.example"
DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("delivery-files.md", "signing-milter.md")


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def directories(tmp_path: Path) -> tuple[str, ...]:
    return "--out", str(tmp_path / "files"), "--passphrases", str(tmp_path / "list")


@pytest.mark.parametrize("dialect", ["p12-modern", "p12-legacy"])
def test_google_gets_user_path_and_password_of_files_that_lie_elsewhere(
    office: Office, tmp_path: Path, dialect: str
) -> None:
    document = office.document(
        "export", ALICE, "--format", "gmail-csv", *directories(tmp_path), "--p12-format", dialect
    )
    assert document["schema"] == "acme-milter/export-csv/1"
    (row,) = rows(tmp_path / "list" / "gmail.csv")
    assert list(row) == ["user", "path", "password"]
    assert (row["user"], row["path"]) == (ALICE, f"{ALICE}.p12")
    opened = load_pkcs12((tmp_path / "files" / row["path"]).read_bytes(), row["password"].encode())
    assert opened.key is not None
    assert opened.cert is not None
    assert f"{opened.cert.certificate.serial_number:x}" == document["files"][0]["serial"]
    assert len(opened.additional_certs) >= 1
    assert row["password"] not in json.dumps(document)
    for directory in ("files", "list"):
        (file,) = (tmp_path / directory).iterdir()
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_intune_gets_a_line_for_each_purpose(office: Office, tmp_path: Path) -> None:
    office.run("export", ALICE, "--format", "intune-csv", *directories(tmp_path))
    lines = rows(tmp_path / "list" / "intune.csv")
    assert [line["intendedPurpose"] for line in lines] == ["smimeEncryption", "smimeSigning"]
    for line in lines:
        opened = load_pkcs12((tmp_path / "files" / line["file"]).read_bytes(), line["password"].encode())
        assert opened.cert is not None
        leaf: x509.Certificate = opened.cert.certificate
        assert line["userPrincipalName"] == ALICE
        assert line["thumbprint"] == leaf.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 as Windows names it
        assert line["expirationDateTime"] == f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"


def test_a_mailbox_without_a_certificate_keeps_no_other_back(office: Office, tmp_path: Path) -> None:
    options = ("--format", "gmail-csv", *directories(tmp_path), "--yes")
    _, err = office.run("export", NEVER, ALICE, *options, code=3)
    assert f"{NEVER} has no active certificate; order one with: acme-milter enroll {NEVER}" in err
    assert [row["user"] for row in rows(tmp_path / "list" / "gmail.csv")] == [ALICE]


def test_a_mailbox_that_is_named_twice_is_exported_once(office: Office, tmp_path: Path) -> None:
    twice = (ALICE, "alice@ORG.example", NEVER, "never@ORG.example")
    document = office.document("export", *twice, "--format", "gmail-csv", *directories(tmp_path), "--yes", code=3)
    assert len(document["files"]) == 1
    assert [failure["address"] for failure in document["failures"]] == [NEVER]
    (row,) = rows(tmp_path / "list" / "gmail.csv")
    assert load_pkcs12((tmp_path / "files" / row["path"]).read_bytes(), row["password"].encode()).key is not None


def test_where_there_is_nothing_to_export_nothing_is_written(office: Office, tmp_path: Path) -> None:
    office.run("export", NEVER, "--format", "gmail-csv", *directories(tmp_path), code=1)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_is_given_out_once_is_kept_until_its_passphrase_has_been_written(
    office: Office, tmp_path: Path
) -> None:
    quentin = "quentin@org.example"
    office.run("cert", "issue", quentin, "--wait", "--timeout", "60")
    document = yaml.safe_load(office.lab.config_path.read_text(encoding="utf-8"))
    document["domains"]["org.example"]["custody"] = "deliver_once"
    config = office.lab.config_path.with_name("once.yaml")
    config.write_text(yaml.safe_dump(document))
    config.chmod(0o600)
    (tmp_path / "list" / "gmail.csv").mkdir(parents=True)  # in the way

    def export(*options: str) -> tuple[int, str]:
        command = ["export", quentin, "--out", str(tmp_path / "files"), *options]
        done = run_forked([sys.executable, "-m", "acme_milter", "--config", str(config), *command])
        return done.returncode, done.stderr

    to_list = ("--format", "gmail-csv", "--passphrases", str(tmp_path / "list"))
    assert export(*to_list)[0] == 1
    (tmp_path / "list" / "gmail.csv").rmdir()
    assert export(*to_list) == (0, "Keep the list apart from the files until both are where they are used.\n")
    code, said = export()
    assert (code, "the key was destroyed" in said) == (1, True)


@pytest.mark.parametrize(("out", "words"), [("x", "x"), ("x", "x/y"), ("x/y", "x"), ("x", "link")])
def test_files_and_passphrases_in_one_another_are_refused(office: Office, tmp_path: Path, out: str, words: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    where = ("--out", str(tmp_path / out), "--passphrases", str(tmp_path / words))
    assert "never travel the same way" in office.run("export", ALICE, "--format", "gmail-csv", *where, code=2)[1]
    assert list((tmp_path / "x").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((ALICE, "--format", "gmail-csv"), "needs --passphrases"),
        ((ALICE, "--format", "gmail-csv", "--passphrases", "/nowhere", "--history"), "--history is not for gmail-csv"),
        ((ALICE, "--passphrases", "/nowhere"), "p12-modern prints the passphrase"),
        ((ALICE, NEVER), "one mailbox at a time"),
    ],
)
def test_options_that_do_not_fit_are_named(
    office: Office, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in office.run("export", *options, "--out", str(tmp_path / "out"), code=2)[1]


def test_many_mailboxes_want_yes(office: Office, tmp_path: Path) -> None:
    _, err = office.run("export", ALICE, NEVER, "--format", "gmail-csv", *directories(tmp_path), code=2)
    assert err.rstrip().endswith("--yes")


@pytest.mark.parametrize("page", PAGES)
def test_the_configuration_on_a_page_is_valid(tmp_path: Path, page: str) -> None:
    (block,) = blocks(page, "yaml")
    config = tmp_path / "acme-milter.yaml"
    config.write_text(
        f"""
version: 1
store: {{url: "sqlite:///{tmp_path}/store.db"}}
authorities: {{ca: {{directory: "https://ca.example/directory", agree_tos: true}}}}
domains:
  example.org:
    mailboxes: {{list: [alice@example.org]}}
{textwrap.indent(block, "    ")}"""
    )
    config.chmod(0o600)
    policy = load(config).policy_for("alice@example.org")
    assert policy is not None
    (target,) = policy.deliver
    assert target.to == {"delivery-files.md": "files", "signing-milter.md": "signing-milter"}[page]


def test_the_commands_about_exports_can_be_pasted(office: Office, tmp_path: Path) -> None:
    text = "".join(blocks("delivery-files.md", "sh")).replace("alice@example.org bob@example.org", ALICE)
    lines = [line for line in text.splitlines() if line.startswith("acme-milter export")]
    assert len(lines) == 2
    environment = os.environ | {"ACME_MILTER_CONFIG": str(office.lab.config_path)}
    for line in lines:
        run = [sys.executable, "-m", "acme_milter", *shlex.split(line)[1:]]
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (line, done.stderr)
    assert sorted(file.name for file in (tmp_path / "list").iterdir()) == ["gmail.csv", "intune.csv"]


def test_the_table_of_the_page_compiles(tmp_path: Path) -> None:
    table = "alice@example.org  /etc/signing-milter/certs/alice@example.org-cert+key.pem"
    assert table in (DOCS / "signing-milter.md").read_text(encoding="utf-8")
    (tmp_path / "signingtable").write_text(table + "\n")
    lines = [line for block in blocks("signing-milter.md", "sh") for line in block.splitlines() if "cdb" in line]
    for line in lines:
        done = subprocess.run(shlex.split(line), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == table.split()[1]
