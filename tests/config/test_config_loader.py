# SPDX-License-Identifier: GPL-3.0-or-later
"""What a configuration means once it is read: defaults, presets, overriding, look-ups, files."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from acme_milter.config.loader import ConfigFaults, load, load_text
from acme_milter.config.preset import preset_names
from acme_milter.config.schema import Authority, Config, DkimKey
from acme_milter.config.values import Endpoint
from acme_milter.protocol.dkim_policy import HeaderCoverage
from acme_milter.protocol.token import TokenJoin

CASTLE = "authorities: {castle: {preset: castle, agree_tos: true}}\n"
SMALLEST = CASTLE + "domains: {example.org: {mailboxes: {list: [alice@example.org]}}}\n"


def read(text: str) -> Config:
    return load_text(text, Path("/etc/acme-milter/acme-milter.yaml"))


def written(directory: Path, text: str = SMALLEST, mode: int = 0o600) -> Path:
    path = directory / "acme-milter.yaml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_the_smallest_useful_configuration_has_every_default() -> None:
    config = read(SMALLEST)
    assert config.managed() == {"alice@example.org"}
    assert config.store.url == "sqlite:////var/lib/acme-milter/acme-milter.db"
    assert config.milter.socket == "unix:/var/spool/postfix/acme-milter/acme-milter.sock"
    assert config.milter.socket_path == Path("/var/spool/postfix/acme-milter/acme-milter.sock")
    assert config.milter.deadline == timedelta(seconds=8)
    assert config.milter.socket_mode == 0o660
    policy = config.policy_for("alice@example.org")
    assert policy is not None
    assert (policy.mode, policy.on_success, policy.certificate.key) == ("enforce", "discard", "rsa3072")
    assert policy.authorities == ("castle",)
    assert (policy.reply.host, policy.reply.port, policy.reply.dkim) == ("127.0.0.1", 10028, "relay")


def test_an_empty_file_is_a_configuration_without_mailboxes() -> None:
    assert read("").managed() == frozenset()
    assert read("store:\nmilter:\ndefaults: {reply: , authorities: }\ndomains:\nsources:\n").authorities == {}


def test_the_preset_lies_under_the_authoritys_own_keys() -> None:
    config = read("authorities:\n  c:\n    preset: castle\n    post_delay: 2m\n    limits: {connections: 1}\n")
    authority = config.authorities["c"]
    assert authority.directory == "https://acme.castle.cloud/acme/directory"
    assert authority.post_delay == timedelta(minutes=2)
    assert (authority.limits.in_flight, authority.limits.connections) == (5, 1)
    assert authority.token_join is TokenJoin.BYTES


def test_each_preset_is_a_whole_set_of_valid_values() -> None:
    assert preset_names() == ["acme2certifier", "castle", "castle-staging", "rapidmx", "rfc8823"]
    found = {
        name: read(f"authorities: {{a: {{preset: {name}, directory: 'https://ca.example/d'}}}}").authorities["a"]
        for name in preset_names()
    }
    assert {name: a.token_join.value for name, a in found.items() if a.token_join != "string"} == {
        "castle": "bytes",
        "castle-staging": "bytes",
    }
    assert [name for name, a in found.items() if a.dkim_headers is HeaderCoverage.STRICT] == ["rfc8823"]
    assert [name for name, a in found.items() if not a.require_auto_submitted] == ["acme2certifier"]
    assert {name: a.post_delay.total_seconds() for name, a in found.items()} == {
        "acme2certifier": 30,
        "castle": 30,
        "castle-staging": 30,
        "rapidmx": 0,
        "rfc8823": 2,
    }


def test_the_rfc8823_preset_is_the_schemas_own_defaults() -> None:
    config = read("authorities: {a: {directory: 'https://ca.example/d'}}")
    assert config.authorities["a"] == Authority(directory="https://ca.example/d")


def test_a_domain_overrides_the_defaults_key_by_key() -> None:
    config = read(
        CASTLE
        + "defaults: {mode: observe, certificate: {key: p384}, reply: {port: 25, dkim: {selector: a, key_file: k}}}\n"
        "domains:\n"
        "  a.example: {mailboxes: {list: [x@a.example]}}\n"
        "  b.example: {mailboxes: {list: [x@b.example]}, mode: enforce, reply: {host: mx.b.example}}\n"
        "  c.example: {mailboxes: {list: [x@c.example]}, reply: {dkim: relay}, certificate: {key: p256}}\n"
        "  d.example: {mailboxes: {list: [x@d.example]}, reply: {dkim: {selector: d, key_file: /k}}}\n"
    )
    a, b, c, d = (config.policies[f"{name}.example"] for name in "abcd")
    key = DkimKey(selector="a", key_file=Path("/etc/acme-milter/k"))
    assert (a.mode, a.certificate.key, a.reply.port, a.reply.dkim) == ("observe", "p384", 25, key)
    assert (b.mode, b.certificate.key, b.reply.port, b.reply.host) == ("enforce", "p384", 25, "mx.b.example")
    assert b.reply.dkim == key
    assert (c.reply.dkim, c.reply.port, c.certificate.key) == ("relay", 25, "p256")
    assert d.reply.dkim == DkimKey(selector="d", key_file=Path("/k"))


def test_authorities_default_to_all_in_the_order_of_the_file_and_lists_replace() -> None:
    config = read(
        "authorities:\n  z: {preset: castle, agree_tos: true}\n  a: {preset: castle, agree_tos: true}\n"
        "domains:\n  a.example: {mailboxes: {list: []}}\n"
        "  b.example: {mailboxes: {list: []}, authorities: [a]}\n"
    )
    assert config.policies["a.example"].authorities == ("z", "a")
    assert config.policies["b.example"].authorities == ("a",)


@pytest.mark.parametrize(
    ("address", "canonical"),
    [
        ("Alice@example.org", "Alice@example.org"),
        ("alice@EXAMPLE.org", "Alice@example.org"),
        ("ALICE@example.org", "Alice@example.org"),
        ("bob@bücher.example", "bob@xn--bcher-kva.example"),
        ("BOB@BÜCHER.example", "bob@xn--bcher-kva.example"),
        ("bob@xn--bcher-kva.example", "bob@xn--bcher-kva.example"),
        ("alice@example.net", None),
        ("alice+x@example.org", None),
        ("", None),
        ("@", None),
        ("jörg", None),
        ("\udcff@example.org", None),
        ("<alice@example.org>", None),
    ],
)
def test_canonical_finds_the_configured_spelling(address: str, canonical: str | None) -> None:
    config = read(
        CASTLE + "domains:\n  Example.ORG: {mailboxes: {list: [Alice@Example.org]}}\n"
        "  bücher.example: {mailboxes: {list: [bob@bücher.example]}}\n"
    )
    assert config.canonical(address) == canonical
    assert (config.policy_for(address) is None) == (canonical is None)


def test_a_hundred_thousand_mailboxes_are_read_in_seconds_and_found_at_once() -> None:
    lists = "".join(
        f"  d{d}.example: {{mailboxes: {{list: [\n" + "".join(f"u{n}@d{d}.example,\n" for n in range(10_000)) + "]}}\n"
        for d in range(10)
    )
    began = time.monotonic()
    config = read(CASTLE + "domains:\n" + lists)
    loaded = time.monotonic()
    assert len(config.managed()) == 100_000
    for n in range(10_000):
        assert config.canonical(f"U{n}@d7.example") is not None
        assert config.policy_for("nobody@d7.example") is None
    assert loaded - began < 20
    assert time.monotonic() - loaded < 1


def test_nameservers_are_addresses_with_ports() -> None:
    config = read("dns: {nameservers: ['127.0.0.1:5353', 192.0.2.1, '::1', '[::1]:5300', '[2001:db8::1]']}")
    assert config.dns.nameservers == (
        ("127.0.0.1", 5353),
        ("192.0.2.1", 53),
        ("::1", 53),
        ("::1", 5300),
        ("2001:db8::1", 53),
    )
    assert str(Endpoint("::1", 53)) == "[::1]:53"


@pytest.mark.parametrize(
    ("spelling", "socket"),
    [
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("local:/run/a.sock", "unix:/run/a.sock"),
        ("/run/a.sock", "unix:/run/a.sock"),
        ("unix:a.sock", "unix:/etc/acme-milter/a.sock"),
        ("inet:8823@127.0.0.1", "inet:8823@127.0.0.1"),
        ("inet:8823@localhost", "inet:8823@localhost"),
        ("inet6:8823@[::1]", "inet6:8823@::1"),
    ],
)
def test_every_usual_spelling_of_a_milter_socket_is_understood(spelling: str, socket: str) -> None:
    assert read(f"milter: {{socket: '{spelling}'}}").milter.socket == socket


@pytest.mark.parametrize("spelling", ["0640", "'0640'", "640", "0o640"])
def test_permission_bits_are_octal_in_every_spelling(spelling: str) -> None:
    assert read(f"milter: {{socket_mode: {spelling}}}").milter.socket_mode == 0o640


def test_relative_paths_count_from_the_configuration_file(tmp_path: Path) -> None:
    text = (
        "store: {url: 'sqlite:///state.db'}\nworker: {intake_socket: run/i.sock}\nkeys: {wrapping_key: {file: w.key}}\n"
        "authorities: {a: {preset: castle, ca_bundle: ca.pem, eab: {kid: {file: kid}, hmac: {env: HMAC}}}}\n"
    )
    config = load(written(tmp_path, text))
    assert config.store.url == f"sqlite:///{tmp_path}/state.db"
    assert config.worker.intake_socket == tmp_path / "run/i.sock"
    assert config.keys.wrapping_key.file == tmp_path / "w.key"
    eab = config.authorities["a"].eab
    assert eab is not None
    assert eab.kid.file == tmp_path / "kid"
    assert eab.hmac.env == "HMAC"


def test_contacts_become_mailto_urls() -> None:
    config = read("authorities: {a: {preset: castle, contact: [pki@Example.org, 'mailto:x@example.org']}}")
    assert config.authorities["a"].contact == ("mailto:pki@example.org", "mailto:x@example.org")


def test_a_configuration_cannot_be_changed() -> None:
    config = read(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        config.defaults.mode = "observe"
    with pytest.raises(AttributeError):
        config.version = 2  # type: ignore[misc] # that it is refused is the point


def test_a_database_password_is_not_in_the_repr() -> None:
    config = read("store: {url: 'postgresql://u:canary@db.example/x'}")
    assert config.store.has_password
    assert "canary" not in repr(config)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, mode=mode)
    with pytest.raises(ConfigFaults, match=f"run: chmod go-w {path}"):
        load(path)
    path.chmod(0o644)
    load(path)


def test_a_password_in_a_file_that_everyone_reads_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "\nstore: {url: 'postgresql://u:canary@db.example/x'}\n", 0o644)
    with pytest.raises(ConfigFaults) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}:2: store.url: holds a password, and everyone can read this file; run: chmod o-r {path}"
    )
    path.chmod(0o640)
    load(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read: No such file"), (b"a: 1\n\xff\n", ":2: is not UTF-8 text"), (b"- x", "must be a map")],
)
def test_a_file_that_cannot_be_read_is_a_fault_too(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "acme-milter.yaml"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(ConfigFaults, match=words):
        load(path)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeff" + SMALLEST)
    assert load(path).managed()


def test_secrets_of_delivery_are_looked_at_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "loose").write_text("x")
    (tmp_path / "loose").chmod(0o644)
    text = (
        "authorities: {a: {preset: castle, agree_tos: true}}\n"
        "defaults:\n  deliver:\n"
        "    - {to: ldap, uri: 'ldaps://d.example', base: 'dc=d', bind: {dn: 'cn=a', password: {file: gone}}}\n"
        "    - to: smimea\n      mode: nsupdate\n      server: ns.example\n"
        "      tsig: {key_name: k, secret: {file: loose}}\n"
        "domains: {example.org: {mailboxes: {list: []}}}\n"
    )
    path = written(tmp_path, text)
    load(path)
    with pytest.raises(ConfigFaults) as caught:
        load(path, files=True)
    assert [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults] == [
        f"4: defaults.deliver[0].bind.password.file: names {tmp_path}/gone: No such file or directory",
        (
            f"8: defaults.deliver[1].tsig.secret.file: the secret {tmp_path}/loose can be used by group or others"
            f" (mode 0644); run: chmod 0600 {tmp_path}/loose"
        ),
    ]


def test_named_files_are_looked_at_on_request(tmp_path: Path) -> None:
    (tmp_path / "loose").write_text("x")
    (tmp_path / "loose").chmod(0o644)
    (tmp_path / "private").write_text("x")
    (tmp_path / "private").chmod(0o600)
    text = (
        "authorities:\n  a:\n    preset: castle\n    agree_tos: true\n"
        "    ca_bundle: missing.pem\n    trust_roots: loose\n"
        "    eab: {kid: {file: private}, hmac: {file: loose}}\n"
        "defaults: {reply: {dkim: {selector: a, key_file: private}}}\n"
        "domains:\n  example.org:\n    mailboxes: {list: []}\n    reply: {dkim: {selector: a, key_file: .}}\n"
    )
    path = written(tmp_path, text)
    load(path)
    with pytest.raises(ConfigFaults) as caught:
        load(path, files=True)
    assert [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults] == [
        f"5: authorities.a.ca_bundle: names {tmp_path}/missing.pem: No such file or directory",
        f"6: authorities.a.trust_roots: {tmp_path}/loose holds no certificates (PEM)",
        (
            f"7: authorities.a.eab.hmac.file: the secret {tmp_path}/loose can be used by group or others"
            f" (mode 0644); run: chmod 0600 {tmp_path}/loose"
        ),
        f"12: domains.example.org.reply.dkim.key_file: names {tmp_path}, which is not a file",
    ]
