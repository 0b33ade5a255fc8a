# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes and authorities are checked against each other, and a fault about a secret never quotes it."""

from pathlib import Path

import pytest

from acme_milter.config.loader import ConfigFaults, load, load_text

CANARY = "c2VjcmV0-canary"


def faults_of(text: str) -> list[str]:
    """The faults of a text as `line: key: message`."""
    try:
        load_text(text, Path("acme-milter.yaml"))
    except ConfigFaults as found:
        return [str(fault).removeprefix("acme-milter.yaml:") for fault in found.faults]
    return []


MAILBOX_FAULTS = {
    "twice": ("alice@example.org", "is listed twice: alice@example.org (first in line 5)"),
    "twice by domain": ("alice@EXAMPLE.org", "is listed twice: alice@example.org (first in line 5)"),
    "case": ("Alice@example.org", "differs only by case from alice@example.org in line 5: Alice@example.org"),
    "outside": ("bob@example.net", "is not in this domain: 'bob@example.net'"),
    "subdomain": ("bob@mail.example.org", "is not in this domain: 'bob@mail.example.org'"),
    "local part only": ("bob", "is no mail address: 'bob' (did you mean bob@example.org?)"),
    "star": ('"*@example.org"', "has a *, but mailboxes are listed one by one: '*@example.org'"),
    "star inside": ("sales*@example.org", "has a *, but mailboxes are listed one by one: 'sales*@example.org'"),
    "blank": ("a b@example.org", "is no mail address: 'a b@example.org': the local part is not a dot-atom"),
    "dots": ("a..b@example.org", "is no mail address: 'a..b@example.org': the local part is not a dot-atom"),
    "name": (
        "'Bob <bob@example.org>'",
        "is no mail address: 'Bob <bob@example.org>': the domain is not made of letters, digits and hyphens",
    ),
    "invisible": (
        '"j\\u200brg@example.org"',
        "is no mail address: 'j\\u200brg@example.org': the local part holds a blank or an invisible character",
    ),
    "escape": (
        '"a\\e[31m@example.org"',
        "is no mail address: 'a\\x1b[31m@example.org': the local part is not a dot-atom",
    ),
    "number": ("5", "must be text (not 5; put it in quotes if it is meant so)"),
}


@pytest.mark.parametrize(("entry", "message"), MAILBOX_FAULTS.values(), ids=MAILBOX_FAULTS.keys())
def test_a_listed_mailbox_must_be_one_address_of_its_domain(entry: str, message: str) -> None:
    text = (
        "authorities: {a: {preset: castle, agree_tos: true}}\ndomains:\n  example.org:\n    mailboxes: {list: [\n"
        f"      alice@example.org,\n      {entry}]}}\n"
    )
    assert faults_of(text) == [f"6: domains.example.org.mailboxes.list[1]: {message}"]


def test_a_domain_is_one_domain_however_it_is_written() -> None:
    text = (
        "authorities: {a: {preset: castle, agree_tos: true}}\ndomains:\n"
        "  bücher.example: {mailboxes: {list: []}}\n  xn--bcher-kva.EXAMPLE: {mailboxes: {list: []}}\n"
        "  localhost: {mailboxes: {list: []}}\n"
    )
    assert faults_of(text) == [
        "4: domains.xn--bcher-kva.EXAMPLE: is the same domain as 'bücher.example' in line 3",
        "5: domains.localhost: is not a mail domain: the domain does not have at least two labels",
    ]


def test_terms_must_be_agreed_to_for_authorities_in_use_only() -> None:
    text = (
        "authorities:\n  used: {preset: castle}\n  refused: {preset: castle, agree_tos: false}\n"
        "  idle: {preset: castle}\ndefaults: {authorities: [used]}\n"
        "domains:\n  a.example: {mailboxes: {list: []}}\n"
        "  b.example: {mailboxes: {list: []}, authorities: [refused]}\n"
    )
    first, second = faults_of(text)
    assert first.startswith("2: authorities.used.agree_tos: the authority's terms of service must be agreed to by you")
    assert second.startswith("3: authorities.refused.agree_tos: ")
    assert "set agree_tos: true" in first


