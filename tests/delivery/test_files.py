# SPDX-License-Identifier: GPL-3.0-or-later
"""`to: files`: what lies there is opened by openssl, is whole at every moment, and lies nowhere else."""

import dataclasses
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import FilesTarget
from acme_milter.delivery.placing import directory_of, encoded
from acme_milter.delivery.target import Delivered, DeliveryFailed, Parcel
from acme_milter.delivery.targets import make_target
from tests.delivery.parcels import ALICE, Desk, a_desk, encrypt_and_decrypt, names_in, openssl, sign_and_verify


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with a_desk() as desk:
        yield desk


def deliver(base: Path, parcel: Parcel, **fields: object) -> Delivered:
    given = {"to": "files", "path": f"{base}/{{address}}", "formats": ["p12-modern"]} | fields
    return make_target(FilesTarget.model_validate(given)).deliver(parcel)


def failure(base: Path, parcel: Parcel, **fields: object) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        deliver(base, parcel, **fields)
    return caught.value


def test_the_pem_files_sign_verify_encrypt_and_decrypt(desk: Desk, tmp_path: Path) -> None:
    done = deliver(tmp_path, desk.parcel(algorithm="rsa2048"), formats=["pem"])
    here = tmp_path / ALICE
    chain, key = here / f"{ALICE}.chain.pem", here / f"{ALICE}.key.pem"
    assert done.outcome == f"{here}: {chain.name}, {key.name}"
    (tmp_path / "pass").write_text(done.passphrases["pem"])
    unlock = ("-passin", f"file:{tmp_path / 'pass'}")
    sign_and_verify(chain, chain, key, desk.roots, *unlock)
    encrypt_and_decrypt(chain, key, *unlock)


@pytest.mark.parametrize(
    ("form", "name", "legacy"),
    [("p12-modern", f"{ALICE}.p12", ()), ("p12-legacy", f"{ALICE}.legacy.p12", ("-legacy",))],
)
@pytest.mark.parametrize(("chain", "certificates"), [("include", 2), ("omit", 1)])
def test_openssl_opens_the_pkcs12(
    desk: Desk, tmp_path: Path, form: str, name: str, legacy: tuple[str, ...], chain: str, certificates: int
) -> None:
    done = deliver(tmp_path, desk.parcel(), formats=[form], chain=chain)
    file = tmp_path / ALICE / name
    shown = openssl("pkcs12", "-in", file, "-passin", "stdin", "-nodes", *legacy, given=done.passphrases[form].encode())
    assert b"BEGIN PRIVATE KEY" in shown
    assert shown.count(b"BEGIN CERTIFICATE") == certificates


def test_every_format_has_a_passphrase_of_its_own_and_no_file_holds_any(desk: Desk, tmp_path: Path) -> None:
    formats = ["pem", "p12-modern", "p12-legacy", "mobileconfig"]
    done = deliver(tmp_path, desk.parcel(), formats=formats)
    assert sorted(done.passphrases) == sorted(formats)
    assert len(set(done.passphrases.values())) == 4
    content = b"".join(file.read_bytes() for file in (tmp_path / ALICE).iterdir())
    for passphrase in done.passphrases.values():
        assert passphrase.encode() not in content
        assert passphrase not in repr(done)


def test_passphrases_go_to_their_own_directory_and_then_nowhere_else(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "words").mkdir()
    away = f"{tmp_path}/words/{{domain}}/{{local}}"
    done = deliver(tmp_path / "files", desk.parcel(), passphrase_path=away, mode="0644")
    assert done.passphrases == {}
    word = tmp_path / "words/example.org/alice" / f"{ALICE}.p12.passphrase"
    file = tmp_path / "files" / ALICE / f"{ALICE}.p12"
    assert names_in(file.parent) == [file.name]
    assert (file.stat().st_mode & 0o777, word.stat().st_mode & 0o777) == (0o644, 0o640)
    pkcs12.load_pkcs12(file.read_bytes(), word.read_bytes().strip())


def test_one_directory_under_two_names_is_seen(desk: Desk, tmp_path: Path) -> None:
    away = f"{tmp_path}/../{tmp_path.name}/{{address}}"
    fault = failure(tmp_path, desk.parcel(), passphrase_path=away)
    assert fault.permanent
    assert "must not lie beside its file" in str(fault)
    assert names_in(tmp_path / ALICE) == []


