# SPDX-License-Identifier: GPL-3.0-or-later
"""What contrib/ gives to administrators works as it stands: snippets in a real Postfix, units in systemd's eyes."""

import configparser
import re
import smtplib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from acme_milter.lab.opendkim import REPLY_NAMES, OpenDkimSigner, ask_opendkim
from acme_milter.lab.postfix_config import MILTER_PARAMETERS, postfix_milter_address
from acme_milter.lab.processes import free_port

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
MAIN = (CONTRIB / "postfix" / "main.cf.snippet").read_text()
MASTER = (CONTRIB / "postfix" / "master.cf.snippet").read_text()
UNITS = sorted((CONTRIB / "systemd").glob("*.service"))
CHALLENGE = (
    b"From: acme@ca.example\r\nTo: alice@org.example\r\n"
    b"Subject: ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME=\r\n\r\nA challenge.\r\n"
)


def start_with_snippets(room: Any, **options: Any) -> int:
    """Start Postfix with both snippets and main.cf's milters at the MX; returns the port of the reply listener."""
    port = free_port()
    # The lab has no chroot and cannot share a fixed port: nothing else of the snippet is changed.
    assert "127.0.0.1:10028 inet n - y - - smtpd\n" in MASTER
    master = MASTER.replace("127.0.0.1:10028 inet n - y", f"127.0.0.1:{port} inet n - n")
    main = MAIN + options.pop("main_extra", "")
    room.start(milter_socket=None, main_extra=main, master_extra=master, **options)
    return port


def test_the_main_cf_snippet_attaches_the_milter(unstarted: Any) -> None:
    start_with_snippets(unstarted)
    unstarted.worker.disposition = lambda _: {"disposition": "discard", "reason": "test"}
    assert unstarted.send(CHALLENGE, "alice@org.example")[0] == 250
    assert len(unstarted.worker.seen) == 1
    unstarted.milter.kill()
    assert unstarted.send(CHALLENGE, "alice@org.example")[0] == 250
    assert unstarted.delivered("alice@org.example") == [CHALLENGE]
    warnings = [line for line in unstarted.postfix.log_text().splitlines() if "warning" in line]
    # Postfix compares a new file's time with the machine's: on a virtual machine they differ now and then.
    others = [line for line in warnings if "connect to Milter service" not in line and "system clock" not in line]
    assert others == []


def test_the_snippet_and_the_laboratory_treat_a_failing_milter_alike() -> None:
    assert f"acme_milter = {{ unix:acme-milter/acme-milter.sock, {MILTER_PARAMETERS} }}\n" in MAIN


def test_the_readme_gives_the_snippets_lines() -> None:
    readme = (CONTRIB / "postfix" / "README.md").read_text()
    line = next(line for line in MAIN.splitlines() if line.startswith("acme_milter = "))
    assert f"postconf -e '{line}'\n" in readme
    for name in REPLY_NAMES:
        assert len(re.findall(rf"[, ]{name}[,\n]", readme)) == 2


def test_the_reply_listener_asks_the_signer_and_never_us(unstarted: Any, tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key_file = tmp_path / "dkim.pem"
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().splitlines()
    record = "v=DKIM1; k=rsa; p=" + "".join(public[1:-1])
    with OpenDkimSigner(tmp_path / "signer", {"org.example": ("s", key_file)}) as signer:
        address = postfix_milter_address(signer.socket, Path("/"))
        extra = (
            f"acme_milter_reply_signer = {address}\nheader_checks = regexp:{{{{/^Subject:/ REPLACE Subject: no}}}}\n"
        )
        port = start_with_snippets(unstarted, main_extra=extra)
        raw = CHALLENGE.replace(b"From: acme@ca.example", b"From: bob@org.example")
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
            smtp.sendmail("bob@org.example", ["alice@org.example"], raw)
        unstarted.postfix.wait_for_empty_queue()
    assert unstarted.worker.seen == []
    [delivered] = unstarted.postfix.inbox("alice@org.example")
    signed = delivered[delivered.index(b"DKIM-Signature:") :].replace(b"\n", b"\r\n")
    assert b"Subject: ACME:" in signed
    names = re.search(rb"\sh=([^;]+);", signed)
    assert names is not None
    listed = re.sub(rb"\s", b"", names[1]).decode().lower().split(":")
    assert {name.lower() for name in REPLY_NAMES} <= set(listed)
    opinion = ask_opendkim(tmp_path / "verifier", signed, {"s._domainkey.org.example": record})
    assert opinion.passed, opinion.text


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_each_role_has_a_unit_that_closes_what_it_does_not_need(unit: Path, tmp_path: Path) -> None:
    role = unit.stem.removeprefix("acme-milter-")
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # configparser's own way to keep the case of keys
    parser.read_string(unit.read_text())
    service = parser["Service"]
    assert service["ExecStart"].endswith(f"/acme-milter.yaml {role}")
    assert service["User"] != "root"
    assert (service.get("PrivateNetwork") == "yes") is (role != "worker")
    assert service["SyslogFacility"] == "mail"  # beside Postfix's lines, as docs/gate.md says
    assert service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    # It is the one to know its own keys.
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/usr/local/bin/acme-milter", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_every_role_has_a_unit() -> None:
    assert [unit.stem for unit in UNITS] == ["acme-milter-keyd", "acme-milter-milter", "acme-milter-worker"]
