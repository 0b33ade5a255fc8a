# SPDX-License-Identifier: GPL-3.0-or-later
"""`to: signing-milter`: openssl signs with the pair, cdb compiles the table, and nobody else's line is touched."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import SigningMilterTarget
from acme_milter.delivery.target import Delivered, DeliveryFailed, Parcel
from acme_milter.delivery.targets import make_target
from tests.delivery.parcels import ALICE, Desk, a_desk, names_in, sign_and_verify


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with a_desk() as desk:
        yield desk


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    (tmp_path / "certs").mkdir()
    return tmp_path / "certs"


def deliver(certs: Path, parcel: Parcel, **fields: object) -> Delivered:
    section = {"to": "signing-milter", "directory": str(certs), "table": str(certs.parent / "signingtable")}
    return make_target(SigningMilterTarget.model_validate(section | fields)).deliver(parcel)


def failure(certs: Path, parcel: Parcel, **fields: object) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        deliver(certs, parcel, **fields)
    return caught.value


def table(certs: Path) -> list[str]:
    return (certs.parent / "signingtable").read_text().splitlines()


def test_openssl_signs_with_the_pair_and_its_chain_as_the_milter_does(desk: Desk, certs: Path) -> None:
    done = deliver(certs, desk.parcel(algorithm="rsa2048"))
    pair, chain = certs / f"{ALICE}-cert+key.pem", certs / f"{ALICE}-chain.pem"
    assert done == Delivered(outcome=f"{pair}, in {certs.parent}/signingtable")
    assert names_in(certs) == [pair.name, chain.name]
    sign_and_verify(pair, chain, pair, desk.roots)
    (leaf,) = x509.load_pem_x509_certificates(pair.read_bytes())
    key = serialization.load_pem_private_key(pair.read_bytes(), None)
    assert key.public_key() == leaf.public_key()
    assert b"PRIVATE" not in chain.read_bytes()


def test_the_files_are_for_the_milters_group_and_nobody_else(desk: Desk, certs: Path) -> None:
    deliver(certs, desk.parcel(), group=str(os.getgid()))
    for name in names_in(certs):
        assert (certs / name).stat().st_mode & 0o777 == 0o640
        assert (certs / name).stat().st_gid == os.getgid()


@pytest.mark.parametrize("mode", ["0644", "0660", "0740"])
def test_a_mode_that_shows_the_key_to_more_is_no_configuration(mode: str) -> None:
    with pytest.raises(ValidationError, match="private keys in clear"):
        SigningMilterTarget.model_validate({"to": "signing-milter", "directory": "/x", "mode": mode})


def test_cdb_compiles_the_table_and_finds_the_pair_by_the_address_in_lower_case(desk: Desk, certs: Path) -> None:
    plain, compiled = certs.parent / "signingtable", certs.parent / "signingtable.cdb"
    reload = ["cdb", "-c", "-m", str(compiled), str(plain)]
    for address in (ALICE, "Bob.Builder@example.org"):
        assert deliver(certs, desk.parcel(address), reload=reload).outcome.endswith(", reloaded")
    for address, file in ((ALICE, ALICE), ("bob.builder@example.org", "Bob.Builder@example.org")):
        found = subprocess.run(["cdb", "-q", "-m", compiled, address], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == f"{certs}/{file}-cert+key.pem"


def test_other_lines_of_the_table_and_its_rights_stay_as_they_are(desk: Desk, certs: Path) -> None:
    file = certs.parent / "signingtable"
    others = ["# by hand", "", "boss@example.org\t/etc/own-cert+key.pem"]
    file.write_text("\n".join([others[0], f"ALICE@example.org {certs}/old.pem", *others[1:]]))
    file.chmod(0o604)
    deliver(certs, desk.parcel())
    assert table(certs) == [*others, f"{ALICE}  {certs}/{ALICE}-cert+key.pem"]
    assert file.stat().st_mode & 0o777 == 0o604


def test_a_table_that_says_so_already_is_not_written_again(desk: Desk, certs: Path) -> None:
    parcel = desk.parcel()
    deliver(certs, parcel)
    before = (certs.parent / "signingtable").stat().st_ino
    deliver(certs, parcel)
    assert (certs.parent / "signingtable").stat().st_ino == before
    assert len(table(certs)) == 1


def test_deliveries_at_once_lose_no_line(desk: Desk, certs: Path) -> None:
    parcels = [desk.parcel(f"user{number}@example.org") for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda parcel: deliver(certs, parcel), parcels))
    assert sorted(line.split()[0] for line in table(certs)) == sorted(parcel.address for parcel in parcels)
    assert len(names_in(certs)) == 24


def test_a_chain_of_the_certificate_before_is_not_left_beside_the_next(desk: Desk, certs: Path) -> None:
    deliver(certs, desk.parcel())
    deliver(certs, desk.parcel(with_chain=False), table=None)
    assert names_in(certs) == [f"{ALICE}-cert+key.pem"]


def test_a_certificate_that_does_not_sign_is_not_placed(desk: Desk, certs: Path) -> None:
    assert "not for signing" in deliver(certs, desk.parcel(usage=KeyUsageKind.ENCRYPT)).outcome
    assert names_in(certs) == []
    deliver(certs, desk.parcel(usage=KeyUsageKind.SIGN))
    assert len(names_in(certs)) == 2


def test_a_pair_gets_no_names_when_the_job_is_anothers_by_now(desk: Desk, certs: Path) -> None:
    fault = failure(certs, dataclasses.replace(desk.parcel(), still_ours=lambda: False))
    assert not fault.permanent
    assert "another worker was given the job" in str(fault)
    assert names_in(certs) == []


def test_a_reload_that_fails_is_tried_again_and_one_that_is_not_there_waits_for_somebody(
    desk: Desk, certs: Path
) -> None:
    fault = failure(certs, desk.parcel(), reload=["sh", "-c", "echo no such unit >&2; exit 5"])
    assert not fault.permanent
    assert str(fault) == "reload: sh ended with exit status 5: no such unit"
    fault = failure(certs, desk.parcel(), reload=["no-such-program"])
    assert fault.permanent
    assert str(fault) == "reload: no-such-program is not installed"
    assert not failure(certs, desk.parcel(), reload=["sleep", "60"], timeout="1s").permanent


def test_a_directory_with_blanks_cannot_stand_in_the_table(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "two words").mkdir()
    fault = failure(tmp_path / "two words", desk.parcel())
    assert fault.permanent
    assert "path with blanks" in str(fault)
    assert names_in(tmp_path / "two words") == []


def test_a_directory_or_table_that_others_could_put_there_is_refused(desk: Desk, certs: Path) -> None:
    certs.chmod(0o777)
    assert f"chmod o-w {certs}" in str(failure(certs, desk.parcel()))
    certs.chmod(0o755)
    (certs.parent / "real").write_text("")
    (certs.parent / "signingtable").symlink_to("real")
    assert failure(certs, desk.parcel()).permanent
    shutil.rmtree(certs)
    assert "install -d -m 0750" in str(failure(certs, desk.parcel()))