def test_a_second_delivery_leaves_the_same_files_and_a_renewal_replaces_them(desk: Desk, tmp_path: Path) -> None:
    first, renewed = desk.parcel(), desk.parcel()
    deliver(tmp_path, first)
    names = names_in(tmp_path / ALICE)
    deliver(tmp_path, first)
    done = deliver(tmp_path, renewed)
    assert names_in(tmp_path / ALICE) == names
    file = tmp_path / ALICE / f"{ALICE}.p12"
    opened = pkcs12.load_pkcs12(file.read_bytes(), done.passphrases["p12-modern"].encode())
    assert opened.cert is not None
    assert f"{opened.cert.certificate.serial_number:x}" == renewed.serial


def test_two_certificates_of_one_mailbox_have_files_of_their_own(desk: Desk, tmp_path: Path) -> None:
    for usage in (KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT):
        deliver(tmp_path, desk.parcel(usage=usage))
    assert names_in(tmp_path / ALICE) == [f"{ALICE}.encrypt.p12", f"{ALICE}.sign.p12"]


@pytest.mark.parametrize(("mode", "directory"), [("0600", 0o700), ("0640", 0o750), ("0644", 0o755)])
def test_files_and_directory_are_for_those_whom_the_mode_names(
    desk: Desk, tmp_path: Path, mode: str, directory: int
) -> None:
    deliver(tmp_path, desk.parcel(), path=f"{tmp_path}/{{domain}}/{{local}}", mode=mode, group=str(os.getgid()))
    here = tmp_path / "example.org" / "alice"
    assert here.stat().st_mode & 0o777 == directory
    assert here.parent.stat().st_mode & 0o777 == 0o711
    assert (here / f"{ALICE}.p12").stat().st_mode & 0o777 == int(mode, 8)
    assert here.stat().st_gid == os.getgid()


def test_an_owner_that_may_be_given_gets_file_and_directory_but_nothing_above(desk: Desk, tmp_path: Path) -> None:
    uid = 12345 if os.geteuid() == 0 else os.geteuid()
    deliver(tmp_path, desk.parcel(), path=f"{tmp_path}/{{domain}}/{{local}}", owner=str(uid))
    here = tmp_path / "example.org" / "alice"
    assert here.stat().st_uid == (here / f"{ALICE}.p12").stat().st_uid == uid
    assert here.parent.stat().st_uid == os.geteuid()


@pytest.mark.parametrize(("field", "words"), [("owner", "there is no user"), ("group", "there is no group")])
def test_an_owner_or_group_that_is_not_there_is_named(desk: Desk, tmp_path: Path, field: str, words: str) -> None:
    fault = failure(tmp_path, desk.parcel(), **{field: "no-such-name"})
    assert fault.permanent
    assert f"{words} no-such-name" in str(fault)


def test_a_directory_that_is_not_there_may_come_back_and_says_how_to_make_it(desk: Desk, tmp_path: Path) -> None:
    fault = failure(tmp_path / "gone", desk.parcel())
    assert not fault.permanent
    assert f"install -d -m 0750 {tmp_path}/gone" in str(fault)
    assert not (tmp_path / "gone").exists()


def test_a_symbolic_link_is_never_followed(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / ALICE).symlink_to("elsewhere")
    for base in (tmp_path / "link", tmp_path):
        fault = failure(base, desk.parcel())
        assert fault.permanent
        assert "is a symbolic link" in str(fault)
    assert names_in(tmp_path / "elsewhere") == []


def test_a_directory_that_everybody_can_write_to_is_refused_at_every_level(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "open" / "base" / ALICE).mkdir(parents=True)
    for directory in (tmp_path / "open" / "base" / ALICE, tmp_path / "open" / "base", tmp_path / "open"):
        directory.chmod(0o777)
        fault = failure(tmp_path / "open" / "base", desk.parcel())
        assert fault.permanent
        assert f"chmod o-w {directory}" in str(fault)
        directory.chmod(0o755)
    deliver(tmp_path / "open" / "base", desk.parcel())


