# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes from directories, on a real slapd, which also plays Active Directory."""

import base64
import re
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from acme_milter.config.sources import LdapSource as LdapSection
from acme_milter.lab.processes import free_port
from acme_milter.lab.slapd import ADMIN_PASSWORD, SUFFIX, SlapdLab
from acme_milter.mailboxes.entry import Entry
from acme_milter.mailboxes.ldap_directory import LdapSource
from acme_milter.mailboxes.ldap_search import Search, SearchFault, search
from acme_milter.mailboxes.source import Reading, SourceFault
from acme_milter.program import Outcome

PEOPLE = f"ou=people,{SUFFIX}"
STAFF = f"ou=staff,{SUFFIX}"
ODD = f"ou=odd,{SUFFIX}"
READER = f"cn=reader,{SUFFIX}"
SHORT = f"cn=short,{SUFFIX}"
PASSWORD = "s3cret of the reader"
COUNT = 25
ENABLED, DISABLED = 512, 514


def entry(dn: str, *lines: str) -> str:
    return "\n".join([f"dn: {dn}", *lines]) + "\n\n"


def unit(dn: str) -> str:
    return entry(dn, "objectClass: organizationalUnit")


def login(dn: str) -> str:
    return entry(
        dn, "objectClass: organizationalRole", "objectClass: simpleSecurityObject", f"userPassword: {PASSWORD}"
    )


def person(uid: str, *lines: str, below: str = PEOPLE) -> str:
    name = f"cn: {uid.title()} Smith"
    return entry(f"uid={uid},{below}", "objectClass: inetOrgPerson", f"uid: {uid}", name, "sn: Smith", *lines)


def guid(number: int) -> uuid.UUID:
    return uuid.UUID(int=0x00112233_4455_6677_8899_AABBCCDDEE00 + number)


def account(uid: str, number: int, control: int, *lines: str, below: str = STAFF) -> str:
    octets = base64.b64encode(guid(number).bytes_le).decode()
    more = (f"displayName: {uid.title()}", f"userAccountControl: {control}", f"objectGUID:: {octets}", *lines)
    return person(uid, *more, below=below).replace("inetOrgPerson", "user")


ENTRIES = (
    "".join(unit(dn) for dn in (PEOPLE, STAFF, ODD))
    + login(READER)
    + login(SHORT)
    + "".join(person(f"u{number}", f"mail: u{number}@org.example") for number in range(COUNT))
    + person("none")
    + account("ann", 1, ENABLED, "mail: ann@org.example", "proxyAddresses: SMTP:Ann.New@ORG.example",
              "proxyAddresses: smtp:ann@org.example", "proxyAddresses: SIP:ann@org.example",
              "proxyAddresses: X500:/o=x")
    + account("ben", 2, ENABLED, "mail: ben@org.example")
    + account("gone", 3, DISABLED, "mail: gone@org.example")
    + account("both", 4, ENABLED, "mail: b@org.example", "proxyAddresses: SMTP:b1@org.example",
              "proxyAddresses: SMTP:b2@org.example")
    + person("two", "mail: one@org.example", "mail: other@org.example", "employeeNumber: 7", below=ODD)
    + person("bad", "mail: not an address", "employeeNumber: 8", below=ODD)
    + person("anon", "mail: anon@org.example", below=ODD)
)  # fmt: skip
GROUPS = "".join(
    entry(f"cn={name},{SUFFIX}", "objectClass: groupOfNames", f"cn: {name}", *(f"member: {dn}" for dn in members))
    for name, members in {"board": [f"uid=u1,{PEOPLE}", f"uid=ann,{STAFF}"], "it": [f"uid=u1,{PEOPLE}"]}.items()
)
RIGHTS = (
    f'access to dn.subtree="ou=hidden,{SUFFIX}" by * none',
    "access to attrs=userPassword by anonymous auth by * none",
    f'access to * by dn.exact="{READER}" read by dn.exact="{SHORT}" read by * none',
    f'limits dn.exact="{SHORT}" size.soft=10 size.hard=10 size.prtotal=10 size.pr=unlimited',
)


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlapdLab]:
    directory = tmp_path_factory.mktemp("slapd") / "lab"
    with SlapdLab(directory, entries=ENTRIES, database_settings=RIGHTS) as server:
        server.change(GROUPS)
        yield server


Reader = Callable[..., Reading]


