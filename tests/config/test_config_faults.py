# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault is found, at once, in its line, in words an administrator can act on, and without a secret."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.config.fault import Fault
from acme_milter.config.loader import ConfigFaults, load_text


def faults_of(text: str) -> list[str]:
    """The faults of a text as `line: key: message`."""
    try:
        load_text(text, Path("acme-milter.yaml"))
    except ConfigFaults as found:
        return [str(fault).removeprefix("acme-milter.yaml:") for fault in found.faults]
    return []


def test_the_fault_of_the_style_guide() -> None:
    text = (
        "domains:\n  example.org:\n    mailboxes: {list: []}\n    certificat: {key: p256}\n"
        "authorities: {a: {preset: castle, agree_tos: true}}\n"
    )
    with pytest.raises(ConfigFaults) as caught:
        load_text(text, Path("acme-milter.yaml"))
    assert str(caught.value) == (
        "acme-milter.yaml:4: domains.example.org.certificat: unknown key (did you mean certificate?)"
    )


# What is wrong, as one fault each: the text, and the whole line that is reported.
CASTLE = "authorities: {castle: {preset: castle, agree_tos: true}}\n"
DESTROYED = (
    "renewal.key: reuse cannot go with custody: deliver_once, where no key is left to be used again; choose rotate"
)

