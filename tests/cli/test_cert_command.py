# SPDX-License-Identifier: GPL-3.0-or-later
"""`cert list | show | issue | renew | revoke | export | import` on a real store with a real worker and keyd."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    load_key_and_certificates,
    serialize_key_and_certificates,
)
from cryptography.x509.oid import NameOID

from acme_milter.lab.processes import wait_until
from tests.cli.conftest import Office

ALICE = "alice@org.example"
DAY = timedelta(days=1)
PASSPHRASE = "a passphrase that somebody chose"


def serials(office: Office, *options: str) -> dict[str, str]:
    document = office.document("cert", "list", *options)
    assert document["schema"] == "acme-milter/cert-list/1"
    return {row["serial"]: row["address"] for row in document["certificates"]}


def test_the_list_has_what_is_in_use_unless_told_otherwise(office: Office) -> None:
    in_use = office.document("cert", "show", ALICE)["serial"]
    assert in_use in serials(office)
    replaced = serials(office, "--state", "superseded")
    assert ALICE in replaced.values()
    assert in_use not in replaced
    assert serials(office, "--domain", "observed.example") == {}
    assert serials(office, "--issued-before", "2020-01-01") == {}
    assert in_use in serials(office, "--issued-before", "2999-01-01", "--authority", "testca", "--expiring", "60w")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--authority", "nowhere"), 1, "no authority nowhere is configured"),
        (("--expiring", "soon"), 2, "must be a duration such as 12h, 30d or 2w"),
        (("--issued-before", "yesterday"), 2, "must be a day such as 2026-05-04"),
    ],
)
def test_a_condition_that_makes_no_sense_is_named(
    office: Office, options: tuple[str, ...], code: int, words: str
) -> None:
    assert words in office.run("cert", "list", *options, code=code)[1]


def test_show_takes_a_serial_in_any_spelling_and_prints_pem_alone(office: Office) -> None:
    shown = office.document("cert", "show", ALICE)
    assert shown["schema"] == "acme-milter/cert/1"
    serial = shown["serial"].upper().rjust(34, "0")
    spelled = ":".join(serial[place : place + 2] for place in range(0, len(serial), 2))
    pem, _ = office.run("cert", "show", spelled, "--pem")
    assert f"{x509.load_pem_x509_certificates(pem.encode())[0].serial_number:x}" == shown["serial"]


def test_an_unknown_serial_is_status_1_with_the_command_that_lists(office: Office) -> None:
    assert "list them with: acme-milter cert list" in office.run("cert", "show", "abc", code=1)[1]


@pytest.mark.parametrize(
    "command", [("issue",), ("renew",), ("revoke", "--reason", "superseded")], ids=lambda command: command[0]
)
def test_more_than_one_mailbox_wants_yes_and_says_the_line(office: Office, command: tuple[str, ...]) -> None:
    out, err = office.run("cert", *command, "bob@org.example", "carol@org.example", code=2)
    assert out == ""
    assert "2 mailboxes" in err
    assert err.rstrip().endswith("--yes")


def test_issue_and_renew_bring_a_certificate_each(office: Office) -> None:
    issued = office.document("cert", "issue", "bob@org.example", "--wait", "--timeout", "60")
    assert issued["schema"] == "acme-milter/cert-issue/1"
    renewed = office.document("cert", "renew", "bob@org.example", "--wait", "--timeout", "60")
    assert renewed["schema"] == "acme-milter/cert-renew/1"
    first, second = issued["results"][0], renewed["results"][0]
    assert (first["state"], second["state"]) == ("active", "active")
    assert first["serial"] != second["serial"]
    assert office.document("cert", "show", "bob@org.example")["serial"] == second["serial"]


def test_renewing_what_is_not_there_names_the_command_that_orders_it(office: Office) -> None:
    _, err = office.run("cert", "renew", "carol@org.example", code=1)
    assert "order one with: acme-milter cert issue carol@org.example" in err


def test_revoking_is_done_by_the_authority_and_told_in_the_timeline(office: Office) -> None:
    serial = office.document("cert", "issue", "dave@org.example", "--wait")["results"][0]["serial"]
    document = office.document("cert", "revoke", serial, "--reason", "key-compromise")
    assert document["schema"] == "acme-milter/cert-revoke/1"
    assert [row["outcome"] for row in document["results"]] == ["asked"]
    wait_until(lambda: office.document("cert", "show", serial)["revoked_at"] is not None, "the revocation")
    story = office.document("mailbox", "show", "dave@org.example")
    assert "certificate-revoked" in [entry["event"] for entry in story["timeline"]]
    assert any("asked for (reason key-compromise)" in entry["text"] for entry in story["timeline"])
    assert story["why"]["word"] == "revoked"
    assert serial in serials(office, "--state", "revoked")


def test_revoking_what_is_not_there_is_status_1(office: Office) -> None:
    assert "no certificate" in office.run("cert", "revoke", "abcd", "--reason", "superseded", code=1)[1]


def test_the_history_is_a_file_for_each_older_key_with_its_own_passphrase(office: Office, tmp_path: Path) -> None:
    document = office.document("cert", "export", ALICE, "--out", str(tmp_path / "out"), "--history")
    assert document["schema"] == "acme-milter/export/1"
    exported = [{"files": document["files"], **document}, *document["history"]]
    keys = set()
    for one in exported:
        (file,) = one["files"]
        key, leaf, _ = load_key_and_certificates(Path(file).read_bytes(), one["passphrase"].encode())
        assert leaf is not None
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        keys.add(key.private_numbers().private_value)
        assert f"{leaf.serial_number:x}" == one["serial"]
        assert Path(file).stat().st_mode & 0o777 == 0o600
    assert len(keys) == len({one["passphrase"] for one in exported}) == 2


def pkcs12(directory: Path, address: str, *, days: int = 90) -> Path:
    """A file as another product would have made it; it ends in so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC).replace(microsecond=0)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "elsewhere")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - 200 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(address)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "old.p12"
    encryption = BestAvailableEncryption(PASSPHRASE.encode())
    path.write_bytes(serialize_key_and_certificates(None, key, certificate, None, encryption))
    (directory / "passphrase").write_text(PASSPHRASE + "\n")
    return path


