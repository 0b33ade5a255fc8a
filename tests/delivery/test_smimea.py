# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates in DNS: RFC 8162's names, and updates of a real BIND, read back with dig."""

import base64
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import SmimeaTarget
from acme_milter.delivery.smimea import SmimeaDelivery
from acme_milter.delivery.smimea_record import owner_name
from acme_milter.delivery.target import DeliveryFailed
from acme_milter.delivery.targets import make_target
from acme_milter.lab.bind import BindLab
from acme_milter.lab.processes import free_port
from tests.delivery.mailbox_certificates import AtNow, a_certificate, parcel_of
from tests.delivery.smimea_shown import USAGES, as_shown, association, put


def test_the_owner_name_is_that_of_rfc_8162() -> None:
    assert owner_name("hugh@example.com") == (
        "c93f1e400f26708f98cb19d936620da35eec8f72e57f9eec01c1afd6._smimecert.example.com"
    )
    assert owner_name("Hugh@example.com") != owner_name("hugh@example.com")
    assert owner_name("jose\u0301@example.com") == owner_name("jos\u00e9@example.com")


@pytest.fixture(scope="module")
def bind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BindLab]:
    zones = {
        "example.org": "grant mailer zonesub SMIMEA;",
        "example.net": "grant mailer zonesub SMIMEA;",
        "frozen.example": "",
    }
    with BindLab(tmp_path_factory.mktemp("bind") / "lab", zones=zones, keys=["mailer", "stranger"]) as server:
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
