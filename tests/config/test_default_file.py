# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository's acme-milter.yaml is true: it loads, shows every key, and shows it with its default."""

import re
from pathlib import Path

import pytest

from acme_milter.config.delivery import TARGET_TYPES, TsigKey
from acme_milter.config.loader import load_text
from acme_milter.config.schema import (
    Authority,
    AuthorityLimits,
    CertificatePolicy,
    Defaults,
    DnsSection,
    Domain,
    Eab,
    GroupMatch,
    KeyPool,
    KeysSection,
    LeaversPolicy,
    MailboxesSection,
    MilterSection,
    Policy,
    RenewalPolicy,
    ReplyPolicy,
    SafetyPolicy,
    Store,
    WorkerSection,
)
from acme_milter.config.section import Section
from acme_milter.config.sources import SOURCE_TYPES, CsvSource, DovecotSource, LdapBind, LdapMap, PostfixSource

FILE = Path(__file__).parents[2] / "acme-milter.yaml"
TEXT = FILE.read_text(encoding="utf-8")


def uncommented() -> str:
    """The file with every commented key of its example authority and its example domains switched on."""
    text = re.sub(r"^    # (?=[a-z_]+: +\S|eab:|  kid:|  hmac:)(?!What|the values)", "    ", TEXT, flags=re.MULTILINE)
    text = re.sub(
        r"^(sources|domains): \{\}$", r"\1:", text.replace("agree_tos: false", "agree_tos: true"), flags=re.MULTILINE
    )
    head, _, rest = text.partition("\nsources:\n")
    return f"{head}\nsources:\n{re.sub(r'^#  ', '  ', rest, flags=re.MULTILINE)}"


def test_what_it_shows_is_the_default() -> None:
    config = load_text(TEXT, FILE)
    assert config.store == Store()
    assert config.milter == MilterSection()
    assert config.worker == WorkerSection()
    assert config.keys == KeysSection()
    assert config.dns == DnsSection()
    assert config.defaults == Defaults()
    assert config.domains == {}


def test_its_commented_keys_are_valid_and_show_the_rfc8823_preset() -> None:
    config = load_text(uncommented().replace("preset: castle", "preset: rfc8823"), FILE)
    assert config.managed() == {"alice@example.org", "bob@example.org", "carol@example.net"}
    authority = config.authorities["castle"]
    own = {"directory", "staging", "agree_tos", "ca_bundle", "trust_roots", "eab", "profile", "preferred_chain"}
    own |= {"caa_domains", "lint_ignore", "smime_trust", "preset"}
    default = Authority(directory=authority.directory)
    assert authority.model_dump(exclude=own) == default.model_dump(exclude=own)
    assert authority.model_fields_set == set(Authority.model_fields)


def test_its_commented_sources_show_the_defaults() -> None:
    sources = load_text(uncommented(), FILE).sources
    assert {source.model_dump()["type"] for source in sources.values()} == set(SOURCE_TYPES)
    assert sources["postfix"] == PostfixSource(type="postfix")
    assert sources["dovecot"] == DovecotSource(type="dovecot")
    assert sources["personnel"] == CsvSource(type="csv", path=Path("/srv/hr/mailboxes.csv"))
    assert sources["directory"].model_dump()["map"] == LdapMap().model_dump()


def test_its_commented_domain_shows_every_layer() -> None:
    config = load_text(uncommented(), FILE)
    carol = config.policy_for("carol@example.net")
    assert carol is not None
    assert (carol.mode, carol.renewal.at, carol.certificate.key) == ("observe", 0.67, "p384")
    assert [target.kind for target in carol.deliver] == ["files", "hook", "ldap", "signing-milter", "smimea"]


@pytest.mark.parametrize(
    "section",
    [
        Store,
        MilterSection,
        WorkerSection,
        KeysSection,
        KeyPool,
        DnsSection,
        Authority,
        AuthorityLimits,
        Eab,
        Policy,
        CertificatePolicy,
        Defaults,
        RenewalPolicy,
        LeaversPolicy,
        SafetyPolicy,
        ReplyPolicy,
        Domain,
        MailboxesSection,
        GroupMatch,
        LdapBind,
        LdapMap,
        *SOURCE_TYPES.values(),
        *TARGET_TYPES.values(),
        TsigKey,
    ],
)
def test_every_key_is_shown(section: type[Section]) -> None:
    assert [key for key in section.model_fields if not re.search(rf"\b{key}:", TEXT)] == []


def test_its_smallest_example_is_a_configuration() -> None:
    match = re.search(r"^#   authorities:\n(?:#  .*\n)+", TEXT, flags=re.MULTILINE)
    assert match is not None
    config = load_text(re.sub(r"^# {3}", "", match[0], flags=re.MULTILINE), FILE)
    assert config.managed() == {"alice@example.org"}
