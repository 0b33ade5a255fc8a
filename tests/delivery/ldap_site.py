# SPDX-License-Identifier: GPL-3.0-or-later
"""A real slapd, which also plays Active Directory, a target for it, and ldapsearch to see what is there."""

import base64
import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

from cryptography import x509

from acme_milter.config.delivery import LdapTarget
from acme_milter.delivery.ldap import LdapDelivery
from acme_milter.delivery.ldap_writer import write
from acme_milter.delivery.target import Gone, Parcel
from acme_milter.lab.slapd import ADMIN_DN, SUFFIX, SlapdLab
from tests.delivery.mailbox_certificates import AtNow, der

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

    def put(self, job: Parcel | Gone, **changes: Any) -> str:
        """What the writing process does, in this one."""
        return write(self.target(**changes)._writing(job))

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


def ders(*certificates: x509.Certificate) -> list[bytes]:
    return sorted(der(certificate) for certificate in certificates)
