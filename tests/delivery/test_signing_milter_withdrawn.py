# SPDX-License-Identifier: GPL-3.0-or-later
"""`to: signing-milter`, taking back: pair and line of this certificate go, and nobody else's."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import SigningMilterTarget
from acme_milter.delivery.signing_milter import SigningMilterDelivery
from acme_milter.delivery.target import DeliveryFailed
from tests.delivery.parcels import ALICE, Desk, a_desk, gone_of, names_in

BOB = "Bob@example.org"


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with a_desk() as desk:
        yield desk


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    (tmp_path / "certs").mkdir()
    return tmp_path / "certs"


def target(certs: Path, **fields: object) -> SigningMilterDelivery:
    section = {"to": "signing-milter", "directory": str(certs), "table": str(certs.parent / "signingtable")}
    return SigningMilterDelivery(SigningMilterTarget.model_validate(section | fields))


def table(certs: Path) -> list[str]:
    return (certs.parent / "signingtable").read_text().splitlines()


def test_it_takes_back_by_itself_unless_the_section_says_otherwise() -> None:
    section = {"to": "signing-milter", "directory": "/x"}
    assert SigningMilterTarget.model_validate(section).takes_back
    assert not SigningMilterTarget.model_validate(section | {"withdraw": False}).takes_back


def test_pair_chain_and_line_go_and_cdb_finds_the_address_no_more(desk: Desk, certs: Path) -> None:
    compiled = certs.parent / "signingtable.cdb"
    there = target(certs, reload=["cdb", "-c", "-m", str(compiled), str(certs.parent / "signingtable")])
    alice, bob = desk.parcel(), desk.parcel(BOB)
    for parcel in (alice, bob):
        there.deliver(parcel)
    (certs / f".{ALICE}-cert+key.pem.0a1b2c3d.part").write_text("of a crash")
    said = there.withdraw(gone_of(alice))
    assert said == f"{certs}/{ALICE}-cert+key.pem: removed, its line in {certs.parent}/signingtable too, reloaded"
    assert names_in(certs) == [f"{BOB}-cert+key.pem", f"{BOB}-chain.pem"]
    assert table(certs) == [f"{BOB.lower()}  {certs}/{BOB}-cert+key.pem"]
    found = [subprocess.run(["cdb", "-q", "-m", compiled, key], check=False).returncode for key in (ALICE, BOB.lower())]
    assert found == [100, 0]


def test_the_pair_stays_until_the_milter_has_read_the_table_without_its_line(desk: Desk, certs: Path) -> None:
    parcel = desk.parcel()
    target(certs).deliver(parcel)
    pair = certs / f"{ALICE}-cert+key.pem"
    with pytest.raises(DeliveryFailed, match="reload: sh ended with exit status 5"):
        target(certs, reload=["sh", "-c", "exit 5"]).withdraw(gone_of(parcel))
    assert pair.exists()
    assert table(certs) == []
    target(certs, reload=["test", "-e", str(pair)]).withdraw(gone_of(parcel))
    assert names_in(certs) == []


def test_without_a_table_it_is_read_again_when_the_pair_is_gone(desk: Desk, certs: Path) -> None:
    parcel = desk.parcel()
    target(certs, table=None).deliver(parcel)
    there = target(certs, table=None, reload=["test", "!", "-e", str(certs / f"{ALICE}-cert+key.pem")])
    assert there.withdraw(gone_of(parcel)) == f"{certs}/{ALICE}-cert+key.pem: removed, reloaded"
    assert names_in(certs) == []


@pytest.mark.parametrize("replaced", [True, False])
def test_the_pair_of_another_certificate_stays_and_so_does_its_line(desk: Desk, certs: Path, replaced: bool) -> None:
    there, old, new = target(certs, reload=["false"]), desk.parcel(algorithm="rsa2048"), desk.parcel()
    target(certs).deliver(new)
    before = (names_in(certs), table(certs))
    said = there.withdraw(gone_of(old, replaced=replaced))
    assert said == f"{certs}/{ALICE}-cert+key.pem: nothing removed, it is another certificate's"
    assert (names_in(certs), table(certs)) == before


def test_a_link_in_the_pairs_place_is_somebodys_own(desk: Desk, certs: Path) -> None:
    (certs.parent / "own.pem").write_text("precious")
    (certs / f"{ALICE}-cert+key.pem").symlink_to("../own.pem")
    assert "nothing removed" in target(certs).withdraw(gone_of(desk.parcel()))
    assert names_in(certs) == [f"{ALICE}-cert+key.pem"]


def test_not_an_octet_of_a_key_is_read(desk: Desk, certs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, old, new = target(certs), desk.parcel(algorithm="rsa2048"), desk.parcel()
    there.deliver(new)
    read, seen = os.read, bytearray()

    def watched(file: int, count: int) -> bytes:
        found: bytes = read(file, count)
        seen.extend(found)
        return found

    monkeypatch.setattr("acme_milter.delivery.placing.os.read", watched)
    for parcel in (old, new):
        there.withdraw(gone_of(parcel))
    assert seen.startswith(b"-----BEGIN CERTIFICATE-----")
    assert b"PRIVATE" not in seen
    assert names_in(certs) == []


def test_what_is_not_there_any_more_is_as_good_and_its_line_goes(desk: Desk, certs: Path) -> None:
    there, parcel = target(certs), desk.parcel()
    there.deliver(parcel)
    for name in names_in(certs):
        (certs / name).unlink()
    file = f"{certs}/{ALICE}-cert+key.pem"
    assert there.withdraw(gone_of(parcel, replaced=True)) == f"{file}: not there any more"
    assert len(table(certs)) == 1
    assert there.withdraw(gone_of(parcel)) == f"{file}: not there any more, its line in {certs.parent}/signingtable too"
    assert there.withdraw(gone_of(parcel)) == f"{file}: not there any more"
    assert table(certs) == []


def test_a_line_of_the_address_that_leads_elsewhere_stays(desk: Desk, certs: Path) -> None:
    there, parcel = target(certs), desk.parcel()
    there.deliver(parcel)
    lines = ["# by hand", f"{ALICE} /etc/own-cert+key.pem"]
    (certs.parent / "signingtable").write_text("\n".join([*lines, f"{ALICE}\t{certs}/{ALICE}-cert+key.pem "]))
    there.withdraw(gone_of(parcel))
    assert table(certs) == lines


def test_of_a_certificate_that_does_not_sign_nothing_was_there(desk: Desk, certs: Path) -> None:
    there, parcel = target(certs), desk.parcel()
    there.deliver(parcel)
    assert "nothing was placed" in there.withdraw(gone_of(parcel, usage=KeyUsageKind.ENCRYPT))
    assert len(names_in(certs)) == 2


@pytest.mark.parametrize("turns", [0, 1])
def test_nothing_more_is_removed_when_the_job_is_anothers_by_now(desk: Desk, certs: Path, turns: int) -> None:
    there, parcel, answers = target(certs), desk.parcel(), [True] * turns
    there.deliver(parcel)
    with pytest.raises(DeliveryFailed, match="another worker was given the job"):
        there.withdraw(gone_of(parcel, still_ours=lambda: bool(answers) and answers.pop()))
    assert len(names_in(certs)) == 2
    assert len(table(certs)) == 1 - turns


def test_other_lines_stay_octet_for_octet_whatever_is_in_them(desk: Desk, certs: Path) -> None:
    """str.splitlines takes a form feed, or a line separator of Unicode, for the end of a line; the table's reader does
    not.
    """
    file = certs.parent / "signingtable"
    others = "# by hand\r\n# old:\x0cboss@example.org /x\n# \u2028eve@example.org /x\nboss@example.org /y\r\n".encode()
    file.write_bytes(others + b"# caf\xe9")
    parcel = desk.parcel()
    target(certs).deliver(parcel)
    line = f"{ALICE}  {certs}/{ALICE}-cert+key.pem\n".encode()
    assert file.read_bytes() == others + b"# caf\xe9\n" + line
    target(certs).withdraw(gone_of(parcel))
    assert file.read_bytes() == others + b"# caf\xe9\n"