@pytest.fixture
def section(slapd: SlapdLab, tmp_path: Path) -> Callable[..., LdapSection]:
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD + "\n")

    def make(**changes: Any) -> LdapSection:
        login = {"dn": changes.pop("dn", READER), "password": {"file": str(changes.pop("password", password))}}
        document = {"type": "ldap", "uri": slapd.uri, "bind": login, "base": PEOPLE, "page_size": 10, "timeout": "20s"}
        merged = {key: value for key, value in {**document, **changes}.items() if value is not None}
        return LdapSection.model_validate(merged, context={"directory": tmp_path})

    return make


@pytest.fixture
def read(section: Callable[..., LdapSection]) -> Reader:
    return lambda **changes: LdapSource("dir", section(**changes)).read()


@pytest.fixture
def fault(section: Callable[..., LdapSection]) -> Callable[..., str]:
    def caught(**changes: Any) -> str:
        with pytest.raises(SourceFault) as fault:
            LdapSource("dir", section(**changes)).read()
        shown = "".join(traceback.format_exception(fault.value))
        assert PASSWORD not in shown
        assert ADMIN_PASSWORD not in shown
        return str(fault.value)

    return caught


def by_address(reading: Reading) -> Mapping[str, Entry]:
    return {entry.address: entry for entry in reading.entries}


def test_every_page_of_a_directory_is_read(read: Reader) -> None:
    reading = read(preset="openldap")
    assert len(reading.entries) == COUNT > 10
    assert not reading.rejected
    assert len({entry.id for entry in reading.entries}) == COUNT
    assert uuid.UUID(reading.entries[0].id).version == 1
    assert by_address(reading)["u1@org.example"].name == "U1 Smith"


def test_groups_are_the_names_that_memberof_gives(read: Reader) -> None:
    found = by_address(read(preset="openldap"))
    assert found["u1@org.example"].groups == {f"cn=board,{SUFFIX}", f"cn=it,{SUFFIX}"}
    assert found["u2@org.example"].groups == frozenset()


def test_active_directory_s_disabled_accounts_are_left_out_and_the_primary_address_counts(read: Reader) -> None:
    found = by_address(read(preset="active-directory", base=STAFF))
    assert found["Ann.New@org.example"] == Entry(
        "Ann.New@org.example", str(guid(1)), "Ann", frozenset({f"cn=board,{SUFFIX}"}), ("ann@org.example",)
    )
    assert found["ben@org.example"].id == str(guid(2))
    assert set(found) == {"Ann.New@org.example", "ben@org.example", "b1@org.example", "b2@org.example"}


def test_a_disabled_account_is_left_out_whatever_the_filter_says(read: Reader) -> None:
    assert read(preset="active-directory", base=STAFF, filter="(uid=gone)").entries == ()


def test_each_value_of_the_address_is_a_mailbox_of_the_same_person(read: Reader) -> None:
    reading = read(base=ODD, map={"id": "employeeNumber", "groups": None})
    assert {address: entry.id for address, entry in by_address(reading).items()} == {
        "one@org.example": "7",
        "other@org.example": "7",
    }


def test_what_is_no_mailbox_is_rejected_with_its_entry(read: Reader) -> None:
    rejected = dict(read(base=ODD, map={"id": "employeeNumber", "groups": None}).rejected)
    assert f"uid=bad,{ODD}" in rejected["not an address"]
    assert "no single value of employeeNumber" in rejected["anon@org.example"]
    (no_mail,) = read(filter="(uid=none)").rejected
    assert no_mail == (f"entry uid=none,{PEOPLE}", "it has no mail")


def test_no_person_at_all_is_a_fault_and_no_group_at_all_a_remark(read: Reader, fault: Callable[..., str]) -> None:
    assert "no entry has the attribute departmentNumber" in fault(map={"id": "departmentNumber"})
    assert "no entry has the attribute ou" in read(map={"groups": "ou"}).remarks[0]
    assert read(map={"groups": None}).remarks == ()


@pytest.mark.parametrize("way", ["ldaps", "starttls"])
def test_an_encrypted_connection_trusts_the_ca_bundle_alone(
    slapd: SlapdLab, read: Reader, fault: Callable[..., str], way: str, tmp_path: Path
) -> None:
    changes = {"uri": slapd.tls_uri} if way == "ldaps" else {"uri": slapd.uri, "starttls": True}
    assert len(read(**changes, ca_bundle=str(slapd.ca_bundle)).entries) == COUNT
    assert re.search("not trusted|is ca_bundle the CA", fault(**changes))
    assert "is not there" in fault(**changes, ca_bundle=str(tmp_path / "none.pem"))