def test_without_a_choice_every_authority_is_in_use() -> None:
    text = "authorities: {a: {preset: castle}, b: {preset: castle}}\ndomains: {a.example: {mailboxes: {list: []}}}\n"
    assert [fault.split(":")[1] for fault in faults_of(text)] == [
        " authorities.a.agree_tos",
        " authorities.b.agree_tos",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"authorities: {{a: {{preset: castle, eab: {{kid: {CANARY}, hmac: {CANARY}}}}}}}",
        f"authorities: {{a: {{preset: castle, eab: {{kid: [{CANARY}], hmac: {{{CANARY}}}}}}}}}",
        f"authorities: {{a: {{preset: castle, eab: {{kid: {{env: '{CANARY}'}}, hmac: {{credential: '/{CANARY}'}}}}}}}}",
        f"authorities: {{a: {{preset: castle, eab: {{kid: {{{CANARY}: x}}, hmac: {{file: {{x: {CANARY}}}}}}}}}}}",
        f"authorities: {{a: {{preset: castle, eab: {{kid: {{file: a, env: '{CANARY}'}}, hmac: {{file: [x]}}}}}}}}",
        f"keys: {{wrapping_key: {CANARY}}}",
        f"keys: {{wrapping_key: {{key: {CANARY}}}}}",
        f"keys: {{wrapping_key: [{CANARY}]}}",
        f"store: {{url: 'mysql://u:{CANARY}@db/x'}}",
        f"store: {{url: ['postgresql://u:{CANARY}@db/x']}}",
        f"authorities: {{a: {{directory: 'https://u:{CANARY}@ca.example/'}}}}",
        f"authorities: {{a: {{preset: castle, eab: {{kid: {{file: x}}, hmac: *{CANARY}}}}}}}",
        f"authorities: {{a: {{preset: castle, eab: {{kid: {{file: x}}, hmac: @{CANARY}}}}}}}",
    ],
)
def test_a_secret_written_in_the_wrong_place_is_never_quoted(text: str) -> None:
    found = faults_of(text)
    assert found
    assert "canary" not in "\n".join(found)


SIGNED = "authorities: {a: {preset: castle, agree_tos: true, %s}}\ndomains: {example.org: {mailboxes: {list: []}}}\n"


def test_smime_signed_challenges_need_something_that_they_rest_on() -> None:
    (fault,) = faults_of(SIGNED % "accept_smime_signed: true")
    assert fault.startswith("1: authorities.a.accept_smime_signed: needs smime_trust")
    assert faults_of(SIGNED % "accept_smime_signed: true, smime_trust: signers.pem") == []
    assert faults_of(SIGNED % "accept_smime_signed: false") == []
    assert faults_of(SIGNED % "smime_trust: signers.pem") == []


def test_what_signed_challenges_rest_on_has_to_be_certificates(tmp_path: Path) -> None:
    (tmp_path / "signers.pem").write_text("nothing")
    path = tmp_path / "acme-milter.yaml"
    path.write_text(SIGNED % "accept_smime_signed: true, smime_trust: signers.pem")
    path.chmod(0o600)
    with pytest.raises(ConfigFaults) as caught:
        load(path, files=True)
    assert "signers.pem holds no certificates (PEM)" in str(caught.value.faults[0])


ALIAS_FAULTS = {
    "of nobody": ("bob@example.org: [b@example.org]", "is not in this domain's mailboxes.list: 'bob@example.org'"),
    "listed": ("alice@example.org: [Carol@example.org]", "is a mailbox that is listed itself: carol@example.org"),
    "of two": (
        "alice@example.org: [a@example.org], carol@example.org: [A@example.org]",
        "is an alias of alice@example.org already: A@example.org",
    ),
    "elsewhere": ("alice@example.org: [a@example.net]", "is in no configured domain: 'a@example.net'"),
    "no address": ("alice@example.org: [a]", "is no mail address: 'a' (did you mean a@example.org?)"),
    "owner elsewhere": ("alice@example.net: [a@example.org]", "is not in this domain: 'alice@example.net'"),
}


@pytest.mark.parametrize("case", ALIAS_FAULTS)
def test_an_alias_belongs_to_one_listed_mailbox_and_a_configured_domain(case: str) -> None:
    written, message = ALIAS_FAULTS[case]
    text = f"""\
version: 1
authorities: {{ca: {{directory: "https://ca.example/", agree_tos: true}}}}
domains:
  example.org:
    mailboxes:
      list: [alice@example.org, carol@example.org]
      aliases: {{{written}}}
"""
    (fault,) = faults_of(text)
    assert fault.startswith("7: domains.example.org.mailboxes.aliases.")
    assert fault.endswith(message)