ONE_FAULT = {
    "top key": ("workers: {}", "1: workers: unknown key (did you mean worker?)"),
    "far key": (
        "milter: {zzz: 1}",
        "1: milter.zzz: unknown key (known here: socket, socket_mode, cpu, deadline)",
    ),
    "version": ("version: 2", "1: version: must be 1 (not 2)"),
    "version text": ("version: '1'", "1: version: must be 1 (not '1')"),
    "version true": ("version: true", "1: version: must be 1 (not True)"),
    "not a map": ("- a\n", None),
    "section is text": ("milter: x", "1: milter: must be a map with the keys socket, socket_mode, cpu, deadline"),
    "section is list": ("dns: [x]", "1: dns: must be a map with the keys nameservers, timeout"),
    "authorities is list": ("authorities: [x]", "1: authorities: must be a map of names"),
    "a destroyed key is used again": (
        f"{CASTLE}defaults: {{custody: deliver_once, renewal: {{key: reuse}}}}",
        f"2: defaults.renewal.key: {DESTROYED}",
    ),
    "a destroyed key is used again by one mailbox": (
        CASTLE + "domains:\n  org.example:\n    custody: deliver_once\n    mailboxes:\n      list: [a@org.example]\n"
        "      overrides: {a@org.example: {renewal: {key: reuse}}}",
        f"7: domains.org.example.mailboxes.overrides.a@org.example.renewal.key: {DESTROYED}",
    ),
    "source type missing": (
        "sources: {ldap: {}}",
        "1: sources.ldap: must be a map with the key type, one of postfix, dovecot, sql, ldap, csv, command",
    ),
    "source type unknown": (
        "sources:\n  hr: {type: cvs}",
        "2: sources.hr.type: must be one of postfix, dovecot, sql, ldap, csv, command, not 'cvs' (did you mean csv?)",
    ),
    "source key": (
        "sources: {hr: {type: csv, path: a, delimeter: ;}}",
        "1: sources.hr.delimeter: unknown key (did you mean delimiter?)",
    ),
    "source called list": (
        "sources: {list: {type: csv, path: a}}",
        "1: sources.list: a source's name is made of letters, digits, . _ and -, and not list",
    ),
    "source without a path": ("sources: {hr: {type: csv}}", "1: sources.hr.path: is missing"),
    "command without words": ("sources: {c: {type: command, argv: []}}", None),
    "sql preset and query": (
        "sources: {s: {type: sql, url: 'postgresql://x/y', preset: modoboa, query: select}}",
        "1: sources.s: must have either preset (postfixadmin, iredmail, modoboa, ispconfig) or query",
    ),
    "sql without url": (
        "sources: {s: {type: sql, preset: modoboa}}",
        "1: sources.s: url is missing: postgresql://reader@db.example.org/postfix, or {file: PATH}",
    ),
    "sql url": (
        "sources: {s: {type: sql, url: 'canary', preset: modoboa}}",
        "1: sources.s.url: must be a database URL such as postgresql://reader@db.example.org/postfix, or {file: PATH}",
    ),
    "sql url's secret": (
        "sources: {s: {type: sql, url: {fil: canary}, preset: modoboa}}",
        (
            "1: sources.s.url: must be exactly one of {file: PATH}, {env: NAME} or {credential: NAME};"
            " a secret never stands in this file"
        ),
    ),
    "ldap uri": (
        "sources: {a: {type: ldap, uri: 'http://x', base: dc=x}}",
        "1: sources.a.uri: must begin with ldaps://, ldap:// or ldapi://, and hold no user name and no blank",
    ),
    "ldap password": (
        "sources: {a: {type: ldap, uri: 'ldap://x', base: dc=x, bind: {dn: cn=x, password: canary}}}",
        (
            "1: sources.a.bind.password: must be exactly one of {file: PATH}, {env: NAME} or {credential: NAME};"
            " a secret never stands in this file"
        ),
    ),
    "ldap preset": (
        "sources: {a: {type: ldap, uri: 'ldap://x', base: dc=x, preset: ad}}",
        "1: sources.a.preset: must be one of openldap, active-directory, not 'ad'",
    ),
    "ldap attribute": (
        "sources: {a: {type: ldap, uri: 'ldap://x', base: dc=x, preset: openldap, map: {adress: mail}}}",
        "1: sources.a.map.adress: unknown key (did you mean address?)",
    ),
    "source that is not there": (
        CASTLE + "sources: {hr: {type: csv, path: a}}\ndomains: {a.example: {source: [hr, ad]}}",
        "3: domains.a.example.source[1]: no source is called 'ad' (there are: hr)",
    ),
    "source named alone that is not there": (
        CASTLE + "domains: {a.example: {source: ad}}",
        "2: domains.a.example.source: no source is called 'ad' (there are: none)",
    ),
    "pattern": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], exclude: ['noreply']}}}",
        "2: domains.a.example.mailboxes.exclude[0]: matches no address, it has no @ (did you mean noreply@*?)",
    ),
    "regular expression": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], exclude: ['/(/']}}}",
        (
            "2: domains.a.example.mailboxes.exclude[0]: is no regular expression: '/(/':"
            " missing ), unterminated subpattern at position 0"
        ),
    ),
    "regular expression that is too much": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], exclude: ['/a{99999999999}/']}}}",
        (
            "2: domains.a.example.mailboxes.exclude[0]: is no regular expression: '/a{99999999999}/':"
            " the repetition number is too large"
        ),
    ),
    "group without a match": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], groups: [{match: {}, mode: observe}]}}}",
        "2: domains.a.example.mailboxes.groups[0].match: must have group, address or both",
    ),
    "group's key": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], groups: [{match: {group: x}, certificat: {}}]}}}",
        "2: domains.a.example.mailboxes.groups[0].certificat: unknown key (did you mean certificate?)",
    ),
    "group's address elsewhere": (
        CASTLE + "domains:\n  a.example:\n    mailboxes:\n      list: []\n      groups:\n"
        "        - match: {address: [x@b.example]}\n",
        "7: domains.a.example.mailboxes.groups[0].match.address[0]: can match nothing in a.example: 'x@b.example'",
    ),
    "group's authority": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], groups: [{match: {group: x}, authorities: [z]}]}}}",
        "2: domains.a.example.mailboxes.groups[0].authorities[0]: no authority is called 'z' (there are: castle)",
    ),
    "override elsewhere": (
        CASTLE + "domains:\n  a.example:\n    mailboxes:\n      list: []\n      overrides:\n"
        "        x@b.example: {mode: observe}\n",
        "7: domains.a.example.mailboxes.overrides.x@b.example: is not in this domain: 'x@b.example'",
    ),
    "override's key": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], overrides: {x@a.example: {renewal: {att: 1}}}}}}",
        "2: domains.a.example.mailboxes.overrides.x@a.example.renewal.att: unknown key (did you mean at?)",
    ),
    "override's value": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], overrides: {x@a.example: {mode: no}}}}}",
        "2: domains.a.example.mailboxes.overrides.x@a.example.mode: must be one of enforce, observe, not 'no'",
    ),
    "override's authority": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], overrides: {x@a.example: {authorities: [z]}}}}}",
        (
            "2: domains.a.example.mailboxes.overrides.x@a.example.authorities[0]: no authority is called 'z'"
            " (there are: castle)"
        ),
    ),
    "two overrides of one": (
        CASTLE + "domains: {a.example: {mailboxes: {list: [], overrides: {x@a.example: {}, X@a.example: {}}}}}",
        "2: domains.a.example.mailboxes.overrides.X@a.example: is the same mailbox as x@a.example",
    ),
    "time of day as a duration": (
        "sources: {hr: {type: csv, path: a, every: 12:30}}",
        "1: sources.hr.every: must be a duration such as 30s, 10m, 24h or 30d (not '12:30')",
    ),
    "duration bare": (
        "milter:\n  deadline: 8",
        "2: milter.deadline: must be a duration such as 30s, 10m, 24h or 30d (not 8)",
    ),
    "duration words": (
        "milter: {deadline: 8 seconds}",
        "1: milter.deadline: must be a duration such as 30s, 10m, 24h or 30d (not '8 seconds')",
    ),
    "duration huge": (
        "dns: {timeout: 999999999w}",
        "1: dns.timeout: must be a duration of reasonable length (not '999999999w')",
    ),
    "bool": (
        "authorities: {a: {preset: castle, agree_tos: yes}}",
        "1: authorities.a.agree_tos: must be true or false (not 'yes')",
    ),
    "bool number": (
        "authorities: {a: {preset: castle, require_auto_submitted: 1}}",
        "1: authorities.a.require_auto_submitted: must be true or false (not 1)",
    ),
    "int as text": ("worker: {threads: '4'}", "1: worker.threads: must be a whole number (not '4')"),
    "int as bool": ("worker: {threads: true}", "1: worker.threads: must be a whole number (not True)"),
    "int low": ("worker: {threads: 0}", "1: worker.threads: must be at least 1 (not 0)"),
    "int high": ("worker: {threads: 1000}", "1: worker.threads: must be at most 256 (not 1000)"),
    "port": ("defaults: {reply: {port: 0}}", "1: defaults.reply.port: must be at least 1 (not 0)"),
    "host": (
        "defaults: {reply: {host: 'a b'}}",
        "1: defaults.reply.host: must be a host name or an IP address (not 'a b')",
    ),
    "mode": (
        "defaults: {mode: observ}",
        "1: defaults.mode: must be one of enforce, observe, not 'observ' (did you mean observe?)",
    ),
    "mode bool": ("defaults: {mode: true}", "1: defaults.mode: must be one of enforce, observe, not True"),
    "key": (
        "defaults:\n  certificate:\n    key: rsa-3072",
        (
            "3: defaults.certificate.key: must be one of rsa2048, rsa3072, rsa4096, p256, p384, not 'rsa-3072'"
            " (did you mean rsa3072?)"
        ),
    ),
    "dkim word": (
        "defaults: {reply: {dkim: none}}",
        "1: defaults.reply.dkim: must be relay or {selector: NAME, key_file: PATH} (not 'none')",
    ),
    "dkim half": (
        "defaults: {reply: {dkim: {selector: x}}}",
        "1: defaults.reply.dkim.key_file: is missing: selector and key_file belong together",
    ),
    "dkim other half": (
        "defaults: {reply: {dkim: {key_file: x}}}",
        "1: defaults.reply.dkim.selector: is missing: selector and key_file belong together",
    ),
    "dkim selector": (
        "defaults: {reply: {dkim: {selector: 'a b', key_file: x}}}",
        "1: defaults.reply.dkim.selector: must be a DKIM selector (not 'a b')",
    ),
    "dkim typo": (
        "defaults: {reply: {dkim: {selector: a, key_file: x, key_fil: y}}}",
        "1: defaults.reply.dkim.key_fil: unknown key (did you mean key_file?)",
    ),
    "list is text": ("dns: {nameservers: 127.0.0.1}", "1: dns.nameservers: must be a list"),
    "nameserver name": (
        "dns: {nameservers: [ns.example]}",
        "1: dns.nameservers[0]: must be an IP address with or without :port (not 'ns.example')",
    ),
    "nameserver port": (
        "dns:\n  nameservers:\n  - 127.0.0.1:53\n  - 127.0.0.1:99999",
        "4: dns.nameservers[1]: must have a port between 1 and 65535 (not '99999')",
    ),
    "socket kind": (
        "milter: {socket: tcp:1@x}",
        "1: milter.socket: must be unix:/path, local:/path, inet:port@host or inet6:port@host (not 'tcp:1@x')",
    ),
    "socket long": (
        f"milter: {{socket: 'unix:/{'x' * 200}'}}",
        "1: milter.socket: is a longer path than a unix socket can have (107 bytes)",
    ),
    "control socket long": (
        f"worker: {{control_socket: '/{'x' * 107}'}}",
        "1: worker.control_socket: is a longer path than a unix socket can have (107 bytes)",
    ),
    "same socket": (
        "worker: {intake_socket: /run/a}\nkeys: {socket: /run/a}",
        "2: keys.socket: is the same socket as worker.intake_socket",
    ),
    "more patience than Postfix": (
        "milter: {deadline: 90s}",
        "1: milter.deadline: must be 20s at most: Postfix itself waits for 30s",
    ),
    "no time": ("milter: {deadline: 0s}", "1: milter.deadline: must be longer than 0s"),
    "no profile": (
        "authorities: {a: {preset: castle, profile: ''}}",
        "1: authorities.a.profile: must not be empty",
    ),
    "socket mode": (
        "milter: {socket_mode: rw}",
        "1: milter.socket_mode: must be permission bits such as 0660 (not 'rw')",
    ),
    "cpu": ("milter: {cpu: some}", "1: milter.cpu: must be auto, null or the number of a CPU (not 'some')"),
    "path": ("worker: {intake_socket: 5}", "1: worker.intake_socket: must be the path of a file"),
    "store scheme": ("store: {url: mysql://x/y}", "1: store.url: must begin with sqlite:/// or postgresql://"),
    "store memory": (
        "store: {url: 'sqlite://'}",
        "1: store.url: must name a file: sqlite:////absolute/path or sqlite:///relative/path",
    ),
    "directory missing": (
        "authorities:\n  a:\n    agree_tos: true",
        "2: authorities.a.directory: is missing: the https:// URL of the authority's ACME directory",
    ),
    "directory http": (
        "authorities: {a: {directory: 'http://ca.example/d'}}",
        "1: authorities.a.directory: must begin with https:// (RFC 8555 section 6.1 forbids plain http)",
    ),
    "directory word": (
        "authorities: {a: {directory: ca.example}}",
        "1: authorities.a.directory: must be an https:// URL",
    ),
    "directory port": (
        "authorities: {a: {directory: 'https://x:y/'}}",
        "1: authorities.a.directory: must be a valid URL",
    ),
    "directory user": (
        "authorities: {a: {directory: 'https://me:pw@ca.example/d'}}",
        "1: authorities.a.directory: must not hold a user name or a password",
    ),
    "preset": (
        "authorities: {a: {preset: castel}}",
        (
            "1: authorities.a.preset: unknown preset (did you mean castle?); there are: acme2certifier, castle,"
            " castle-staging, rapidmx, rfc8823"
        ),
    ),
    "preset kind": (
        "authorities: {a: {preset: [castle]}}",
        "1: authorities.a.preset: unknown preset; there are: acme2certifier, castle, castle-staging, rapidmx, rfc8823",
    ),
    "token join": (
        "authorities: {a: {preset: castle, token_join: concat}}",
        "1: authorities.a.token_join: must be one of string, bytes, string-padded, not 'concat'",
    ),
    "trigger off": (
        "authorities: {a: {preset: castle, challenge_trigger: off}}",
        "1: authorities.a.challenge_trigger: must be one of reply-first, post-first, auto, not 'off'",
    ),
    "weak rsa": (
        "authorities: {a: {preset: castle, minimum_rsa_bits: 512}}",
        "1: authorities.a.minimum_rsa_bits: must be at least 1024 (not 512)",
    ),
    "account": (
        "authorities: {a: {preset: castle, account: per_person}}",
        (
            "1: authorities.a.account: must be one of shared, per_domain, per_mailbox,"
            " not 'per_person' (did you mean per_domain?)"
        ),
    ),
    "contact": (
        "authorities: {a: {preset: castle, contact: [pki]}}",
        "1: authorities.a.contact[0]: must be a mail address (not 'pki'): the address does not have exactly one @",
    ),
    "eab half": (
        "authorities: {a: {preset: castle, eab: {kid: {env: X}}}}",
        "1: authorities.a.eab.hmac: is missing: external account binding needs both kid and hmac",
    ),
    "eab word": (
        "authorities: {a: {preset: castle, eab: x}}",
        "1: authorities.a.eab: must be a map with the keys kid, hmac",
    ),
    "limits": (
        "authorities: {a: {preset: castle, limits: {inflight: 5}}}",
        "1: authorities.a.limits.inflight: unknown key (did you mean in_flight?)",
    ),
    "authority name": (
        "authorities: {'a b': {preset: castle}}",
        "1: authorities.a b: an authority's name is made of letters, digits, . _ and -",
    ),
    "authority of what came from elsewhere": (
        "authorities: {imported: {preset: castle}}",
        "1: authorities.imported: imported is what certificates from elsewhere are listed under; rename it",
    ),
    "authority unknown": (
        "authorities: {castle: {preset: castle, agree_tos: true}}\ndefaults: {authorities: [castel]}",
        "2: defaults.authorities[0]: no authority is called 'castel' (did you mean castle?)",
    ),
    "authority none": (
        "defaults: {authorities: [x]}",
        "1: defaults.authorities[0]: no authority is called 'x' (there are: none)",
    ),
    "authority twice": (
        "authorities: {c: {preset: castle}}\ndefaults: {authorities: [c, c]}",
        "2: defaults.authorities[1]: names 'c' twice",
    ),
    "domain without authority": (
        "domains: {example.org: {mailboxes: {list: []}}}",
        "1: domains.example.org: has no authority; describe one under authorities",
    ),
    "wrapping key twice": (
        "keys: {wrapping_key: {file: a, credential: b}}",
        "1: keys.wrapping_key: must be exactly one of {file: PATH} or {credential: NAME}",
    ),
    "wrapping key env": (
        "keys: {wrapping_key: {env: A}}",
        (
            "1: keys.wrapping_key: must be exactly one of {file: PATH} or {credential: NAME};"
            " a secret never stands in this file"
        ),
    ),
}


