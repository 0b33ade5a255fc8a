# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks: what a program gets and in which way, what its end means, and that nothing secret is left or told."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acme_milter.config.delivery import HookTarget
from acme_milter.delivery.hook import HookDelivery
from acme_milter.delivery.target import Delivered, DeliveryFailed, Parcel
from acme_milter.store import mailbox_keys
from acme_milter.worker.delivery_keys import KeydFiles
from tests.delivery.depot import ALICE, Depot

ODD = '-q;$(id)"@org.example'

# Tells what it was given, beside itself: its arguments, environment, input, and the files that these name.
_TELL = """#!{python}
import json, os, sys
from pathlib import Path
paths = [value for name, value in os.environ.items() if value.startswith("/") and name.startswith("ACME_MILTER_")]
Path("{place}/told.json").write_text(json.dumps({{
    "argv": sys.argv[1:],
    "environment": dict(os.environ),
    "input": sys.stdin.read().splitlines(),
    "files": {{Path(path).name: Path(path).read_bytes().hex() for path in paths}},
    "modes": sorted({{oct(os.stat(path).st_mode & 0o777) for path in paths}}),
}}))
"""


@pytest.fixture(scope="module")
def depot() -> Iterator[Depot]:
    with Depot([], mailboxes=[ALICE]) as depot:
        yield depot


@pytest.fixture(scope="module")
def parcel(depot: Depot) -> Parcel:
    certificate = depot.issue()
    with depot.database.read() as connection:
        key = mailbox_keys.get(connection, certificate.key_id)
    return Parcel(
        certificate_id=certificate.id,
        address=ALICE,
        person_name="Alice\nÄ.",
        serial=certificate.serial,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        usage=certificate.usage,
        chain_pem=certificate.chain_pem,
        key=KeydFiles(keyd=depot.keyd, key=key, certificate=certificate),
    )


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def hook(*argv: str, **more: Any) -> HookDelivery:
    return HookDelivery(HookTarget.model_validate({"to": "hook", "argv": list(argv), **more}))


def told_by(parcel: Parcel, place: Path, *arguments: str, **more: Any) -> dict[str, Any]:
    program = place / "tell"
    program.write_text(_TELL.format(python=sys.executable, place=place))
    program.chmod(0o700)
    hook(str(program), *arguments, **more).deliver(parcel)
    told: dict[str, Any] = json.loads((place / "told.json").read_text())
    return told


def fails(parcel: Parcel, script: str, **more: Any) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        hook("/bin/sh", "-c", script, **more).deliver(parcel)
    return caught.value


def delivers(parcel: Parcel, script: str) -> Delivered:
    return hook("/bin/sh", "-c", script).deliver(parcel)


def test_the_files_are_opened_by_openssl_with_the_passphrase_of_the_input(
    parcel: Parcel, tmp_path: Path, temporary: Path
) -> None:
    told = told_by(parcel, tmp_path, "{p12}", "{address}")
    assert told["argv"] == [told["environment"]["ACME_MILTER_P12"], ALICE]
    p12 = tmp_path / "identity.p12"
    p12.write_bytes(bytes.fromhex(told["files"]["identity.p12"]))
    (passphrase,) = told["input"]
    command = ["openssl", "pkcs12", "-in", str(p12), "-passin", "stdin", "-nodes"]
    shown = subprocess.run(command, input=passphrase + "\n", capture_output=True, text=True, check=True).stdout
    assert "BEGIN PRIVATE KEY" in shown
    assert shown.count("BEGIN CERTIFICATE") == 2
    assert list(temporary.iterdir()) == []


def test_the_passphrase_is_in_no_argument_no_environment_and_no_file(
    parcel: Parcel, tmp_path: Path, temporary: Path
) -> None:
    told = told_by(parcel, tmp_path, "{p12}", "{p12_legacy}", "{pem}", formats=["pem", "p12-modern", "p12-legacy"])
    assert len(set(told["input"])) == 3
    seen = json.dumps([told["argv"], told["environment"], told["files"]])
    assert not [secret for secret in told["input"] if secret in seen or secret.encode().hex() in seen]
    assert told["modes"] == ["0o600"]
    assert told["environment"]["ACME_MILTER_FORMATS"] == "pem p12-modern p12-legacy"


def test_a_pem_key_is_opened_by_the_first_line(parcel: Parcel, tmp_path: Path, temporary: Path) -> None:
    told = told_by(parcel, tmp_path, "{pem}", formats=["pem", "p12-modern"])
    key = tmp_path / "key.pem"
    key.write_bytes(bytes.fromhex(told["files"]["key.pem"]))
    command = ["openssl", "pkey", "-in", str(key), "-passin", "stdin", "-noout", "-text"]
    subprocess.run(command, input=told["input"][0] + "\n", capture_output=True, text=True, check=True)


