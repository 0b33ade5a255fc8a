# SPDX-License-Identifier: GPL-3.0-or-later
"""From the order to the place of use: what a hook gets signs mail by openssl, and no crash loses a delivery."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.delivery.hook_directory import PREFIX
from acme_milter.eventlog import Event
from acme_milter.ipc.client import FrameClient
from acme_milter.ipc.server import PEER_UID
from acme_milter.lab.processes import wait_until
from acme_milter.store import deliveries, timeline
from acme_milter.store.database import Database
from acme_milter.store.deliveries import Delivery, DeliveryState
from tests.forked_commands import Lab
from tests.scratch import scratch

# Keeps what it is given in PLACE/LOCAL; for `held` it says that it is there, and goes on when somebody lets it.
_IMPORT = """#!/bin/sh
set -eu
place="{place}/$ACME_MILTER_LOCAL"
mkdir -p "$place"
echo "$ACME_MILTER_SERIAL" >>"$place/calls"
if [ "$ACME_MILTER_LOCAL" = held ]; then
    while [ ! -e "{place}/go" ]; do sleep 0.05; done
fi
cp "$1" "$place/identity.p12"
cat >"$place/passphrase"
echo "imported for $ACME_MILTER_LOCAL"
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch("deliver") as place:
        yield place


@pytest.fixture(scope="module")
def lab(place: Path) -> Iterator[Lab]:
    program = place / "import"
    program.write_text(_IMPORT.format(place=place))
    program.chmod(0o755)
    deliver = [
        {"to": "hook", "argv": [str(program), "{p12}"]},
        {"to": "files", "path": f"{place}/files/{{local}}", "formats": ["p12-modern"]},
        {"to": "hook", "name": "broken", "argv": ["/bin/sh", "-c", "echo no such user >&2; exit 67"]},
    ]
    for name in ("files", "certs"):
        (place / name).mkdir(mode=0o700)
    domains = {"org.example": ["used", "held"], "people.example": ["revoked", "leaver", "stays"]}
    write_people(place, "revoked", "leaver", "stays")
    signing = {
        "to": "signing-milter",
        "directory": f"{place}/certs",
        "table": f"{place}/certs/signingtable",
        "reload": ["/usr/bin/touch", f"{place}/reloaded"],
    }
    people = {"source": "people", "mailboxes": {}, "leavers": {"after": "0s"}, "deliver": [signing, deliver[1]]}
    with Lab(
        place / "lab",
        domains=domains,
        reply_dkim="own",
        defaults={"deliver": deliver},
        sections={"sources": {"people": {"type": "csv", "path": f"{place}/people.csv"}}},
        policies={"people.example": people},
    ) as lab:
        lab.wait_for_log("mailboxes-loaded source=people number=3 joined=3")
        yield lab


def write_people(place: Path, *names: str) -> None:
    """The file that lists who there is in people.example."""
    file = place / "people.csv"
    file.write_text("".join(f"{line}\n" for line in ("address,id", *(f"{one}@people.example,{one}" for one in names))))
    os.utime(file, (0, 0))  # left alone since long ago


def await_state(lab: Lab, address: str, target: str, state: DeliveryState) -> Delivery:
    database = Database(lab.config.store.url)

    def found() -> Delivery:
        with database.read() as connection:
            return next(one for one in deliveries.of_mailbox(connection, address) if one.target == target)

    try:
        wait_until(lambda: found().state is state, f"{target} to be {state}", timeout=30)
        return found()
    finally:
        database.close()


