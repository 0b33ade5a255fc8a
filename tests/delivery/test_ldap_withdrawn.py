# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates taken out of directories' entries: this one, and nothing else; on a real slapd, read by ldapsearch."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from acme_milter.config.delivery import LdapTarget
from acme_milter.delivery import ldap_writer
from acme_milter.delivery.ldap_writer import WritingFault
from acme_milter.delivery.target import DeliveryFailed, Gone
from tests.delivery.ldap_site import PEOPLE, READER, Site, ders
from tests.delivery.mailbox_certificates import a_certificate, der, parcel_of
from tests.delivery.parcels import gone_of


def gone(address: str, certificate: Any, **fields: Any) -> Gone:
    return gone_of(parcel_of(address, certificate), **fields)


def test_it_takes_back_by_itself_unless_the_section_says_otherwise() -> None:
    section = {"to": "ldap", "uri": "ldaps://x.example", "base": PEOPLE}
    assert LdapTarget.model_validate(section).takes_back
    assert not LdapTarget.model_validate(section | {"withdraw": False}).takes_back


def test_this_certificate_goes_and_others_stay_and_a_second_time_changes_nothing(site: Site) -> None:
    address = "expired-too@org.example"
    ours, other, expired = a_certificate(address), a_certificate(address), a_certificate(address, age=9, lasts=8)
    site.entry(ours, other, expired, mail=address)
    target = site.target()
    said = target.withdraw(gone(address, ours))
    assert said.startswith("taken out of userCertificate;binary of uid=")
    assert site.server.uri in said
    assert site.found(address) == ders(other, expired)
    written_at = site.found(address, "entryCSN")
    assert target.withdraw(gone(address, ours)).startswith("not any more in userCertificate;binary of uid=")
    assert site.found(address, "entryCSN") == written_at


def test_active_directorys_form_is_served_and_what_is_no_certificate_stays(ad: Site) -> None:
    address = ad.entry()
    ours = a_certificate(address)
    ad.server.change(f"dn: uid={address.partition('@')[0]},{PEOPLE}\nchangetype: modify\nadd: userCertificate\n"
                     "userCertificate: rubbish\n")  # fmt: skip
    ad.put(parcel_of(address, ours))
    assert ad.found(address) == sorted([b"rubbish", der(ours)])
    assert ad.target().withdraw(gone(address, ours)).startswith("taken out of userCertificate of uid=")
    assert ad.found(address) == [b"rubbish"]


def test_one_whose_validity_is_over_or_that_newer_ones_outrank_is_taken_out_as_well(site: Site) -> None:
    newer = [a_certificate("n@org.example", age=age) for age in (1, 2)]
    ours = a_certificate("n@org.example", age=300, lasts=200)
    address = site.entry(*newer, ours)
    site.put(gone(address, ours), keep=1)
    assert site.found(address) == ders(*newer)


@pytest.mark.parametrize("name", ["site", "ad"])
def test_a_usersmimecertificate_about_this_certificate_goes_and_one_about_another_stays(
    name: str, request: pytest.FixtureRequest
) -> None:
    site: Site = request.getfixturevalue(name)
    ours, other = a_certificate("x@org.example"), a_certificate("x@org.example")
    shadows = [pkcs7.serialize_certificates([one], Encoding.DER) for one in (ours, other)]
    about_ours, about_another = site.entry(ours, smime=shadows[0]), site.entry(ours, smime=shadows[1])
    assert "cleared" not in site.put(gone(about_ours, ours), stale_usersmimecertificate="keep")
    assert site.found(about_ours, "userSMIMECertificate") == [shadows[0]]
    assert site.put(gone(about_ours, ours)).endswith("; userSMIMECertificate about it cleared")
    assert site.found(about_ours, "userSMIMECertificate") == []
    assert "cleared" not in site.put(gone(about_another, ours))
    assert site.found(about_another, "userSMIMECertificate") == [shadows[1]]


def test_no_entry_is_as_good_as_one_without_it(site: Site) -> None:
    said = site.target().withdraw(gone("nobody@org.example", a_certificate("nobody@org.example")))
    assert said.endswith("no entry fits (mail=nobody@org.example): it is not there any more")


def test_of_two_entries_that_fit_neither_is_written_to(site: Site) -> None:
    ours = a_certificate("x@org.example")
    address = site.entry(ours)
    site.entry(ours, mail=address)
    with pytest.raises(DeliveryFailed, match="more than one entry fits") as caught:
        site.target().withdraw(gone(address, ours))
    assert caught.value.permanent
    assert site.found(address) == ders(ours, ours)


def test_who_may_not_write_is_told_so(site: Site) -> None:
    ours = a_certificate("x@org.example")
    address = site.entry(ours)
    with pytest.raises(WritingFault, match="may not write userCertificate;binary") as caught:
        site.put(gone(address, ours), dn=READER)
    assert caught.value.permanent


def test_what_somebody_else_takes_out_in_that_moment_is_as_good(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = a_certificate("x@org.example")
    address = site.entry()
    look, stale = ldap_writer._find, [True]

    def find(*arguments: Any) -> Any:
        entry = look(*arguments)
        assert entry is not None
        return ldap_writer._Entry(entry.dn, {site.attribute: [der(ours)]}) if stale and stale.pop() else entry

    monkeypatch.setattr(ldap_writer, "_find", find)
    assert site.put(gone(address, ours)).startswith("not any more in ")


def test_nothing_is_written_or_taken_out_when_the_job_is_anothers_by_now(site: Site) -> None:
    ours, other = a_certificate("x@org.example"), a_certificate("x@org.example")
    address = site.entry(ours)
    with pytest.raises(DeliveryFailed, match="another worker was given the job"):
        site.target().deliver(parcel_of(address, other, still_ours=lambda: False))
    with pytest.raises(DeliveryFailed, match="another worker was given the job"):
        site.target().withdraw(gone(address, ours, still_ours=lambda: False))
    assert site.found(address) == ders(ours)
