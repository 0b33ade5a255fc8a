# SPDX-License-Identifier: GPL-3.0-or-later
"""A domain in a file of its own: read as if it stood in the main file, with its own lines in its faults."""

import os
from pathlib import Path

import pytest

from acme_milter.config.loader import ConfigFaults, load

MAIN = "authorities: {castle: {preset: castle, agree_tos: true}}\n"


def place(directory: Path, main: str = MAIN, **files: str) -> Path:
    path = directory / "acme-milter.yaml"
    path.write_text(main)
    path.chmod(0o600)
    (directory / "domains.d").mkdir(mode=0o755)
    for name, text in files.items():
        file = directory / "domains.d" / name.replace("__", ".")
        file.write_text(text)
        file.chmod(0o600)
    return path


def faults_of(path: Path) -> list[str]:
    with pytest.raises(ConfigFaults) as caught:
        load(path)
    return [str(fault).removeprefix(f"{path.parent}/") for fault in caught.value.faults]


def test_a_file_is_a_domain_beside_those_of_the_main_file(tmp_path: Path) -> None:
    path = place(
        tmp_path,
        MAIN + "domains: {a.example: {mailboxes: {list: [x@a.example]}}}\n",
        b__yaml="domain: b.example\nmailboxes: {list: [x@b.example]}\nmode: observe\n",
        c__yaml="domain: C.example\nmailboxes: {list: [x@c.example]}\nreply: {dkim: {selector: s, key_file: k}}\n",
    )
    config = load(path)
    assert config.managed() == {"x@a.example", "x@b.example", "x@c.example"}
    assert [config.policies[f"{name}.example"].mode for name in "abc"] == ["enforce", "observe", "enforce"]
    dkim = config.policies["c.example"].reply.dkim
    assert dkim != "relay"
    assert dkim.key_file == tmp_path / "k", "paths count from the main file everywhere"


def test_each_fault_names_its_own_file_line_and_key(tmp_path: Path) -> None:
    path = place(
        tmp_path,
        "milter: {cpu: x}\n" + MAIN,
        b__yaml="domain: b.example\nmode: no\nmailboxes:\n  list: [x@b.example, x@a.example]\n",
        c__yaml="domain: c.example\nauthorities: [x]\nrenewl: {}\nsource: hr\n",
        d__yaml="mailboxes: {list: []}\n",
        e__yaml="domain: [x]\n",
        f__yaml="domain: f.example\na: [\n",
        g__yaml="- x\n",
        h__yaml="domain: h.example\n",
    )
    first = "is missing: a domain's file begins with domain: NAME, its keys follow"
    nobody = "is missing, for example: mailboxes: {list: [alice@example.org]}, or source: NAME"
    assert faults_of(path) == [
        "acme-milter.yaml:1: milter.cpu: must be auto, null or the number of a CPU (not 'x')",
        "domains.d/b.yaml:2: mode: must be one of enforce, observe, not 'no'",
        "domains.d/b.yaml:4: mailboxes.list[1]: is not in this domain: 'x@a.example'",
        "domains.d/c.yaml:2: authorities[0]: no authority is called 'x' (there are: castle)",
        "domains.d/c.yaml:3: renewl: unknown key (did you mean renewal?)",
        "domains.d/c.yaml:4: source: no source is called 'hr' (there are: none)",
        f"domains.d/d.yaml:1: domain: {first}",
        f"domains.d/e.yaml:1: domain: {first}",
        "domains.d/f.yaml:2: not valid YAML: while parsing a flow node: did not find expected node content",
        f"domains.d/g.yaml:1: domain: {first}",
        f"domains.d/h.yaml:1: mailboxes: {nobody}",
    ]


def test_a_domain_in_two_places_is_a_fault_that_names_both(tmp_path: Path) -> None:
    path = place(
        tmp_path,
        MAIN + "domains:\n  a.example: {mailboxes: {list: []}}\n",
        a__yaml="domain: a.example\nmailboxes: {list: []}\n",
        b__yaml="mailboxes: {list: []}\ndomain: A.example\n",
        c__yaml="domain: c.example\nmailboxes: {list: []}\n",
        d__yaml="domain: c.example\nmailboxes: {list: []}\n",
    )
    assert faults_of(path) == [
        f"domains.d/a.yaml:1: domain: is the same domain as 'a.example' in {path}:3",
        f"domains.d/b.yaml:1: is the same domain as 'a.example' in {path}:3",
        f"domains.d/d.yaml:1: domain: is the same domain as 'c.example' in {tmp_path}/domains.d/c.yaml:1",
    ]


def test_a_file_that_others_can_write_is_refused_and_one_that_is_no_domain_is_passed_over_or_named(
    tmp_path: Path,
) -> None:
    path = place(
        tmp_path,
        MAIN,
        b__yaml="domain: b.example\nmailboxes: {list: []}\n",
        __b__yaml__swp="x",
        README="x",
        b__yaml__dpkg_old="x",
        c__yml="x",
    )
    file = tmp_path / "domains.d" / "b.yaml"
    file.chmod(0o664)
    assert faults_of(path) == [
        f"domains.d/b.yaml: can be written by group or others (mode 0664); run: chmod go-w {file}",
        "domains.d/c.yml: is not read; its name must end in .yaml",
    ]


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = place(tmp_path)
    (tmp_path / "domains.d").chmod(0o777)
    assert faults_of(path) == [
        f"domains.d: can be written by group or others (mode 0777); run: chmod go-w {tmp_path}/domains.d"
    ]


def test_a_pipe_among_the_files_is_a_fault_and_not_waited_for(tmp_path: Path) -> None:
    path = place(tmp_path)
    os.mkfifo(tmp_path / "domains.d" / "x.yaml", 0o600)
    assert faults_of(path) == ["domains.d/x.yaml: is no regular file"]
