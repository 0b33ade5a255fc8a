# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates in directories' entries, on a real slapd, which also plays Active Directory; read back by ldapsearch."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.delivery import ldap_writer
from acme_milter.delivery.ldap_writer import filter_for
from tests.delivery.ldap_site import PEOPLE, Site, ders
from tests.delivery.mailbox_certificates import a_certificate, der, parcel_of


def signed_data(*certificates: x509.Certificate) -> bytes:
    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def test_the_certificate_comes_into_the_entry_and_a_second_time_changes_nothing(site: Site) -> None:
    address = site.entry()
    ours = a_certificate(address)
    target = site.target()
    first = target.deliver(parcel_of(address, ours))
    assert site.found(address) == ders(ours)
    assert "userCertificate;binary of uid=" in first.outcome
    assert site.server.uri in first.outcome
    assert not first.passphrases
    written_at = site.found(address, "entryCSN")
    assert target.deliver(parcel_of(address, ours)) == first
    assert site.found(address, "entryCSN") == written_at


def test_active_directory_has_it_without_binary(ad: Site) -> None:
    address = ad.entry(a_certificate("x@org.example", age=400, lasts=399))
    ours = a_certificate(address)
    ad.target().deliver(parcel_of(address, ours))
    assert ad.found(address) == ders(ours)


@pytest.mark.parametrize("name", ["site", "ad"])
def test_the_newest_stay_whoever_put_them_there_and_what_has_expired_goes(
    name: str, request: pytest.FixtureRequest
) -> None:
    site: Site = request.getfixturevalue(name)
    expired, oldest, old, theirs = (
        a_certificate("them@org.example", age=age, lasts=lasts)
        for age, lasts in ((9, 8), (40, 365), (30, 365), (5, 365))
    )
    address = site.entry(oldest, expired, theirs, old)
    ours = a_certificate(address)
    said = site.put(parcel_of(address, ours), keep=3)
    assert site.found(address) == ders(ours, theirs, old)
    assert "2 other there too" in said
    assert "2 old taken out" in said


def test_where_as_many_newer_ones_are_as_it_may_have_ours_is_not_put_there(site: Site) -> None:
    newer = [a_certificate("n@org.example", age=age) for age in (1, 2)]
    ours = a_certificate("n@org.example", age=3)
    address = site.entry(*newer, ours)
    assert "2 newer there already" in site.put(parcel_of(address, ours), keep=2)
    assert site.found(address) == ders(*newer)


def test_a_certificate_for_signing_and_one_for_encryption_do_not_push_each_other_out(site: Site) -> None:
    address = site.entry(a_certificate("x@org.example", age=50))
    signing = a_certificate(address, age=2, usage=KeyUsageKind.SIGN)
    encryption = a_certificate(address, usage=KeyUsageKind.ENCRYPT)
    site.put(parcel_of(address, signing, usage=KeyUsageKind.SIGN), keep=1)
    site.put(parcel_of(address, encryption, usage=KeyUsageKind.ENCRYPT), keep=1)
    assert site.found(address) == ders(signing, encryption)


def test_a_value_that_is_no_certificate_is_left_alone(ad: Site) -> None:
    address = ad.entry()
    ad.server.change(f"dn: uid={address.partition('@')[0]},{PEOPLE}\nchangetype: modify\nadd: userCertificate\n"
                     "userCertificate: rubbish\n")  # fmt: skip
    ours = a_certificate(address)
    assert "1 that is no certificate left alone" in ad.put(parcel_of(address, ours), keep=1)
    assert ad.found(address) == sorted([b"rubbish", der(ours)])


@pytest.mark.parametrize("name", ["site", "ad"])
def test_a_stale_usersmimecertificate_is_cleared(name: str, request: pytest.FixtureRequest) -> None:
    site: Site = request.getfixturevalue(name)
    old = a_certificate("x@org.example", age=300)
    address = site.entry(old, smime=signed_data(old))
    ours = a_certificate(address)
    assert "an older userSMIMECertificate cleared" in site.put(parcel_of(address, ours))
    assert site.found(address, "userSMIMECertificate") == []
    assert site.found(address) == ders(old, ours)


def test_a_usersmimecertificate_about_the_same_certificate_stays_and_so_does_any_when_told_to_keep_it(
    site: Site,
) -> None:
    ours = a_certificate("x@org.example")
    address = site.entry(smime=signed_data(ours))
    assert "cleared" not in site.put(parcel_of(address, ours))
    assert site.found(address, "userSMIMECertificate") == [signed_data(ours)]
    assert "cleared" not in site.put(parcel_of(address, a_certificate(address)), stale_usersmimecertificate="keep")
    assert site.found(address, "userSMIMECertificate") == [signed_data(ours)]


def test_signs_that_mean_something_in_a_filter_are_escaped(site: Site) -> None:
    plain, starred = site.entry(mail="axb@org.example"), site.entry(mail="a*b@org.example")
    ours = a_certificate(starred)
    site.put(parcel_of(starred, ours))
    assert site.found(starred) == ders(ours)
    assert site.found(plain) == []
    asked = site.target(filter="(|(mail={address})(uid={local}))")._writing(parcel_of("{domain})(*@org.example", ours))
    assert filter_for(asked) == r"(|(mail={domain}\29\28\2a@org.example)(uid={domain}\29\28\2a))"


def test_two_at_once_both_have_theirs_in_the_entry(site: Site) -> None:
    address = site.entry()
    parcels = [parcel_of(address, a_certificate(address, age=age)) for age in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(site.target().deliver, parcels))
    assert len(site.found(address)) == 2


def test_what_has_changed_since_it_looked_is_looked_at_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = a_certificate("x@org.example", age=9, lasts=8)
    address = site.entry()
    ours = a_certificate(address)
    look, stale = ldap_writer._find, [True]

    def find(*arguments: Any) -> Any:
        entry = look(*arguments)
        assert entry is not None
        return ldap_writer._Entry(entry.dn, {site.attribute: [der(gone)]}) if stale and stale.pop() else entry

    monkeypatch.setattr(ldap_writer, "_find", find)
    site.put(parcel_of(address, ours))
    assert site.found(address) == ders(ours)