def openssl(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_delivered_signs_mail_and_one_bad_target_spoils_nothing(lab: Lab, place: Path, tmp_path: Path) -> None:
    address = "used@org.example"
    assert [row["state"] for row in lab.enroll(address)] == ["active"]
    row = await_state(lab, address, "hook", DeliveryState.DONE)
    assert row.outcome == "imported for used"
    failed = await_state(lab, address, "broken", DeliveryState.FAILED)
    assert failed.last_error == "/bin/sh: exit status 67: no such user"
    identity, passphrase = place / "used" / "identity.p12", (place / "used" / "passphrase").read_text()
    both = openssl("pkcs12", "-in", str(identity), "-passin", "stdin", "-nodes", given=passphrase)
    pair = tmp_path / "pair.pem"
    pair.write_text(both)
    signed = openssl("smime", "-sign", "-signer", str(pair), "-inkey", str(pair), "-certfile", str(pair), given="hello")
    (tmp_path / "signed").write_text(signed)
    roots = json.loads((lab.directory / "testca" / "ready.json").read_text())["trust_roots"]
    said = openssl("smime", "-verify", "-in", str(tmp_path / "signed"), "-CAfile", roots, "-purpose", "smimesign")
    assert said.strip() == "hello"
    needs = [need["command"] for need in lab.status()["needs_you"] if need["kind"] == "delivery"]
    assert needs == ["acme-milter deliver list --state failed"]
    assert "delivered" in lab.run_command("mailbox", "show", address).stdout
    assert passphrase.strip() not in lab.log_text()


def test_the_running_worker_notes_who_was_shown_a_passphrase_not_who_he_says_he_is(lab: Lab) -> None:
    address = "used@org.example"
    lab.enroll(address)
    await_state(lab, address, "files", DeliveryState.DONE)
    with FrameClient(lab.config.worker.control_socket, timeout=10) as client:
        answer = client.call({"call": "passphrase", "address": address, "uid": 4711, PEER_UID: 4711})[0]
    assert answer["address"] == address
    database = Database(lab.config.store.url)
    try:
        with database.read() as connection:
            notes = timeline.noted(connection, address, 100)
    finally:
        database.close()
    assert [note.details["uid"] for note in notes if note.event == Event.PASSPHRASE_SHOWN] == [os.getuid()]


def test_a_delivery_that_a_crash_cut_off_is_done_again(lab: Lab, place: Path) -> None:
    address = "held@org.example"
    assert [row["state"] for row in lab.enroll(address)] == ["active"]
    calls = place / "held" / "calls"
    wait_until(calls.exists, "the hook to be called")
    lab.kill_role("worker")
    wait_until(lambda: len(calls.read_text().splitlines()) == 2, "the hook to be called again", timeout=30)
    (place / "go").touch()
    row = await_state(lab, address, "hook", DeliveryState.DONE)
    assert row.attempts == 1  # of the one that was cut off nothing came
    assert len(set(calls.read_text().split())) == 1
    wait_until(lambda: not list((lab.directory / "tmp").glob(f"{PREFIX}*")), "both workers' files to be gone")


def test_who_leaves_or_is_revoked_signs_no_more_and_files_stay_until_a_person_says_so(lab: Lab, place: Path) -> None:
    names = ["revoked", "leaver", "stays"]
    addresses = [f"{name}@people.example" for name in names]
    assert [row["state"] for row in lab.enroll(*addresses)] == ["active"] * 3
    for address in addresses:
        for target in ("signing-milter", "files"):
            await_state(lab, address, target, DeliveryState.DONE)
    pairs = {name: place / "certs" / f"{name}@people.example-cert+key.pem" for name in names}
    assert all("PRIVATE KEY" in pair.read_text() for pair in pairs.values())
    revoked = lab.run_command("cert", "revoke", addresses[0], "--reason", "superseded")
    assert revoked.returncode == 0, revoked.stderr
    await_state(lab, addresses[0], "signing-milter", DeliveryState.WITHDRAWN)
    for _ in range(2):  # missing at one reading, gone at the next
        write_people(place, "revoked", "stays")
        assert lab.run_command("mailbox", "sync", "--source", "people").returncode == 0
    row = await_state(lab, addresses[1], "signing-milter", DeliveryState.WITHDRAWN)
    assert row.withdraw_why == "the mailbox has left"
    assert [name for name, pair in pairs.items() if pair.exists()] == ["stays"]
    assert [line.split()[0] for line in (place / "certs" / "signingtable").read_text().splitlines()] == [addresses[2]]
    assert not [file for file in (place / "certs").iterdir() if "revoked" in file.name or "leaver" in file.name]
    files = {name: place / "files" / name / f"{name}@people.example.p12" for name in names}
    assert all(file.exists() for file in files.values())
    assert [need for need in lab.status()["needs_you"] if need["kind"] == "withdrawal"] == []
    taken = lab.run_command("deliver", "withdraw", addresses[1], "--target", "files")
    assert (taken.returncode, taken.stdout) == (0, f"{addresses[1]}: being taken back from files\n")
    await_state(lab, addresses[1], "files", DeliveryState.WITHDRAWN)
    assert [name for name, file in files.items() if file.exists()] == ["revoked", "stays"]
    listed = lab.run_command("deliver", "list", addresses[1])
    assert listed.stdout.count("withdrawn") == 2