def test_what_is_in_the_way_is_named(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "not a directory" in str(failure(tmp_path / "file", desk.parcel()))
    (tmp_path / ALICE / f"{ALICE}.p12").mkdir(parents=True)
    fault = failure(tmp_path, desk.parcel())
    assert fault.permanent
    assert f"{ALICE}.p12 is a directory" in str(fault)
    assert names_in(tmp_path / ALICE) == [f"{ALICE}.p12"]


def test_a_symbolic_link_of_the_files_name_is_replaced_and_its_target_left_alone(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / ALICE).mkdir()
    (tmp_path / "precious").write_text("as it was")
    (tmp_path / ALICE / f"{ALICE}.p12").symlink_to(tmp_path / "precious")
    (tmp_path / ALICE / f".{ALICE}.p12.part").symlink_to(tmp_path / "precious")
    deliver(tmp_path, desk.parcel())
    assert (tmp_path / "precious").read_text() == "as it was"
    assert names_in(tmp_path / ALICE) == [f"{ALICE}.p12"]
    assert not (tmp_path / ALICE / f"{ALICE}.p12").is_symlink()


def test_a_full_disk_passes_and_leaves_all_files_as_they_were(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = ["p12-modern", "p12-legacy"]
    deliver(tmp_path, desk.parcel(), formats=formats)
    before = {file: file.read_bytes() for file in (tmp_path / ALICE).iterdir()}
    synced: list[int] = []

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) == 2:  # the second of the two files
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    fault = failure(tmp_path, desk.parcel(), formats=formats)
    assert not fault.permanent
    assert "No space left on device; make room" in str(fault)
    assert {file: file.read_bytes() for file in (tmp_path / ALICE).iterdir()} == before


def test_a_key_that_is_not_to_be_had_leaves_no_file(desk: Desk, tmp_path: Path) -> None:
    class Away:
        def pkcs12(self, p12_format: P12Format, *, include_chain: bool) -> tuple[bytes, str]:
            raise DeliveryFailed("keyd: no answer")

        def encrypted_pem(self) -> tuple[bytes, str]:
            raise AssertionError

        def write_clear_pem(self, file: int) -> None:
            raise AssertionError

    parcel = dataclasses.replace(desk.parcel(), key=Away())
    assert str(failure(tmp_path, parcel)) == "keyd: no answer"
    assert names_in(tmp_path) == []


def test_each_file_is_synced_before_it_has_its_name(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(tmp_path, desk.parcel())  # the directory is there
    did: list[str] = []
    rename, sync = os.rename, os.fsync

    def renamed(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        did.append("rename")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def synced(file: int) -> None:
        did.append("sync directory" if os.path.isdir(f"/proc/self/fd/{file}") else "sync")  # noqa: PTH112 a descriptor
        sync(file)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    deliver(tmp_path, desk.parcel(), formats=["p12-modern", "p12-legacy"])
    assert did == ["sync", "sync", "rename", "rename", "sync directory"]


def test_whoever_looks_meanwhile_sees_whole_files_only(desk: Desk, tmp_path: Path) -> None:
    parcel = desk.parcel()
    deliver(tmp_path, parcel)
    file = tmp_path / ALICE / f"{ALICE}.p12"
    stop, torn = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            content = file.read_bytes()
            # DER: SEQUENCE with a length of two octets.
            if content[:2] != b"\x30\x82" or len(content) != 4 + int.from_bytes(content[2:4], "big"):
                torn.append(content)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(10):
        deliver(tmp_path, parcel)
    stop.set()
    reader.join()
    assert torn == []


@pytest.mark.parametrize(
    ("local", "name"),
    [
        ("alice", "alice"),
        ("Alice.B+x=y~z_w-v", "Alice.B+x=y~z_w-v"),
        ("a/b", "a%2Fb"),
        ("..", "%2E."),
        (".", "%2E"),
        ("-rf", "%2Drf"),
        ("%2F", "%252F"),
        ('"a b"', "%22a%20b%22"),
        ("jürgen", "j%C3%BCrgen"),
        ("a\x00b", "a%00b"),
    ],
)
def test_a_local_part_that_is_no_file_name_is_percent_encoded(local: str, name: str) -> None:
    assert encoded(local) == name


@given(st.text(min_size=1, max_size=64), st.text(min_size=1, max_size=64))
def test_two_addresses_never_share_a_name_nor_leave_their_directory(one: str, other: str) -> None:
    assert (encoded(one) == encoded(other)) == (one == other)
    fixed, own = directory_of("/srv/{domain}/x-{local}/{local}", f"{one}@example.org")
    assert fixed == Path("/srv")
    assert len(own) == 3
    assert all("/" not in part and "\0" not in part and part not in {"", ".", ".."} for part in own)


def test_an_odd_mailbox_gets_its_files_inside_the_base(desk: Desk, tmp_path: Path) -> None:
    deliver(tmp_path, desk.parcel("../../etc/jürgen@example.org"))
    assert names_in(tmp_path) == ["%2E.%2F..%2Fetc%2Fj%C3%BCrgen@example.org"]


def test_a_name_longer_than_the_file_system_takes_is_said(desk: Desk, tmp_path: Path) -> None:
    fault = failure(tmp_path, desk.parcel("ü" * 32 + "@" + "x" * 63 + ".example.org"))
    assert fault.permanent
    assert "File name too long" in str(fault)
