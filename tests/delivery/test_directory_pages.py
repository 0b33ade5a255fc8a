# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/delivery-ldap.md and docs/smimea.md: what they show can be pasted, into the configuration and into a shell."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from acme_milter.config.delivery import LdapTarget, SmimeaTarget, Target
from acme_milter.delivery.ldap import LdapDelivery
from acme_milter.delivery.smimea import SmimeaDelivery
from acme_milter.delivery.smimea_record import owner_name
from acme_milter.lab.bind import BindLab
from acme_milter.lab.slapd import SUFFIX, SlapdLab
from tests.delivery.mailbox_certificates import AtNow, a_certificate, parcel_of

DOCS = Path(__file__).parents[2] / "docs"
LDAP, SMIMEA = (DOCS / name for name in ("delivery-ldap.md", "smimea.md"))
ADDRESS = "alice@example.org"
PEOPLE = "ou=people,dc=example,dc=org"
PASSWORD = "of the page"
ENTRIES = f"""\
dn: ou=people,{SUFFIX}
objectClass: organizationalUnit
ou: people

dn: cn=acme-milter,{SUFFIX}
objectClass: organizationalRole
objectClass: simpleSecurityObject
userPassword: {PASSWORD}

dn: uid=alice,ou=people,{SUFFIX}
objectClass: inetOrgPerson
cn: Alice
sn: Alice
mail: {ADDRESS}
"""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def targets(page: Path) -> list[dict[str, Any]]:
    return [target for block in blocks(page, "yaml") for target in yaml.safe_load(block)["deliver"]]


def shell(line: str) -> str:
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def a_secret(directory: Path, text: str) -> dict[str, str]:
    path = directory / "secret"
    path.touch(mode=0o600)
    path.write_text(text)
    return {"file": str(path)}


@pytest.mark.parametrize("page", [LDAP, SMIMEA], ids=lambda page: page.name)
def test_every_target_of_the_page_is_a_configuration(page: Path, tmp_path: Path) -> None:
    found = targets(page)
    assert len(found) == 2
    for target in found:
        TypeAdapter(Target).validate_python(target, context={"directory": tmp_path})


def test_what_the_page_grants_is_enough_and_its_searches_find_the_certificate(tmp_path: Path) -> None:
    (access,) = [line for block in blocks(LDAP, "") for line in block.splitlines() if line.startswith("access to ")]
    rights = (access.replace("dc=example,dc=org", SUFFIX), "access to * by * read")
    document = targets(LDAP)[0] | {"base": f"ou=people,{SUFFIX}"}
    with SlapdLab(tmp_path / "lab", entries=ENTRIES, database_settings=rights) as server:
        bind = {"dn": f"cn=acme-milter,{SUFFIX}", "password": a_secret(tmp_path, PASSWORD)}
        document |= {"uri": server.tls_uri, "ca_bundle": str(server.ca_bundle), "bind": bind}
        section = LdapTarget.model_validate(document, context={"directory": tmp_path})
        LdapDelivery(section, AtNow()).deliver(parcel_of(ADDRESS, a_certificate(ADDRESS)))
        searches = [line for block in blocks(LDAP, "sh") for line in block.splitlines()]
        assert len(searches) == 2
        said = [
            shell(
                f"LDAPTLS_CACERT={server.ca_bundle}; export LDAPTLS_CACERT; "
                + line.replace("ldaps://ldap.example.org", server.tls_uri).replace(PEOPLE, f"ou=people,{SUFFIX}")
            )
            for line in searches
        ]
    assert "userCertificate;binary::" in said[0]
    assert f"email:{ADDRESS}" in said[1]


@pytest.fixture
def keygen(tmp_path: Path) -> tuple[str, str]:
    """(name, secret) of the key that the page's two lines make."""
    lines = [line for block in blocks(SMIMEA, "sh") for line in block.splitlines() if "acme-milter.key" in line]
    assert len(lines) == 2
    for line in lines:
        shell(line.replace("/etc/bind/", f"{tmp_path}/").replace("/etc/acme-milter/secrets/", f"{tmp_path}/"))
    (tmp_path / "tsig").chmod(0o600)
    return "acme-milter", (tmp_path / "tsig").read_text().strip()


def test_the_key_and_the_policy_of_the_page_let_the_records_in_and_dig_finds_them(
    tmp_path: Path, keygen: tuple[str, str]
) -> None:
    name, secret = keygen
    (policy,) = re.findall(r"update-policy \{ (.*) \};", SMIMEA.read_text())
    (dig,) = [line for block in blocks(SMIMEA, "sh") for line in block.splitlines() if line.startswith("dig ")]
    server = BindLab(tmp_path / "lab", zones={"example.org": policy}, keys=[name])
    server.secrets[name] = secret
    document = targets(SMIMEA)[0]
    with server:
        tsig = document["tsig"] | {"secret": {"file": str(tmp_path / "tsig")}}
        document |= {"server": "127.0.0.1", "port": server.port, "tsig": tsig}
        section = SmimeaTarget.model_validate(document, context={"directory": tmp_path})
        SmimeaDelivery(section, AtNow()).deliver(parcel_of(ADDRESS, a_certificate(ADDRESS)))
        said = shell(dig.replace("@ns.example.org", f"@127.0.0.1 -p {server.port}"))
        assert said.splitlines() == server.dig(owner_name(ADDRESS), "SMIMEA")
    assert said.startswith("3 0 0 ")


def test_the_snippet_of_the_page_is_included_and_checked_as_shown(tmp_path: Path) -> None:
    document = targets(SMIMEA)[1]
    here = str(tmp_path)
    path = document["path"].replace("/var/lib/bind", here)
    Path(path).parent.mkdir()
    section = SmimeaTarget.model_validate(document | {"path": path}, context={"directory": tmp_path})
    SmimeaDelivery(section, AtNow()).deliver(parcel_of(ADDRESS, a_certificate(ADDRESS)))
    (include,) = [line for block in blocks(SMIMEA, "") for line in block.splitlines() if line.startswith("$INCLUDE")]
    zone = "$TTL 300\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ IN NS ns\nns IN A 127.0.0.1\n"
    (tmp_path / "example.org.zone").write_text(zone + include.replace("/var/lib/bind", here) + "\n")
    (check,) = [line for block in blocks(SMIMEA, "sh") for line in block.splitlines() if line.startswith("named-")]
    assert shell(check.replace("/var/lib/bind", here)).endswith("OK\n")
