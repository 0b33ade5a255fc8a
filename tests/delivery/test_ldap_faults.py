# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a certificate from its directory entry, told in the directory's words, and whether that passes."""

import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from acme_milter.config.delivery import LdapTarget
from acme_milter.delivery.ldap import LdapDelivery
from acme_milter.delivery.ldap_writer import WritingFault
from acme_milter.delivery.target import DeliveryFailed
from acme_milter.delivery.targets import make_target
from acme_milter.lab.processes import free_port
from acme_milter.lab.slapd import SUFFIX, SlapdLab
from acme_milter.program import Outcome
from tests.delivery.ldap_site import PASSWORD, PEOPLE, READER, Site, ders, start
from tests.delivery.mailbox_certificates import a_certificate, parcel_of

Failing = Callable[..., DeliveryFailed | WritingFault]


@pytest.fixture
def failing(site: Site) -> Failing:
    """The failure of one delivery, in this process or, with `child`, by the way that the worker goes."""

    def fail(address: str = "nobody@org.example", *, child: bool = False, **changes: Any) -> Any:
        parcel = parcel_of(address, a_certificate(address))
        with pytest.raises((DeliveryFailed, WritingFault)) as failure:
            site.target(**changes).deliver(parcel) if child else site.put(parcel, **changes)
        assert PASSWORD not in "".join(traceback.format_exception(failure.value))
        return failure.value

    return fail


FAULTS: Mapping[str, tuple[Mapping[str, object], bool, str]] = {
    "no entry": ({}, False, r"no entry fits \(mail=nobody@org\.example\)"),
    "nobody there": ({"uri": f"ldap://127.0.0.1:{free_port()}"}, False, "cannot be reached .*refused"),
    "no such base": ({"base": f"ou=nowhere,{SUFFIX}"}, True, "ou=nowhere.* is not there"),
    "no name for a base": ({"base": "people"}, True, "no distinguished name"),
    "no filter": ({"filter": "(mail={address})(uid={local})"}, True, "is no LDAP filter"),
    "unknown login": ({"dn": f"cn=nobody,{SUFFIX}"}, True, "the login was refused"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_keeps_it_from_its_entry_is_told_and_whether_that_passes(failing: Failing, name: str) -> None:
    changes, permanent, reason = FAULTS[name]
    failure = failing(**changes)
    assert re.search(reason, str(failure)), str(failure)
    assert failure.permanent is permanent


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dn": READER}, "may not write userCertificate;binary and userSMIMECertificate"),
        ({"bind": None}, "wants a login .*bind"),
        ({"attribute": "userCertificate"}, r"userCertificate;binary \(to: ldap\)"),
    ],
)
def test_who_may_not_write_or_not_so_has_to_change_something_first(
    site: Site, failing: Failing, changes: Mapping[str, object], reason: str
) -> None:
    failure = failing(site.entry(), **changes)
    assert re.search(reason, str(failure)), str(failure)
    assert failure.permanent


def test_the_form_that_active_directory_has_not_is_told_with_the_one_it_has(ad: Site) -> None:
    address = ad.entry()
    with pytest.raises(WritingFault, match=r"in Active Directory userCertificate \(to: ad\)") as failure:
        ad.put(parcel_of(address, a_certificate(address)), attribute="userCertificate;binary")
    assert failure.value.permanent


def test_an_entry_that_may_have_no_certificate_says_which_class_it_lacks(site: Site, slapd: SlapdLab) -> None:
    slapd.change(f"dn: ou=plain,{PEOPLE}\nobjectClass: organizationalUnit\nou: plain\n")
    parcel = parcel_of("plain@org.example", a_certificate("plain@org.example"))
    with pytest.raises(WritingFault, match="give it the class inetOrgPerson") as failure:
        site.put(parcel, filter="(ou={local})")
    assert failure.value.permanent