def test_the_chain_is_left_out_where_it_is_not_wanted(parcel: Parcel, tmp_path: Path, temporary: Path) -> None:
    chains = {
        wish: bytes.fromhex(told_by(parcel, tmp_path, "{chain}", chain=wish)["files"]["chain.pem"])
        for wish in ("include", "omit")
    }
    assert {wish: pem.count(b"BEGIN CERTIFICATE") for wish, pem in chains.items()} == {"include": 2, "omit": 1}


def test_the_environment_says_whose_it_is_and_holds_nothing_of_the_workers(
    parcel: Parcel, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/secrets")
    environment = told_by(parcel, tmp_path, name="import")["environment"]
    assert environment["ACME_MILTER_ADDRESS"] == ALICE
    assert environment["ACME_MILTER_SERIAL"] == parcel.serial
    assert environment["ACME_MILTER_TARGET"] == "import"
    assert environment["ACME_MILTER_USAGE"] == "dual"
    assert environment["ACME_MILTER_PERSON"] == "Alice Ä."
    assert "CREDENTIALS_DIRECTORY" not in environment


def test_an_odd_address_is_one_argument_and_never_a_command_or_an_option(
    parcel: Parcel, tmp_path: Path, temporary: Path
) -> None:
    odd = dataclasses.replace(parcel, address=ODD)
    told = told_by(odd, tmp_path, "for {address}", "--user={local}")
    assert told["argv"] == [f"for {ODD}", "--user=" + ODD.rpartition("@")[0]]
    with pytest.raises(DeliveryFailed, match="ACME_MILTER_ADDRESS") as caught:
        hook("/bin/true", "{address}").deliver(odd)
    assert caught.value.permanent


def test_what_it_prints_last_says_where_it_is(parcel: Parcel, temporary: Path) -> None:
    assert delivers(parcel, "echo working; echo in the webmail of alice; echo").outcome == "in the webmail of alice"
    assert delivers(parcel, "exit 0").outcome == "taken by /bin/sh"
    assert delivers(parcel, "exit 0").passphrases == {}


@pytest.mark.parametrize(
    ("status", "permanent"), [(1, False), (63, False), (64, True), (67, True), (75, False), (78, True), (79, False)]
)
def test_the_exit_status_says_whether_a_person_is_needed(
    parcel: Parcel, temporary: Path, status: int, permanent: bool
) -> None:
    failure = fails(parcel, f"echo no such user >&2; exit {status}")
    assert (str(failure), failure.permanent) == (f"/bin/sh: exit status {status}: no such user", permanent)


def test_a_passphrase_that_it_repeats_is_told_to_nobody(parcel: Parcel, temporary: Path) -> None:
    assert str(fails(parcel, 'read p; echo "cannot use $p" >&2; exit 1')) == "/bin/sh: exit status 1: cannot use …"
    assert delivers(parcel, 'read p; echo "stored $p"').outcome == "stored …"


def test_one_that_does_not_end_is_killed_with_all_that_it_started(
    parcel: Parcel, tmp_path: Path, temporary: Path
) -> None:
    pid = tmp_path / "pid"
    failure = fails(parcel, f"sleep 600 & echo $! > {pid}; wait", timeout="1s")
    assert "still ran after 1 s and was killed" in str(failure)
    assert not failure.permanent
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
    assert list(temporary.iterdir()) == []


def test_one_that_is_not_there_waits_for_a_person(parcel: Parcel, temporary: Path) -> None:
    with pytest.raises(DeliveryFailed, match="is not installed; install it, or change argv") as caught:
        hook("/nonexistent/import").deliver(parcel)
    assert caught.value.permanent


def test_no_room_for_its_files_is_said_and_passes(
    parcel: Parcel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DeliveryFailed, match="no files can be made for it") as caught:
        hook("/bin/true").deliver(parcel)
    assert not caught.value.permanent


def test_a_program_is_not_started_when_the_job_is_anothers_by_now(parcel: Parcel, tmp_path: Path) -> None:
    target = HookTarget.model_validate({"to": "hook", "argv": ["/usr/bin/touch", str(tmp_path / "ran")]})
    with pytest.raises(DeliveryFailed, match="another worker was given the job"):
        HookDelivery(target).deliver(dataclasses.replace(parcel, still_ours=lambda: False))
    assert not (tmp_path / "ran").exists()
