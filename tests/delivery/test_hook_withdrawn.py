# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks, taking back: what the program gets then, which is no key, and what its end means."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from acme_milter.config.delivery import HookTarget
from acme_milter.delivery.hook import HookDelivery
from acme_milter.delivery.target import DeliveryFailed, Gone
from tests.delivery.mailbox_certificates import a_certificate, parcel_of
from tests.delivery.parcels import ALICE, gone_of

# Tells what it was given: its arguments, environment and input, and the files of the directory that it was given.
_TELL = """#!{python}
import json, os, sys
from pathlib import Path
certificate = Path(os.environ["ACME_MILTER_CERTIFICATE"])
Path("{place}/told.json").write_text(json.dumps({{
    "argv": sys.argv[1:],
    "environment": dict(os.environ),
    "input": sys.stdin.read(),
    "files": {{path.name: path.read_text() for path in certificate.parent.iterdir()}},
}}))
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def gone(address: str = ALICE, **fields: Any) -> Gone:
    return gone_of(parcel_of(address, a_certificate(address)), **fields)


def hook(*withdraw_argv: str, **more: Any) -> HookDelivery:
    section = {"to": "hook", "argv": ["/usr/bin/false"], "withdraw_argv": list(withdraw_argv), **more}
    return HookDelivery(HookTarget.model_validate(section))


def fails(script: str, **more: Any) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        hook("/bin/sh", "-c", script, **more).withdraw(gone())
    return caught.value


def told_by(one: Gone, place: Path, *arguments: str, **more: Any) -> dict[str, Any]:
    program = place / "tell"
    program.write_text(_TELL.format(python=sys.executable, place=place))
    program.chmod(0o700)
    hook(str(program), *arguments, **more).withdraw(one)
    told: dict[str, Any] = json.loads((place / "told.json").read_text())
    return told


def test_only_a_hook_that_has_a_program_for_it_takes_back_by_itself() -> None:
    assert not HookTarget.model_validate({"to": "hook", "argv": ["/x"]}).takes_back
    assert HookTarget.model_validate({"to": "hook", "argv": ["/x"], "withdraw_argv": ["/y"]}).takes_back


def test_without_a_program_for_it_a_person_is_told_what_to_set() -> None:
    with pytest.raises(DeliveryFailed, match="set withdraw_argv of webmail to what takes it back") as caught:
        hook(name="webmail").withdraw(gone())
    assert caught.value.permanent


def test_the_program_is_told_why_and_gets_the_certificate_and_no_key(tmp_path: Path, temporary: Path) -> None:
    one = gone(why="the mailbox\nhas left", replaced=True)
    told = told_by(one, tmp_path, "{address}", "{local} at {domain}", "{serial}", "{certificate}", name="webmail")
    environment = told["environment"]
    assert told["argv"] == [ALICE, "alice at example.org", one.serial, environment["ACME_MILTER_CERTIFICATE"]]
    assert told["input"] == ""
    (pem,) = told["files"].values()
    assert list(told["files"]) == ["certificate.pem"]
    (certificate,) = x509.load_pem_x509_certificates(pem.encode())
    assert format(certificate.serial_number, "x") == one.serial
    assert environment["ACME_MILTER_WHY"] == "the mailbox has left"
    assert environment["ACME_MILTER_REPLACED"] == "yes"
    assert environment["ACME_MILTER_TARGET"] == "webmail"
    assert environment["ACME_MILTER_USAGE"] == "dual"
    assert environment["ACME_MILTER_NOT_AFTER"] == certificate.not_valid_after_utc.isoformat()
    assert told_by(gone(), tmp_path)["environment"]["ACME_MILTER_REPLACED"] == "no"
    assert list(temporary.iterdir()) == []


def test_what_it_prints_last_says_what_was_done() -> None:
    assert hook("/bin/sh", "-c", "echo looking; echo alice has none now").withdraw(gone()) == "alice has none now"
    assert hook("/bin/true").withdraw(gone()) == "taken back by /bin/true"


@pytest.mark.parametrize(("status", "permanent"), [(1, False), (67, True), (75, False)])
def test_the_exit_status_says_whether_a_person_is_needed(status: int, permanent: bool) -> None:
    failure = fails(f"echo no such user >&2; exit {status}")
    assert (str(failure), failure.permanent) == (f"/bin/sh: exit status {status}: no such user", permanent)
    assert "still ran after 0.1 s and was killed" in str(fails("sleep 60", timeout="100ms"))


def test_an_address_is_no_option_and_an_absent_program_is_named() -> None:
    with pytest.raises(DeliveryFailed, match="would be an option to the program"):
        hook("/bin/true", "{address}").withdraw(gone("-rf@example.org"))
    with pytest.raises(DeliveryFailed, match="is not installed; install it, or change withdraw_argv") as caught:
        hook("/nonexistent/remove").withdraw(gone())
    assert caught.value.permanent


def test_it_is_not_started_when_the_job_is_anothers_by_now(tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed, match="another worker was given the job"):
        hook("/usr/bin/touch", str(tmp_path / "ran")).withdraw(gone(still_ours=lambda: False))
    assert not (tmp_path / "ran").exists()
