# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a source may take has an end, and certificates that a directory's own rest on have to be there."""

from pathlib import Path

import pytest

from acme_milter.config.fault import ConfigFaults
from acme_milter.config.loader import load, load_text

BASE = "authorities: {a: {preset: castle, agree_tos: true}}\n"


@pytest.mark.parametrize("timeout", ["1s", "60m", "1h"])
def test_a_source_may_take_an_hour(timeout: str, tmp_path: Path) -> None:
    config = load_text(f"{BASE}sources: {{hr: {{type: csv, path: x.csv, timeout: {timeout}}}}}\n", tmp_path / "c.yaml")
    assert config.sources["hr"].timeout.total_seconds() <= 3600


@pytest.mark.parametrize("kind", ["type: csv, path: x.csv", "type: command, argv: [/bin/true]", "type: postfix"])
def test_and_no_longer_since_nobody_would_join_or_leave_meanwhile(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with pytest.raises(ConfigFaults) as caught:
        load_text(f"{BASE}sources:\n  hr: {{{kind}, timeout: 61m}}\n", path)
    (fault,) = caught.value.faults
    assert str(fault) == (
        f"{path}:3: sources.hr.timeout: must be 1h at most: meanwhile nobody joins or leaves, and nobody is told why"
    )


def test_the_certificates_of_directories_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    ldap = "uri: ldaps://d.example, base: dc=d, ca_bundle"
    path = tmp_path / "c.yaml"
    path.write_text(
        f"{BASE}sources:\n  dir: {{type: ldap, {ldap}: ca.pem}}\n"
        f"defaults:\n  deliver:\n    - {{to: ldap, {ldap}: gone.pem}}\n"
    )
    path.chmod(0o600)
    load(path)
    for looked in ({"files": True}, {"certificates": True}):
        with pytest.raises(ConfigFaults) as caught:
            load(path, **looked)
        assert [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults] == [
            f"3: sources.dir.ca_bundle: {tmp_path}/ca.pem holds no certificates (PEM)",
            f"6: defaults.deliver[0].ca_bundle: names {tmp_path}/gone.pem: No such file or directory",
        ]