FAULTS: Mapping[str, tuple[Mapping[str, object], str]] = {
    "nobody there": ({"uri": f"ldap://127.0.0.1:{free_port()}"}, "cannot be reached .*refused"),
    "no such host": ({"uri": "ldaps://nowhere.invalid"}, "cannot be reached"),
    "unknown login": ({"dn": f"cn=nobody,{SUFFIX}"}, "the login was refused"),
    "no login": ({"bind": None}, "is not there, or may not be seen"),
    "no such base": ({"base": f"ou=nowhere,{SUFFIX}"}, "ou=nowhere.* is not there"),
    "no name for a base": ({"base": "people"}, "no distinguished name"),
    "no filter": ({"filter": "(mail=*)(uid=*)"}, "is no LDAP filter"),
    "a limit on the size": ({"dn": SHORT}, "cuts its answer off"),
    "no time": ({"timeout": "1ms"}, r"no complete answer within 0\.001 s|timed out"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_search_that_cannot_be_completed_is_a_fault_with_its_reason(fault: Callable[..., str], name: str) -> None:
    changes, reason = FAULTS[name]
    text = fault(**changes)
    assert text.startswith("source dir: ")
    assert re.search(reason, text), text


def test_a_wrong_or_unreadable_password_is_a_fault(fault: Callable[..., str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    assert "bind.password: the file" in fault(password=wrong)
    wrong.touch(mode=0o600)
    wrong.write_text(ADMIN_PASSWORD)
    assert "the login was refused" in fault(password=wrong)


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[SlapdLab]:
    """A slapd of this test's own, which may be hurt."""
    with SlapdLab(tmp_path / "lab", entries=ENTRIES) as server:
        yield server


@pytest.mark.parametrize(
    ("blow", "reason"), [(SlapdLab.stop, "connection was lost"), (SlapdLab.freeze, "no complete answer")]
)
def test_a_directory_that_goes_away_half_way_is_a_fault(
    fragile: SlapdLab, blow: Callable[[SlapdLab], None], reason: str
) -> None:
    taken: list[str | None] = []

    def take(dn: str | None, _attributes: object) -> None:
        if not taken:
            blow(fragile)
        taken.append(dn)

    asked = Search(
        uri=fragile.uri, base=PEOPLE, scope="sub", filter="(mail=*)", attributes=["mail"], page_size=10, timeout=2
    )
    with pytest.raises(SearchFault, match=reason):
        search(asked, take)
    assert len(taken) == 10


def test_a_search_that_dies_before_its_end_is_a_fault(
    fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Outcome(-9, b'["uid=u1", {"mail": ["dUBvcmcuZXhhbXBsZQ=="]}]\n', b"")
    monkeypatch.setattr("acme_milter.mailboxes.ldap_directory.run_program", lambda *_, **__: half)
    assert "ended early (signal SIGKILL)" in fault()


@pytest.mark.parametrize("way", ["ldap", "ldaps", "starttls"])
def test_a_directory_that_says_nothing_is_a_fault(fragile: SlapdLab, fault: Callable[..., str], way: str) -> None:
    fragile.freeze()
    uri = fragile.tls_uri if way == "ldaps" else fragile.uri
    text = fault(uri=uri, starttls=way == "starttls", ca_bundle=str(fragile.ca_bundle), timeout="500ms")
    assert re.search("no complete answer|cannot be reached|no encrypted connection", text), text


def test_references_to_other_directories_are_not_followed(tmp_path: Path, read: Reader) -> None:
    elsewhere = entry(
        f"ou=far,{SUFFIX}", "objectClass: referral", "objectClass: extensibleObject",
        "ou: far", "ref: ldap://127.0.0.1:9/dc=far",
    )  # fmt: skip
    with SlapdLab(tmp_path / "lab", entries=ENTRIES + elsewhere) as server:
        reading = read(uri=server.uri, base=SUFFIX, filter="(uid=u1)")
    assert [found.address for found in reading.entries] == ["u1@org.example"]
    assert "1 references to other directories were not followed" in reading.remarks


def test_a_password_over_an_open_connection_is_remarked(section: Callable[..., LdapSection], read: Reader) -> None:
    assert not any("unencrypted" in remark for remark in read().remarks)
    assert LdapSource("dir", section(uri="ldap://dc.example.org")).shows_the_password
    assert not LdapSource("dir", section(uri="ldap://dc.example.org", starttls=True)).shows_the_password


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ldap", None)
    asked = Search(uri="ldap://x", base="", scope="sub", filter="", attributes=[], page_size=1, timeout=1)
    with pytest.raises(SearchFault, match=r"pip install 'acme-milter\[ldap\]'"):
        search(asked, lambda *_: None)
