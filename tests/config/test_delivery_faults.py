# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of faults in `deliver`: the line, the key, and what would be right."""

from pathlib import Path

import pytest

from acme_milter.config.delivery import TARGET_TYPES
from acme_milter.config.document import UNION_TAGS
from acme_milter.config.loader import ConfigFaults, load_text
from acme_milter.delivery import targets

AUTHORITIES = "authorities: {ca: {directory: 'https://ca.example/d', agree_tos: true}}\n"
TSIG = "key_name: k, secret: {hmac: c2VjcmV0}"

FAULTS = {
    "unknown kind": ("{to: hok}", "2: defaults.deliver[0]: to must be one of files, hook, ldap, ad, signing-milter, "),
    "no kind": ("{argv: [/bin/true]}", "2: defaults.deliver[0]: must say by to what it is"),
    "unknown key": ("{to: hook, argv: [/x], arg: 1}", "2: defaults.deliver[0].arg: unknown key (did you mean argv?)"),
    "a hook without a program": ("{to: hook, argv: []}", "2: defaults.deliver[0].argv: is not valid"),
    "a hook that would lack a file": (
        "{to: hook, argv: [/x, '{pem}']}",
        "2: defaults.deliver[0]: argv has {pem}, but formats does not name pem",
    ),
    "an unknown placeholder": (
        "{to: hook, argv: [/x, '{key}']}",
        "2: defaults.deliver[0].argv[1]: has {key}; there are {address}, ",
    ),
    "a key for a hook that takes back": (
        "{to: hook, argv: [/x], withdraw_argv: [/y, '{p12}']}",
        "2: defaults.deliver[0].withdraw_argv[1]: has {p12}; there are {address}, {certificate}, {domain}, {local}, ",
    ),
    "one path for all": ("{to: files, path: /srv/x}", "2: defaults.deliver[0].path: must hold {address}, or "),
    "two of a name": (
        "{to: hook, argv: [/x]}, {to: hook, argv: [/y]}",
        "2: defaults.deliver: has two targets called hook; give one of them another name",
    ),
    "two that write the same files": (
        (
            "{to: files, path: '/srv/{address}'},"
            " {to: files, name: b, path: '/srv/./{local}@{domain}', formats: [pem, p12-modern]}"
        ),
        "2: defaults.deliver: has the same files twice: files and b have one path; give one of them another path",
    ),
    "two that write the same passphrases": (
        (
            "{to: files, path: '/srv/{address}', passphrase_path: '/w/{address}'},"
            " {to: files, name: b, path: '/opt/{address}', passphrase_path: '/w/{address}'}"
        ),
        "2: defaults.deliver: has the same files twice: files and b have one passphrase_path; give one of them another",
    ),
    "a secret that is written out": (
        f"{{to: smimea, mode: nsupdate, server: ns.example, tsig: {{{TSIG}}}}}",
        "2: defaults.deliver[0].tsig.secret: must be exactly one of {file: PATH}, {env: NAME} or {credential: NAME}; ",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_target_is_told_with_its_key_and_no_secret(name: str, tmp_path: Path) -> None:
    written, said = FAULTS[name]
    with pytest.raises(ConfigFaults) as caught:
        load_text(f"{AUTHORITIES}defaults: {{deliver: [{written}]}}\n", tmp_path / "acme-milter.yaml")
    told = "\n".join(str(fault) for fault in caught.value.faults)
    assert said in told
    assert "c2VjcmV0" not in told


def test_two_of_a_kind_are_told_apart_by_a_name(tmp_path: Path) -> None:
    written = "[{to: hook, argv: [/x]}, {to: hook, name: second, argv: [/y]}]"
    config = load_text(f"{AUTHORITIES}defaults: {{deliver: {written}}}\n", tmp_path / "acme-milter.yaml")
    assert [target.title for target in config.defaults.deliver] == ["hook", "second"]
    assert [type(targets.make_target(target)).__name__ for target in config.defaults.deliver] == ["HookDelivery"] * 2


def test_two_may_have_one_path_for_different_formats(tmp_path: Path) -> None:
    both = "path: '/srv/{address}', passphrase_path: '/w/{address}'"
    written = f"[{{to: files, {both}}}, {{to: files, name: b, formats: [pem], {both}}}]"
    config = load_text(f"{AUTHORITIES}defaults: {{deliver: {written}}}\n", tmp_path / "acme-milter.yaml")
    assert [target.title for target in config.defaults.deliver] == ["files", "b"]


def test_paths_of_faults_leave_out_what_tells_targets_apart() -> None:
    assert set(TARGET_TYPES) <= UNION_TAGS


def test_every_kind_of_target_can_be_delivered_to() -> None:
    assert set(targets._MAKERS) == set(TARGET_TYPES.values())
