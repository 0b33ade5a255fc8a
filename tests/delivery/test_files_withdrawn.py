# SPDX-License-Identifier: GPL-3.0-or-later
"""`to: files`, taking back: this certificate's files go, with their passphrases, and nobody else's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import FilesTarget
from acme_milter.delivery.files import FilesDelivery
from acme_milter.delivery.target import DeliveryFailed
from tests.delivery.parcels import ALICE, Desk, a_desk, gone_of, names_in

ALL = ["pem", "p12-modern", "p12-legacy", "mobileconfig"]


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with a_desk() as desk:
        yield desk


def target(base: Path, **fields: object) -> FilesDelivery:
    return FilesDelivery(FilesTarget.model_validate({"to": "files", "path": f"{base}/{{address}}"} | fields))


def test_files_stay_by_themselves_unless_the_section_says_otherwise() -> None:
    assert not FilesTarget.model_validate({"to": "files", "path": "/srv/{address}"}).takes_back
    assert FilesTarget.model_validate({"to": "files", "path": "/srv/{address}", "withdraw": True}).takes_back


def test_files_of_every_format_go_with_their_passphrases_and_the_directories_that_they_leave_empty(
    desk: Desk, tmp_path: Path
) -> None:
    for name in ("files", "words"):
        (tmp_path / name).mkdir()
    away = f"{tmp_path}/words/{{domain}}/{{local}}"
    there = target(tmp_path / "files", formats=ALL, passphrase_path=away)
    alice, bob = desk.parcel(), desk.parcel("bob@example.org")
    for parcel in (alice, bob):
        there.deliver(parcel)
    names = f"{ALICE}.chain.pem, {ALICE}.key.pem, {ALICE}.p12, {ALICE}.legacy.p12, {ALICE}.mobileconfig"
    said = there.withdraw(gone_of(alice))
    assert said.startswith(f"{tmp_path}/files/{ALICE}: removed {names}, {ALICE}.key.pem.passphrase, ")
    assert names_in(tmp_path / "files") == ["bob@example.org"]
    assert names_in(tmp_path / "words" / "example.org") == ["bob"]
    assert len(names_in(tmp_path / "files" / "bob@example.org")) == 5
    assert len(names_in(tmp_path / "words" / "example.org" / "bob")) == 4


def test_what_is_not_there_any_more_is_as_good_and_nothing_is_made_for_it(desk: Desk, tmp_path: Path) -> None:
    for name in ("files", "words"):
        (tmp_path / name).mkdir()
    there = target(tmp_path / "files", passphrase_path=f"{tmp_path}/words/{{address}}")
    assert there.withdraw(gone_of(desk.parcel())) == f"{tmp_path}/files/{ALICE}: no file of it is there any more"
    assert [names_in(tmp_path / name) for name in ("files", "words")] == [[], []]


def test_one_taken_back_comes_again_when_it_is_delivered_again(desk: Desk, tmp_path: Path) -> None:
    there, parcel = target(tmp_path), desk.parcel()
    there.deliver(parcel)
    there.withdraw(gone_of(parcel))
    there.deliver(parcel)
    assert names_in(tmp_path / ALICE) == [f"{ALICE}.p12"]


def test_a_directory_with_something_else_in_it_stays_and_so_does_one_of_another_user(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, parcel = target(tmp_path, formats=["pem"]), desk.parcel()
    there.deliver(parcel)
    (tmp_path / ALICE / "notes").write_text("alice's own")
    there.withdraw(gone_of(parcel))
    assert names_in(tmp_path / ALICE) == ["notes"]
    (tmp_path / ALICE / "notes").unlink()
    there.deliver(parcel)
    monkeypatch.setattr("acme_milter.delivery.files.os.geteuid", lambda: 12345)
    there.withdraw(gone_of(parcel))
    assert names_in(tmp_path / ALICE) == []


def test_the_directory_goes_too_where_it_was_given_to_an_owner(desk: Desk, tmp_path: Path) -> None:
    uid = 12345 if os.geteuid() == 0 else os.geteuid()
    there, parcel = target(tmp_path, owner=str(uid)), desk.parcel()
    there.deliver(parcel)
    there.withdraw(gone_of(parcel))
    assert names_in(tmp_path) == []


def test_the_files_of_a_newer_certificate_are_left_alone(desk: Desk, tmp_path: Path) -> None:
    there, old = target(tmp_path), desk.parcel()
    there.deliver(desk.parcel())
    assert "those of a newer certificate" in there.withdraw(gone_of(old, replaced=True))
    assert names_in(tmp_path / ALICE) == [f"{ALICE}.p12"]


@pytest.mark.parametrize("form", ["pem", "mobileconfig"])
def test_files_that_say_themselves_that_they_are_anothers_are_left_alone_with_those_beside_them(
    desk: Desk, tmp_path: Path, form: str
) -> None:
    there, old, new = target(tmp_path, formats=["p12-modern", form]), desk.parcel(), desk.parcel()
    there.deliver(new)
    names = names_in(tmp_path / ALICE)
    assert "is another certificate's" in there.withdraw(gone_of(old))
    assert names_in(tmp_path / ALICE) == names
    there.withdraw(gone_of(new))
    assert names_in(tmp_path) == []


def test_of_two_certificates_of_a_mailbox_the_other_ones_files_stay(desk: Desk, tmp_path: Path) -> None:
    there = target(tmp_path)
    signing, encryption = (desk.parcel(usage=usage) for usage in (KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT))
    for parcel in (signing, encryption):
        there.deliver(parcel)
    there.withdraw(gone_of(signing))
    assert names_in(tmp_path / ALICE) == [f"{ALICE}.encrypt.p12"]


def test_files_of_a_format_that_another_target_has_there_stay(desk: Desk, tmp_path: Path) -> None:
    parcel = desk.parcel()
    for form in ("pem", "p12-modern"):
        target(tmp_path, formats=[form]).deliver(parcel)
    target(tmp_path, formats=["pem"]).withdraw(gone_of(parcel))
    assert names_in(tmp_path / ALICE) == [f"{ALICE}.p12"]


def test_what_a_crash_has_left_of_them_goes_too(desk: Desk, tmp_path: Path) -> None:
    there, parcel = target(tmp_path), desk.parcel()
    there.deliver(parcel)
    (tmp_path / ALICE / f".{ALICE}.p12.0a1b2c3d.part").write_bytes(b"half of it")
    there.withdraw(gone_of(parcel))
    assert names_in(tmp_path) == []


def test_a_link_or_a_directory_in_a_files_place_leads_nowhere_else(desk: Desk, tmp_path: Path) -> None:
    there, parcel = target(tmp_path, formats=["pem", "p12-modern"]), desk.parcel()
    (tmp_path / "precious").write_text("as it was")
    (tmp_path / ALICE / f"{ALICE}.p12").mkdir(parents=True)
    (tmp_path / ALICE / f"{ALICE}.chain.pem").symlink_to(tmp_path / "precious")
    there.withdraw(gone_of(parcel))
    assert (tmp_path / "precious").read_text() == "as it was"
    assert names_in(tmp_path / ALICE) == [f"{ALICE}.p12"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bob@example.org").symlink_to("elsewhere")
    with pytest.raises(DeliveryFailed, match="is a symbolic link"):
        there.withdraw(gone_of(desk.parcel("bob@example.org")))


def test_a_file_system_that_is_not_mounted_is_waited_for(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed, match="does not exist; mount it") as caught:
        target(tmp_path / "gone").withdraw(gone_of(desk.parcel()))
    assert not caught.value.permanent


def test_nothing_is_removed_when_the_job_is_anothers_by_now(desk: Desk, tmp_path: Path) -> None:
    there, parcel = target(tmp_path), desk.parcel()
    there.deliver(parcel)
    with pytest.raises(DeliveryFailed, match="another worker was given the job"):
        there.withdraw(gone_of(parcel, still_ours=lambda: False))
    assert names_in(tmp_path / ALICE) == [f"{ALICE}.p12"]