def take_in(office: Office, file: Path, address: str, *options: str, code: int = 0) -> tuple[str, str]:
    passphrase = ("--passphrase-file", str(file.with_name("passphrase")))
    return office.run("cert", "import", str(file), "--address", address, *passphrase, *options, code=code)


def test_a_certificate_from_elsewhere_is_in_use_exported_again_and_planned_at_the_policys_authority(
    office: Office, tmp_path: Path
) -> None:
    erin = "erin@org.example"
    taken: dict[str, Any] = json.loads(take_in(office, pkcs12(tmp_path, erin), erin, "--json")[0])
    assert taken["schema"] == "acme-milter/cert-import/1"
    shown = office.document("cert", "show", erin)
    assert (shown["serial"], shown["authority"], shown["state"]) == (taken["serial"], "imported", "active")
    exported = office.document("cert", "export", erin, "--out", str(tmp_path / "out"))
    key, leaf, _ = load_key_and_certificates(Path(exported["files"][0]).read_bytes(), exported["passphrase"].encode())
    assert key is not None
    assert leaf is not None
    assert f"{leaf.serial_number:x}" == taken["serial"]
    assert "is known already" in take_in(office, tmp_path / "old.p12", erin, code=1)[1]
    renewed = office.document("cert", "renew", erin, "--wait", "--timeout", "60")["results"][0]
    assert (renewed["state"], renewed["authority"]) == ("active", "testca")
    assert serials(office, "--state", "superseded")[taken["serial"]] == erin


def test_what_has_expired_comes_in_as_history_only(office: Office, tmp_path: Path) -> None:
    frank = "frank@org.example"
    file = pkcs12(tmp_path, frank, days=-10)
    assert "add --history" in take_in(office, file, frank, code=1)[1]
    take_in(office, file, frank, "--history")
    assert office.document("mailbox", "why", frank)["has_certificate"] is False
    assert len(office.document("mailbox", "show", frank)["keys"]["older"]) == 1
    assert len(office.document("cert", "export", frank, "--out", str(tmp_path / "out"), "--history")["history"]) == 1


@pytest.mark.parametrize(
    ("address", "passphrase", "words"),
    [
        ("carol@org.example", PASSPHRASE, "certificate wrong-name"),
        (ALICE, "another one", "the passphrase is wrong"),
        ("nobody@org.example", PASSPHRASE, "not a managed mailbox"),
    ],
)
def test_a_file_that_is_not_the_mailboxs_is_refused_and_its_passphrase_never_told(
    office: Office, tmp_path: Path, address: str, passphrase: str, words: str
) -> None:
    file = pkcs12(tmp_path, ALICE)
    file.with_name("passphrase").write_text(passphrase)
    out, err = take_in(office, file, address, code=1)
    assert words in err
    assert passphrase not in out + err + office.lab.log_text()