@pytest.mark.parametrize(("text", "fault"), ONE_FAULT.values(), ids=ONE_FAULT.keys())
def test_one_fault_is_one_line(text: str, fault: str | None) -> None:
    found = faults_of(text)
    assert len(found) == 1
    if fault is not None:
        assert found == [fault]


def test_all_faults_come_at_once_in_the_order_of_the_file() -> None:
    text = (
        "milter: {cpu: x, deadline: 5}\nmilter: {}\nsources: [x]\nauthorities:\n"
        "  a: {directory: 'http://x', agree_tos: maybe}\n"
        "  b: {preset: nope, eab: {}}\ndefaults: {mode: x, authorities: [c, b]}\ndomains:\n"
        "  example.org: {mailboxes: {list: [x@example.net]}, on_success: x}\n  bad_name: {}\nnonsense: 1\n"
    )
    found = faults_of(text)
    keys = [fault.split(": ")[1] for fault in found]
    assert keys == [
        "milter.cpu",
        "milter.deadline",
        "milter",
        "sources",
        "authorities.a.agree_tos",
        "authorities.a.directory",
        "authorities.b.agree_tos",
        "authorities.b.eab.hmac",
        "authorities.b.eab.kid",
        "authorities.b.preset",
        "defaults.authorities[0]",
        "defaults.mode",
        "domains.example.org.mailboxes.list[0]",
        "domains.example.org.on_success",
        "domains.bad_name",
        "domains.bad_name.mailboxes",
        "nonsense",
    ]


@given(st.text(alphabet=st.sampled_from("ab:{}[],-\n #&*!|>'\"@\t\x1b0"), max_size=60))
def test_no_text_raises_anything_but_faults(text: str) -> None:
    for fault in faults_of(text):
        assert fault.isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(
        ["store", "milter", "worker", "keys", "dns", "authorities", "sources", "defaults", "domains", "version"]
    ),
)
def test_no_shape_under_any_key_raises_anything_but_faults(value: object, key: str) -> None:
    for fault in faults_of(json.dumps({key: value, "authorities": {"a": value}}, ensure_ascii=True)):
        assert fault.isprintable()


def test_a_fault_cannot_disturb_a_terminal() -> None:
    assert str(Fault(3, "k", "names /x\x1b[31m", Path("a\n.yaml"))) == r"a\n.yaml:3: k: names /x\x1b[31m"


def test_a_fault_names_the_file_only_when_there_is_no_line() -> None:
    assert str(Fault(0, "", "cannot be read", Path("a.yaml"))) == "a.yaml: cannot be read"
