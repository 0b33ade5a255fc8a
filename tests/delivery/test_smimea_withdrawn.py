# SPDX-License-Identifier: GPL-3.0-or-later
"""SMIMEA records taken back, from a real BIND's zone by an update, and from a snippet that one includes; dig looks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import SmimeaTarget
from acme_milter.delivery.smimea import SmimeaDelivery
from acme_milter.delivery.smimea_record import owner_name
from acme_milter.delivery.target import DeliveryFailed, Gone
from acme_milter.lab.bind import BindLab
from tests.delivery.mailbox_certificates import AtNow, a_certificate, parcel_of
from tests.delivery.parcels import gone_of
from tests.delivery.smimea_shown import as_shown, association, put

ALICE, BOB = "alice@example.org", "bob@example.org"
ZONE_HEAD = "$TTL 300\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ IN NS ns\nns IN A 127.0.0.1\n"

Shown = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def bind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BindLab]:
    zones = {"example.org": "grant mailer zonesub SMIMEA;"}
    with BindLab(tmp_path_factory.mktemp("bind") / "lab", zones=zones, keys=["mailer"]) as server:
        yield server


@pytest.fixture
def update(bind: BindLab, tmp_path: Path) -> Iterator[SmimeaDelivery]:
    file = tmp_path / "tsig"
    file.touch(mode=0o600)
    file.write_text(bind.secrets["mailer"])
    tsig = {"key_name": "mailer", "secret": {"file": str(file)}}
    yield made(mode="nsupdate", server="127.0.0.1", port=bind.port, tsig=tsig)
    for address in (ALICE, BOB):
        made(mode="nsupdate", server="127.0.0.1", port=bind.port, tsig=tsig).withdraw(gone(address))


@pytest.fixture
def snippet(tmp_path: Path) -> SmimeaDelivery:
    return made(mode="zone", path=str(tmp_path / "smimea.zone"))


@pytest.fixture(params=["nsupdate", "zone"])
def there(request: pytest.FixtureRequest) -> SmimeaDelivery:
    found: SmimeaDelivery = request.getfixturevalue("update" if request.param == "nsupdate" else "snippet")
    return found


@pytest.fixture
def shown(bind: BindLab, there: SmimeaDelivery, tmp_path: Path) -> Iterator[Shown]:
    """What dig shows of a mailbox; of a snippet, a name server that has just loaded it."""
    servers: list[BindLab] = []

    def look(address: str) -> list[str]:
        path = there._section.path
        if path is None:
            return as_shown(bind.dig(owner_name(address), "SMIMEA"))
        server = BindLab(tmp_path / f"bind{len(servers)}", zones={"example.org": ""})
        server.directory.mkdir()
        server.zone_file("example.org").write_text(f'{ZONE_HEAD}$INCLUDE "{path}"\n')
        servers.append(server)
        server.start()
        return as_shown(server.dig(owner_name(address), "SMIMEA"))

    yield look
    for server in servers:
        server.remove()


def made(**fields: object) -> SmimeaDelivery:
    section = SmimeaTarget.model_validate({"to": "smimea"} | fields, context={"directory": Path("/")})
    return SmimeaDelivery(section, AtNow())


def gone(
    address: str, certificate: x509.Certificate | None = None, *beside: x509.Certificate, **fields: object
) -> Gone:
    parcel = parcel_of(address, certificate or a_certificate(address), beside=beside)
    return gone_of(parcel, **{"beside": parcel.beside} | fields)


def test_it_takes_back_by_itself_unless_the_section_says_otherwise() -> None:
    section = {"to": "smimea", "mode": "zone", "path": "/x"}
    assert SmimeaTarget.model_validate(section, context={"directory": Path("/")}).takes_back
    off = SmimeaTarget.model_validate(section | {"withdraw": False}, context={"directory": Path("/")})
    assert not off.takes_back


def test_the_records_of_who_has_left_are_gone_and_those_of_others_stay(there: SmimeaDelivery, shown: Shown) -> None:
    alice, bob = a_certificate(ALICE), a_certificate(BOB)
    put(there, ALICE, alice)
    put(there, BOB, bob)
    said = there.withdraw(gone(ALICE, alice))
    assert said.startswith(f"no SMIMEA any more at {owner_name(ALICE)}, ")
    assert there.withdraw(gone(ALICE, alice)) == said
    assert shown(BOB) == [association(bob, "3 0 0")]
    assert shown(ALICE) == []


def test_the_record_of_a_certificate_that_stays_in_use_stays(there: SmimeaDelivery, shown: Shown) -> None:
    signing, encryption = (a_certificate(ALICE, usage=usage) for usage in (KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT))
    there.deliver(parcel_of(ALICE, signing, beside=(encryption,)))
    said = there.withdraw(gone(ALICE, signing, encryption))
    assert said.startswith(f"SMIMEA 3 0 0 of 1 other in use, and not of this one, at {owner_name(ALICE)}, ")
    assert shown(ALICE) == [association(encryption, "3 0 0")]


def test_the_record_of_a_key_that_goes_on_in_a_newer_certificate_stays(tmp_path: Path) -> None:
    there, ours = made(mode="zone", path=str(tmp_path / "smimea.zone"), usage="3 1 1"), a_certificate(ALICE)
    put(there, ALICE, ours)
    before = (tmp_path / "smimea.zone").read_text()
    there.withdraw(gone(ALICE, ours, ours))
    assert (tmp_path / "smimea.zone").read_text() == before


def test_where_there_is_no_snippet_none_is_made(snippet: SmimeaDelivery, tmp_path: Path) -> None:
    snippet.withdraw(gone(ALICE))
    assert not (tmp_path / "smimea.zone").exists()


def test_nothing_is_written_or_deleted_when_the_job_is_anothers_by_now(there: SmimeaDelivery, shown: Shown) -> None:
    ours = a_certificate(ALICE)
    put(there, ALICE, ours)
    with pytest.raises(DeliveryFailed, match="another worker was given the job"):
        there.deliver(parcel_of(ALICE, a_certificate(ALICE), still_ours=lambda: False))
    with pytest.raises(DeliveryFailed, match="another worker was given the job"):
        there.withdraw(gone(ALICE, ours, still_ours=lambda: False))
    assert shown(ALICE) == [association(ours, "3 0 0")]
