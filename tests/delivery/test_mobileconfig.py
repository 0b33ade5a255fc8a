# SPDX-License-Identifier: GPL-3.0-or-later
"""The profile for iPhone and Mac: a property list with one identity in it, and nothing that opens it."""

import plistlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from acme_milter.config.delivery import FilesTarget
from acme_milter.delivery.target import Parcel
from acme_milter.delivery.targets import make_target
from tests.delivery.parcels import ALICE, Desk, a_desk, openssl

IDENTITY = "com.apple.security.pkcs12"
CERTIFICATE = "com.apple.security.pkcs1"


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with a_desk() as desk:
        yield desk


def profile(base: Path, parcel: Parcel, chain: str = "include") -> tuple[dict[str, Any], str]:
    section = {"to": "files", "path": f"{base}/{{address}}", "formats": ["mobileconfig"], "chain": chain}
    done = make_target(FilesTarget.model_validate(section)).deliver(parcel)
    found: dict[str, Any] = plistlib.loads((base / ALICE / f"{ALICE}.mobileconfig").read_bytes())
    return found, done.passphrases["mobileconfig"]


def payloads(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [payload for payload in found["PayloadContent"] if payload["PayloadType"] == kind]


def test_the_identity_opens_with_the_passphrase_that_is_not_in_the_profile(desk: Desk, tmp_path: Path) -> None:
    found, passphrase = profile(tmp_path, desk.parcel())
    assert (found["PayloadType"], found["PayloadVersion"]) == ("Configuration", 1)
    (identity,) = payloads(found, IDENTITY)
    assert identity["PayloadCertificateFileName"] == f"{ALICE}.p12"
    (tmp_path / "p12").write_bytes(identity["PayloadContent"])
    given = passphrase.encode()
    shown = openssl("pkcs12", "-in", tmp_path / "p12", "-legacy", "-nodes", "-passin", "stdin", given=given)
    assert (shown.count(b"BEGIN PRIVATE KEY"), shown.count(b"BEGIN CERTIFICATE")) == (1, 1)
    text = (tmp_path / ALICE / f"{ALICE}.mobileconfig").read_text()
    assert "Password" not in text
    assert passphrase not in text


@pytest.mark.parametrize(("chain", "issuers"), [("include", 1), ("omit", 0)])
def test_issuers_come_as_certificates_of_their_own(desk: Desk, tmp_path: Path, chain: str, issuers: int) -> None:
    parcel = desk.parcel()
    found = payloads(profile(tmp_path, parcel, chain)[0], CERTIFICATE)
    assert len(found) == issuers
    for payload in found:
        assert x509.load_der_x509_certificate(payload["PayloadContent"]) in x509.load_pem_x509_certificates(
            parcel.chain_pem
        )


def test_a_renewal_is_another_profile_so_that_the_older_key_stays_on_the_device(desk: Desk, tmp_path: Path) -> None:
    def names(found: dict[str, Any]) -> list[tuple[str, str]]:
        return [(one["PayloadIdentifier"], one["PayloadUUID"]) for one in (found, *found["PayloadContent"])]

    first, renewed = desk.parcel(), desk.parcel()
    once, again, later = (names(profile(tmp_path, parcel)[0]) for parcel in (first, first, renewed))
    assert once == again
    assert len({*once, *later}) == len(once) + len(later)
