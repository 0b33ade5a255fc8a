# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates in DNS: RFC 8162's names and data, a snippet that named-checkzone takes, updates of a real BIND."""

import base64
import hashlib
import re
import socket
import stat
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import SmimeaTarget
from acme_milter.delivery.placing import Rights, placing
from acme_milter.delivery.smimea import SmimeaDelivery
from acme_milter.delivery.smimea_record import owner_name
from acme_milter.delivery.target import DeliveryFailed
from acme_milter.delivery.targets import make_target
from acme_milter.lab.bind import BindLab
from acme_milter.lab.processes import free_port
from tests.delivery.mailbox_certificates import AtNow, a_certificate, der, parcel_of

ZONE_HEAD = "$TTL 300\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ IN NS ns\nns IN A 127.0.0.1\n"
USAGES = ("3 0 0", "3 1 1", "3 1 2", "3 0 1", "3 0 2")


def association(certificate: x509.Certificate, usage: str) -> str:
    """RFC 6698 §2.1 once more, as dig shows it without blanks."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    octets = spki if usage[2] == "1" else der(certificate)
    digests = {"0": octets, "1": hashlib.sha256(octets).digest(), "2": hashlib.sha512(octets).digest()}
    return f"{usage} {digests[usage[4]].hex().upper()}"


def as_shown(lines: list[str]) -> list[str]:
    """dig breaks the hex up."""
    return sorted(" ".join(line.split(" ")[:3]) + " " + "".join(line.split(" ")[3:]) for line in lines)


def test_the_owner_name_is_that_of_rfc_8162() -> None:
    assert owner_name("hugh@example.com") == (
        "c93f1e400f26708f98cb19d936620da35eec8f72e57f9eec01c1afd6._smimecert.example.com"
    )
    assert owner_name("Hugh@example.com") != owner_name("hugh@example.com")
    assert owner_name("jose\u0301@example.com") == owner_name("jos\u00e9@example.com")


@pytest.fixture
def snippet(tmp_path: Path) -> Path:
    return tmp_path / "smimea.zone"


def zone_target(path: Path, **changes: Any) -> SmimeaDelivery:
    document = {"to": "smimea", "mode": "zone", "path": str(path), **changes}
    return SmimeaDelivery(SmimeaTarget.model_validate(document, context={"directory": path.parent}), AtNow())


def put(target: SmimeaDelivery, address: str, certificate: x509.Certificate | None = None) -> str:
    return target.deliver(parcel_of(address, certificate or a_certificate(address))).outcome


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], BindLab]]:
    """A BIND with a zone that includes a snippet."""
    servers: list[BindLab] = []

    def start(path: Path) -> BindLab:
        server = BindLab(tmp_path / f"bind{len(servers)}", zones={"example.org": ""})
        server.directory.mkdir()
        server.zone_file("example.org").write_text(f'{ZONE_HEAD}$INCLUDE "{path}"\n')
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.remove()


def checked(path: Path) -> str:
    """What named-checkzone says of a zone that includes the snippet; it must have nothing against it."""
    zone = path.with_suffix(".whole")
    zone.write_text(f'{ZONE_HEAD}$INCLUDE "{path}"\n')
    done = subprocess.run(["named-checkzone", "-D", "example.org", zone], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("usage", USAGES)
def test_a_snippet_of_every_usage_is_a_zone_and_says_what_the_certificate_is(snippet: Path, usage: str) -> None:
    ours = a_certificate("alice@example.org")
    said = put(zone_target(snippet, usage=usage, ttl="10m"), "alice@example.org", ours)
    (shown,) = re.findall(
        rf"^{owner_name('alice@example.org')}\.\s+600\s+IN\s+SMIMEA\s+(.*)$", checked(snippet), re.MULTILINE
    )
    assert as_shown([shown]) == [association(ours, usage)]
    assert said == f"SMIMEA {usage} at {owner_name('alice@example.org')}, in {snippet}; the name server has to load it"


def test_a_name_server_that_includes_the_snippet_answers_with_it(
    snippet: Path, serve: Callable[[Path], BindLab]
) -> None:
    alice, bob = a_certificate("alice@example.org"), a_certificate("bob@example.org")
    put(zone_target(snippet), "alice@example.org", alice)
    put(zone_target(snippet), "bob@example.org", bob)
    server = serve(snippet)
    for address, certificate in (("alice@example.org", alice), ("bob@example.org", bob)):
        assert as_shown(server.dig(owner_name(address), "SMIMEA")) == [association(certificate, "3 0 0")]


def test_a_snippet_has_one_block_for_each_mailbox_sorted_and_the_same_twice(snippet: Path) -> None:
    target = zone_target(snippet, usage="3 1 1")
    addresses = ["zoe@example.org", "jürgen@example.org", "alice@example.org", "m@a.example.org", "Alice@example.org"]
    for address in addresses:
        put(target, address, a_certificate("anybody@example.org"))
    last = a_certificate("zoe@example.org")
    put(target, "zoe@example.org", last)
    text = snippet.read_text()
    assert re.findall(r"^; (\S+@\S+)$", text, re.MULTILINE) == [
        "m@a.example.org", "Alice@example.org", "alice@example.org",
        "jürgen@example.org", "zoe@example.org",
    ]  # fmt: skip
    assert text.count(" IN SMIMEA ") == len(addresses)
    assert association(last, "3 1 1").lower() in text
    checked(snippet)
    before = snippet.stat()
    put(target, "zoe@example.org", last)
    assert snippet.read_text() == text
    assert snippet.stat().st_ino == before.st_ino


def test_signing_and_encryption_certificates_are_under_the_one_name(snippet: Path) -> None:
    address = "alice@example.org"
    signing = a_certificate(address, usage=KeyUsageKind.SIGN)
    encryption = a_certificate(address, usage=KeyUsageKind.ENCRYPT)
    target = zone_target(snippet, usage="3 1 1")
    target.deliver(parcel_of(address, signing, usage=KeyUsageKind.SIGN, beside=(encryption,)))
    text = snippet.read_text()
    target.deliver(parcel_of(address, encryption, usage=KeyUsageKind.ENCRYPT, beside=(signing,)))
    assert snippet.read_text() == text
    assert [association(one, "3 1 1").lower() in text for one in (signing, encryption)] == [True, True]


def test_what_has_expired_leaves_the_snippet_with_the_next_change(snippet: Path) -> None:
    put(zone_target(snippet), "gone@example.org", a_certificate("gone@example.org", age=9, lasts=9))
    put(zone_target(snippet), "alice@example.org")
    assert "gone@" not in snippet.read_text()


def test_a_snippet_keeps_its_rights_and_a_link_to_it_stays_one(snippet: Path) -> None:
    put(zone_target(snippet), "alice@example.org")
    assert stat.S_IMODE(snippet.stat().st_mode) == 0o644
    snippet.chmod(0o640)
    link = snippet.parent / "link"
    link.symlink_to(snippet)
    put(zone_target(link), "bob@example.org")
    assert link.is_symlink()
    assert stat.S_IMODE(snippet.stat().st_mode) == 0o640
    assert "bob@example.org" in snippet.read_text()


def test_a_line_of_somebody_else_s_is_not_overwritten(snippet: Path) -> None:
    put(zone_target(snippet), "alice@example.org")
    with snippet.open("a") as file:
        file.write("www IN A 192.0.2.1\n")
    before = snippet.read_text()
    with pytest.raises(DeliveryFailed, match="line 5 is not of acme-milter's making") as failure:
        put(zone_target(snippet), "bob@example.org")
    assert failure.value.permanent
    assert snippet.read_text() == before


def test_no_directory_for_the_snippet_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed, match="does not exist"):
        put(zone_target(tmp_path / "none" / "smimea.zone"), "alice@example.org")


def test_many_writers_lose_nothing_of_a_snippet(snippet: Path) -> None:
    addresses = [f"u{number}@example.org" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda address: put(zone_target(snippet, usage="3 1 1"), address), addresses))
    assert sorted(re.findall(r"^; (\S+@\S+)$", snippet.read_text(), re.MULTILINE)) == sorted(addresses)
    assert list(snippet.parent.iterdir()) == [snippet]
    checked(snippet)


def test_a_snippet_that_another_writer_holds_is_tried_again(snippet: Path) -> None:
    with placing(snippet.parent, (), Rights(0o644)) as other:
        other.lock(1.0)
        with pytest.raises(DeliveryFailed, match="is locked by another delivery") as failure:
            put(zone_target(snippet, timeout="50ms"), "alice@example.org")
    assert not failure.value.permanent


@pytest.fixture(scope="module")
def bind() -> Iterator[BindLab]:
    zones = {
        "example.org": "grant mailer zonesub SMIMEA;",
        "example.net": "grant mailer zonesub SMIMEA;",
        "frozen.example": "",
    }
    with BindLab(Path(tempfile.mkdtemp(prefix="bind-")) / "lab", zones=zones, keys=["mailer", "stranger"]) as server:
        yield server


Update = Callable[..., SmimeaDelivery]


@pytest.fixture
def update(bind: BindLab, tmp_path: Path) -> Update:
    def make(
        *, key: str = "mailer", secret: str | None = None, algorithm: str = "hmac-sha256", **changes: Any
    ) -> SmimeaDelivery:
        file = tmp_path / "tsig"
        file.touch(mode=0o600)
        file.write_text((bind.secrets[key] if secret is None else secret) + "\n")
        name = changes.pop("key_name", key)
        tsig = {"key_name": name, "algorithm": algorithm, "secret": {"file": str(file)}}
        document = {"to": "smimea", "mode": "nsupdate", "server": "127.0.0.1", "port": bind.port, "tsig": tsig}
        section = SmimeaTarget.model_validate(document | changes, context={"directory": tmp_path})
        return SmimeaDelivery(section, AtNow())

    return make


@pytest.fixture
def failing(update: Update, bind: BindLab) -> Callable[..., DeliveryFailed]:
    def fail(address: str = "alice@example.org", **changes: Any) -> DeliveryFailed:
        with pytest.raises(DeliveryFailed) as failure:
            put(update(**changes), address)
        shown = "".join(traceback.format_exception(failure.value))
        assert not [secret for secret in bind.secrets.values() if secret in shown]
        return failure.value

    return fail


@pytest.mark.parametrize("usage", USAGES)
def test_an_update_puts_the_certificate_into_the_zone(update: Update, bind: BindLab, usage: str) -> None:
    address = f"{usage.replace(' ', '')}@example.org"
    ours = a_certificate(address)
    said = put(update(usage=usage), address, ours)
    assert as_shown(bind.dig(owner_name(address), "SMIMEA")) == [association(ours, usage)]
    where = f"zone example.org., by 127.0.0.1 port {bind.port}"
    assert said == f"SMIMEA {usage} at {owner_name(address)}, {where}"


def test_an_update_replaces_what_was_there_and_twice_is_as_once(update: Update, bind: BindLab) -> None:
    address = "renewed@example.org"
    put(update(), address)
    ours = a_certificate(address)
    put(update(usage="3 1 1"), address, ours)
    put(update(usage="3 1 1"), address, ours)
    assert as_shown(bind.dig(owner_name(address), "SMIMEA")) == [association(ours, "3 1 1")]


def test_both_certificates_of_a_mailbox_are_in_the_zone(update: Update, bind: BindLab) -> None:
    address = "two@example.org"
    signing = a_certificate(address, usage=KeyUsageKind.SIGN)
    encryption = a_certificate(address, usage=KeyUsageKind.ENCRYPT)
    update().deliver(parcel_of(address, signing, beside=(encryption,)))
    shown = as_shown(bind.dig(owner_name(address), "SMIMEA"))
    assert shown == sorted(association(one, "3 0 0") for one in (signing, encryption))


def test_mailboxes_of_domains_within_a_zone_go_there(update: Update, bind: BindLab) -> None:
    ours = a_certificate("bob@mail.example.net")
    put(update(zone="example.net"), "bob@mail.example.net", ours)
    assert as_shown(bind.dig(owner_name("bob@mail.example.net"), "SMIMEA")) == [association(ours, "3 0 0")]


FAULTS: Mapping[str, tuple[Mapping[str, Any], bool, str]] = {
    "another name for the key": ({"key_name": "nobody"}, True, r"does not know the key nobody \(BADKEY\)"),
    "another secret": (
        {"key": "stranger", "key_name": "mailer"},
        True,
        r"another secret or algorithm there \(BADSIG\)",
    ),
    "another algorithm": ({"algorithm": "hmac-sha512"}, True, r"\(BAD(KEY|SIG)\)"),
    "a key without the right": (
        {"key": "stranger"},
        True,
        r"REFUSED: the key stranger may not .*grant stranger zonesub",
    ),
    "a zone that takes none": ({"address": "a@frozen.example"}, True, "REFUSED: "),
    "a zone of somebody else": (
        {"address": "a@elsewhere.example"},
        True,
        r"NOTAUTH: .* for the zone elsewhere.example",
    ),
    "a zone that is part of one": ({"address": "a@mail.example.org"}, True, r"NOTAUTH: .*name that one in zone"),
    "a domain outside the zone": ({"zone": "example.net"}, True, "example.org is not in the zone example.net"),
    "no base64": ({"secret": "!"}, True, "tsig.secret is not base64"),
    "nobody there": ({"port": free_port()}, False, "cannot be reached .*refused"),
    "no such host": ({"server": "nowhere.invalid"}, False, "cannot be reached"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_server_has_against_an_update_is_told_and_whether_that_passes(
    failing: Callable[..., DeliveryFailed], name: str
) -> None:
    changes, permanent, reason = FAULTS[name]
    failure = failing(**changes)
    assert re.search(reason, str(failure)), str(failure)
    assert failure.permanent is permanent


def test_clocks_that_differ_are_told_as_such_and_pass(
    failing: Callable[..., DeliveryFailed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dns.message.time", SimpleNamespace(time=lambda: time.time() - 3600))
    failure = failing()
    assert "(BADTIME)" in str(failure)
    assert not failure.permanent


def test_a_secret_that_cannot_be_read_is_told(update: Update, tmp_path: Path) -> None:
    target = update()
    (tmp_path / "tsig").unlink()
    with pytest.raises(DeliveryFailed, match=r"tsig\.secret: the file") as failure:
        put(target, "alice@example.org")
    assert failure.value.permanent


def test_a_yes_that_is_not_signed_is_not_believed(failing: Callable[..., DeliveryFailed]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as anybody:
        impostor = threading.Thread(target=_say_yes, args=(anybody,))
        impostor.start()
        failure = failing(port=anybody.getsockname()[1])
        impostor.join()
    assert "cannot be believed (FormError: response requires a TSIG" in str(failure)
    assert not failure.permanent


def _say_yes(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        question = stream.read(int.from_bytes(stream.read(2)))
        # RFC 2136 §2.2: the same ID, QR and the opcode UPDATE, no error; the zone section once more.
        header = question[:2] + b"\xa8\x00" + question[4:6] + bytes(6)
        answer = header + question[12 : question.index(b"\x00", 12) + 5]
        connection.sendall(len(answer).to_bytes(2) + answer)


def test_a_server_that_does_not_answer_is_tried_again(
    failing: Callable[..., DeliveryFailed],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        failure = failing(port=deaf.getsockname()[1], timeout="100ms")
    assert "no answer within 0.1 s" in str(failure)
    assert not failure.permanent


def test_the_journal_of_an_update_outlives_the_server(tmp_path: Path) -> None:
    with BindLab(tmp_path / "lab", zones={"example.org": "grant k zonesub SMIMEA;"}, keys=["k"]) as server:
        file = tmp_path / "tsig"
        file.touch(mode=0o600)
        file.write_text(server.secrets["k"])
        assert len(base64.b64decode(server.secrets["k"])) == 32
        tsig = {"key_name": "k", "secret": {"file": str(file)}}
        document = {"to": "smimea", "mode": "nsupdate", "server": "localhost", "port": server.port, "tsig": tsig}
        section = SmimeaTarget.model_validate(document, context={"directory": tmp_path})
        put(make_target(section), "alice@example.org")  # type: ignore[arg-type]  # it is the one of this test
        server.stop()
        server.start()
        assert len(server.dig(owner_name("alice@example.org"), "SMIMEA")) == 1
    assert not (tmp_path / "lab").exists()
