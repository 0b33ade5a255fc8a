# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates in a snippet of a zone that named-checkzone and a real BIND take."""

import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import SmimeaTarget
from acme_milter.delivery.directories import Rights
from acme_milter.delivery.placing import placing
from acme_milter.delivery.smimea import SmimeaDelivery
from acme_milter.delivery.smimea_record import owner_name
from acme_milter.delivery.target import DeliveryFailed
from acme_milter.lab.bind import BindLab
from tests.delivery.mailbox_certificates import AtNow, a_certificate, parcel_of
from tests.delivery.smimea_shown import USAGES, as_shown, association, put

ZONE_HEAD = "$TTL 300\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ IN NS ns\nns IN A 127.0.0.1\n"


@pytest.fixture
def snippet(tmp_path: Path) -> Path:
    return tmp_path / "smimea.zone"


def zone_target(path: Path, **changes: Any) -> SmimeaDelivery:
    document = {"to": "smimea", "mode": "zone", "path": str(path), **changes}
    return SmimeaDelivery(SmimeaTarget.model_validate(document, context={"directory": path.parent}), AtNow())


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
    assert sorted(snippet.parent.iterdir()) == [snippet.parent / f".{snippet.name}.lock", snippet]
    checked(snippet)


def test_a_snippet_that_another_writer_holds_is_tried_again(snippet: Path) -> None:
    with placing(snippet.parent, (), Rights(0o644)) as other:
        other.lock(snippet.name, 1.0)
        with pytest.raises(DeliveryFailed, match="is locked by another delivery") as failure:
            put(zone_target(snippet, timeout="50ms"), "alice@example.org")
    assert not failure.value.permanent