def test_two_entries_are_named_and_neither_is_written_to(site: Site, failing: Failing) -> None:
    address = site.entry()
    site.entry(mail=address)
    failure = failing(address)
    assert re.search(r"more than one entry fits .*: uid=u\d+,.* and uid=u\d+,.*; correct filter", str(failure))
    assert failure.permanent
    assert "more than one entry" in str(failing(address, filter="(|(mail={address})(uid=*))"))
    assert site.found(address) == []


def test_a_failure_of_the_process_is_told_as_it_is_by_the_process(failing: Failing, tmp_path: Path) -> None:
    failure = failing(child=True)
    assert re.search(r"^ldap://\S+: below ou=people.* no entry fits", str(failure))
    assert not failure.permanent
    wrong = tmp_path / "wrong"
    unreadable = failing(child=True, password=wrong)
    assert "bind.password: the file" in str(unreadable)
    assert unreadable.permanent
    wrong.touch(mode=0o600)
    wrong.write_text("wrong")
    assert "the login was refused" in str(failing(child=True, password=wrong))


def test_an_encrypted_connection_trusts_the_ca_bundle_alone(
    site: Site, failing: Failing, slapd: SlapdLab, tmp_path: Path
) -> None:
    for way in ({"uri": slapd.tls_uri}, {"uri": slapd.uri, "starttls": True}):
        address = site.entry()
        ours = a_certificate(address)
        site.put(parcel_of(address, ours), **way, ca_bundle=str(slapd.ca_bundle))
        assert site.found(address) == ders(ours)
        failure = failing(address, **way)
        assert "is ca_bundle the CA of its certificate?" in str(failure)
        assert failure.permanent
    named = failing(uri=slapd.tls_uri.replace("127.0.0.1", "localhost"), ca_bundle=str(slapd.ca_bundle))
    assert re.search(r"not trusted \(Hostname mismatch|cannot be reached", str(named)), str(named)
    absent = failing(child=True, ca_bundle=str(tmp_path / "none.pem"))
    assert "is not there" in str(absent)
    assert absent.permanent


def test_a_directory_that_says_nothing_or_goes_away_is_tried_again(tmp_path: Path) -> None:
    with start(tmp_path / "lab") as server:
        site = Site(server, tmp_path)
        parcel = parcel_of("x@org.example", a_certificate("x@org.example"))
        server.freeze()
        with pytest.raises(DeliveryFailed, match=r"no complete answer within|cannot be reached") as silent:
            site.target(uri=server.tls_uri, timeout="500ms").deliver(parcel)
        assert not silent.value.permanent
        server.stop()
        with pytest.raises(WritingFault, match="cannot be reached") as away:
            site.put(parcel)
        assert not away.value.permanent


def test_a_process_that_dies_is_tried_again(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acme_milter.delivery.ldap.run_program", lambda *_, **__: Outcome(-9, b"", b"oh\n"))
    failure = failing(child=True)
    assert str(failure) == "the writing ended early (signal SIGKILL) oh"
    assert not failure.permanent


def test_a_password_over_an_open_connection_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acme_milter.delivery.ldap.run_program", lambda *_, **__: Outcome(0, b'{"done": "x"}\n', b""))
    parcel = parcel_of("x@org.example", a_certificate("x@org.example"))
    assert "unencrypted" in site.target(uri="ldap://dc.example.org").deliver(parcel).outcome
    assert site.target(uri="ldap://dc.example.org", starttls=True).deliver(parcel).outcome == "x"


def test_without_the_library_it_says_how_to_get_it(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ldap", None)
    failure = failing()
    assert "pip install 'acme-milter[ldap]'" in str(failure)
    assert failure.permanent


def test_both_names_of_the_target_are_served(site: Site) -> None:
    for kind in ("ldap", "ad"):
        document = {"to": kind, "uri": "ldaps://x.example", "base": PEOPLE}
        assert isinstance(
            make_target(LdapTarget.model_validate(document, context={"directory": Path("/")})), LdapDelivery
        )
