# SPDX-License-Identifier: GPL-3.0-or-later
"""A private, real OpenLDAP server: its own configuration and database in one directory, on two free loopback ports.

It speaks LDAP with StartTLS on one port and LDAPS on the other, with a certificate of a private CA. Beside the usual
schema it knows the attributes of Active Directory that matter to a list of mailboxes, so that one program can stand for
both kinds of directory; it evaluates Active Directory's bitwise matching rule as well. What cannot be both is
userCertificate: there it is octets without ;binary, as in Active Directory, when ``active_directory`` is asked for.
"""

import ipaddress
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from acme_milter.lab.processes import ChildProcess, ProcessFault, accepts_connections, free_port, wait_until

SUFFIX = "dc=lab,dc=example"
ADMIN_DN = f"cn=admin,{SUFFIX}"
ADMIN_PASSWORD = "lab-admin"  # noqa: S105 -- of a server that lives as long as its test
_ATTEMPTS = 3

# Names, object identifiers and syntaxes as Microsoft documents them; what no test needs is left out.
_ACTIVE_DIRECTORY = """\
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl'
  EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.2 NAME 'objectGUID'
  EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.2.210 NAME 'proxyAddresses'
  EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.2.840.113556.1.5.9 NAME 'user' SUP inetOrgPerson STRUCTURAL
  MAY ( userAccountControl $ objectGUID $ proxyAddresses ) )
"""
_CORE_SCHEMA = Path("/etc/ldap/schema/core.schema")
_USER_CERTIFICATE = re.compile(r"attributetype \( 2\.5\.4\.36 [^)]*\)")
# As Microsoft documents it: String(Octet), of many values.
_USER_CERTIFICATE_OF_AD = """\
attributetype ( 2.5.4.36 NAME 'userCertificate'
  EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )"""
_CONFIGURATION = """\
include {directory}/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
{schema}
pidfile {directory}/slapd.pid
argsfile {directory}/slapd.args
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
TLSCertificateFile {directory}/server.pem
TLSCertificateKeyFile {directory}/server.key
{settings}
database mdb
suffix "{suffix}"
rootdn "{admin}"
rootpw {password}
directory {directory}/data
maxsize 268435456
dbnosync
index objectClass,mail,entryUUID eq
{database_settings}
overlay memberof
"""


class SlapdLab:
    """One slapd. ``directory`` must be new; `remove` deletes it.

    ``entries`` (LDIF below SUFFIX, which is there already) are loaded before it first starts. ``settings`` and
    ``database_settings`` are further lines of slapd.conf, before the database and in it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        entries: str = "",
        settings: Sequence[str] = (),
        database_settings: Sequence[str] = (),
        active_directory: bool = False,
    ) -> None:
        self.directory = directory
        self.ca_bundle = directory / "ca.pem"
        self.port = 0
        self.tls_port = 0
        self._entries = entries
        self._settings = settings
        self._database_settings = database_settings
        self._active_directory = active_directory
        self._server: ChildProcess | None = None

    @property
    def uri(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def tls_uri(self) -> str:
        return f"ldaps://127.0.0.1:{self.tls_port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def start(self) -> None:
        """Load the entries at the first start, and return when it takes connections; raises ProcessFault."""
        if not self.directory.joinpath("slapd.conf").exists():
            self._prepare()
        for attempt in range(_ATTEMPTS):
            self.port, self.tls_port = free_port(), free_port()
            try:
                self._start()
            except ProcessFault:
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                return

    @property
    def process(self) -> ChildProcess:
        """The server's process, for a test that freezes or kills it. Raises ProcessFault before the first start."""
        if self._server is None:
            raise ProcessFault("slapd was not started")
        return self._server

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does, with all connections kept; returns when nothing of it moves."""
        self.process.signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        wait_until(lambda: all(_is_stopped(task) for task in tasks.iterdir()), "slapd to freeze")

    def stop(self) -> None:
        """End it; what is in it stays."""
        if self._server is not None:
            self._server.kill()  # with nothing worth a clean end: slapd waits for its clients to leave

    def remove(self) -> None:
        """Stop it and delete everything."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def change(self, ldif: str) -> None:
        """Apply LDIF change records as the administrator (`ldapmodify`); raises ProcessFault."""
        password = ["-y", str(self.directory / "password")]
        self._run(["ldapmodify", "-a", "-x", "-H", self.uri, "-D", ADMIN_DN, *password], ldif)

    def _start(self) -> None:
        conf = str(self.directory / "slapd.conf")
        self._server = ChildProcess(
            ["slapd", "-d", "0", "-h", f"{self.uri}/ {self.tls_uri}/", "-f", conf],
            name="slapd",
            log=self.directory / "slapd.log",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "LDAPNOINIT": "1"},
        )
        self._server.start()
        try:
            wait_until(self._is_ready, "slapd to listen")
        except ProcessFault as fault:
            self.stop()
            raise ProcessFault(f"{fault}\n{self._server.log_tail()}") from None

    def _is_ready(self) -> bool:
        if not self.process.running:
            raise ProcessFault(f"slapd ended with status {self.process.returncode}")
        return accepts_connections("127.0.0.1", self.tls_port)

    def _prepare(self) -> None:
        (self.directory / "data").mkdir(parents=True)
        _make_certificate(self.directory)
        core = _CORE_SCHEMA.read_text(encoding="utf-8")
        if self._active_directory:
            core = _USER_CERTIFICATE.sub(_USER_CERTIFICATE_OF_AD, core)
        (self.directory / "core.schema").write_text(core, encoding="utf-8")
        for name, text in (("password", ADMIN_PASSWORD), ("slapd.conf", self._configuration())):
            path = self.directory / name
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")
        top = f"dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: lab\no: lab\n\n"
        self._run(["slapadd", "-q", "-f", str(self.directory / "slapd.conf")], top + self._entries)

    def _configuration(self) -> str:
        return _CONFIGURATION.format(
            schema=_ACTIVE_DIRECTORY,
            directory=self.directory,
            suffix=SUFFIX,
            admin=ADMIN_DN,
            password=ADMIN_PASSWORD,
            settings="\n".join(self._settings),
            database_settings="\n".join(self._database_settings),
        )

    def _run(self, argv: Sequence[str], ldif: str) -> None:
        environment: Mapping[str, str] = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
        done = subprocess.run(argv, input=ldif, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProcessFault(f"{argv[0]} ended with {done.returncode}: {done.stderr}")


def _is_stopped(task: Path) -> bool:
    # The name before the last parenthesis may hold anything; the state follows it.
    return (task / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "T"


def _make_certificate(directory: Path) -> None:
    """A CA and the server's certificate for 127.0.0.1: ca.pem, server.pem, server.key."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "slapd lab CA")])
    server_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])

    def blank(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        bounds = x509.CertificateBuilder().not_valid_before(now - timedelta(hours=1))
        bounds = bounds.not_valid_after(now + timedelta(days=2)).serial_number(x509.random_serial_number())
        return bounds.subject_name(subject).issuer_name(ca_name).public_key(public)

    ca = blank(ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = blank(server_name, key.public_key()).add_extension(addresses, critical=False)
    for path, made in (("ca.pem", ca), ("server.pem", server)):
        (directory / path).write_bytes(made.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    secret = directory / "server.key"
    secret.touch(mode=0o600)
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
