# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates in directories' entries, on a real slapd, which also plays Active Directory; read back by ldapsearch."""

import base64
import itertools
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import LdapTarget
from acme_milter.delivery import ldap_writer
from acme_milter.delivery.ldap import LdapDelivery
from acme_milter.delivery.ldap_writer import WritingFault, filter_for, write
from acme_milter.delivery.target import DeliveryFailed, Parcel
from acme_milter.delivery.targets import make_target
from acme_milter.lab.processes import free_port
from acme_milter.lab.slapd import ADMIN_DN, SUFFIX, SlapdLab
from acme_milter.program import Outcome
from tests.delivery.mailbox_certificates import AtNow, a_certificate, der, parcel_of

PEOPLE = f"ou=people,{SUFFIX}"
WRITER = f"cn=writer,{SUFFIX}"
READER = f"cn=reader,{SUFFIX}"
PASSWORD = "s3cret of the writer"
RIGHTS = (
    "access to attrs=userPassword by anonymous auth by * none",
    f'access to attrs=userCertificate,userSMIMECertificate by dn.exact="{WRITER}" write by * read',
    "access to * by * read",
)
STANDING = f"dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n" + "".join(
    f"dn: {dn}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\nuserPassword: {PASSWORD}\n\n"
    for dn in (WRITER, READER)
)
_numbers = itertools.count(1)

ENTRY = "dn: uid={uid},{people}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {uid}\nsn: x\nmail: {mail}\n"


def start(directory: Path, **changes: Any) -> SlapdLab:
    return SlapdLab(directory, entries=STANDING, database_settings=RIGHTS, **changes)


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlapdLab]:
    with start(tmp_path_factory.mktemp("slapd") / "lab") as server:
        yield server


@pytest.fixture(scope="module")
def active_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlapdLab]:
    with start(tmp_path_factory.mktemp("ad") / "lab", active_directory=True) as server:
        yield server


class Site:
    """A directory with a target for it, and entries of the test's own."""

    def __init__(self, server: SlapdLab, directory: Path, kind: str = "ldap") -> None:
        self.server = server
        self._directory = directory
        self._kind = kind
        self._password = directory / "password"
        self._password.touch(mode=0o600)
        self._password.write_text(PASSWORD + "\n")

    def target(self, **changes: Any) -> LdapDelivery:
        bind = {"dn": changes.pop("dn", WRITER), "password": {"file": str(changes.pop("password", self._password))}}
        document = {"to": self._kind, "uri": self.server.uri, "bind": bind, "base": PEOPLE, "timeout": "20s"}
        merged = {key: value for key, value in {**document, **changes}.items() if value is not None}
        section = LdapTarget.model_validate(merged, context={"directory": self._directory})
        return LdapDelivery(section, AtNow())

    def put(self, parcel: Parcel, **changes: Any) -> str:
        """What the writing process does, in this one."""
        return write(self.target(**changes)._writing(parcel))

    def entry(self, *certificates: x509.Certificate, smime: bytes | None = None, mail: str | None = None) -> str:
        """A new entry; its address."""
        uid = f"u{next(_numbers)}"
        address = mail or f"{uid}@org.example"
        ldif = ENTRY.format(uid=uid, people=PEOPLE, mail=address)
        ldif += "".join(f"{self.attribute}:: {base64.b64encode(der(one)).decode()}\n" for one in certificates)
        ldif += f"userSMIMECertificate:: {base64.b64encode(smime).decode()}\n" if smime else ""
        self.server.change(ldif)
        return address

    @property
    def attribute(self) -> str:
        return "userCertificate" if self._kind == "ad" else "userCertificate;binary"

    def found(self, address: str, attribute: str | None = None) -> list[bytes]:
        """An attribute's values as ldapsearch has them."""
        password = self.server.directory / "password"
        where = ["-x", "-LLL", "-o", "ldif-wrap=no", "-H", self.server.uri, "-D", ADMIN_DN, "-y", str(password)]
        wanted = attribute or self.attribute
        argv = ["ldapsearch", *where, "-b", SUFFIX, f"(mail={address.replace('*', chr(92) + '2a')})", wanted]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        values = re.findall(rf"^{re.escape(wanted)}:(:?) (\S+)$", said, re.MULTILINE)
        return sorted(base64.b64decode(text) if binary else text.encode() for binary, text in values)


@pytest.fixture
def site(slapd: SlapdLab, tmp_path: Path) -> Site:
    return Site(slapd, tmp_path)


@pytest.fixture
def ad(active_directory: SlapdLab, tmp_path: Path) -> Site:
    return Site(active_directory, tmp_path, kind="ad")


def ders(*certificates: x509.Certificate) -> list[bytes]:
    return sorted(der(certificate) for certificate in certificates)


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
        return ldap_writer._Entry(entry.dn, {site.attribute: [der(gone)]}) if stale and stale.pop() else entry

    monkeypatch.setattr(ldap_writer, "_find", find)
    site.put(parcel_of(address, ours))
    assert site.found(address) == ders(ours)


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
