# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes from a real Dovecot, and what it says when it cannot list them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.config.sources import DovecotSource
from acme_milter.lab.dovecot import ASKED_ONLY, DovecotLab
from acme_milter.mailboxes.dovecot import DovecotUsers
from acme_milter.mailboxes.source import Reading, SourceFault
from tests.mailboxes.conftest import MakeProgram


@pytest.fixture(scope="module")
def dovecot() -> Iterator[DovecotLab]:
    with DovecotLab() as lab:
        yield lab


def read(configuration: Path, **section: str) -> Reading:
    return DovecotUsers(
        "imap", DovecotSource.model_validate({"type": "dovecot", "config": configuration, **section})
    ).read()


def fault(configuration: Path, **section: str) -> str:
    with pytest.raises(SourceFault) as stopped:
        read(configuration, **section)
    return str(stopped.value)


def test_every_user_is_listed_and_one_without_a_domain_is_rejected(dovecot: DovecotLab) -> None:
    dovecot.set_users(["ann@example.org", "Bob.B@Example.COM", "root"])
    reading = read(dovecot.configuration)
    assert [entry.address for entry in reading.entries] == ["ann@example.org", "Bob.B@example.com"]
    assert [text for text, _ in reading.rejected] == ["root"]


def test_five_thousand_users_come_whole(dovecot: DovecotLab) -> None:
    expected = [f"user{number}@example.org" for number in range(5000)]
    dovecot.set_users(expected)
    assert [entry.address for entry in read(dovecot.configuration).entries] == expected


def test_a_mask_limits_whom_dovecot_lists(dovecot: DovecotLab) -> None:
    dovecot.set_users(["ann@example.org", "bob@example.com"])
    reading = read(dovecot.configuration, mask="*@example.com")
    assert [entry.address for entry in reading.entries] == ["bob@example.com"]


def test_users_that_cannot_be_read_are_a_fault_and_not_an_empty_list(dovecot: DovecotLab) -> None:
    (dovecot.directory / "users").unlink()
    assert "doveadm" in fault(dovecot.configuration)


def test_a_userdb_that_lists_nobody_is_told_what_to_set() -> None:
    with DovecotLab(userdb=ASKED_ONLY) as lab:
        said = fault(lab.configuration)
    assert "exit status 75" in said
    assert "iterate_query" in said


@pytest.fixture
def as_nobody(make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    """doveadm runs as another user than Dovecot's, as the worker's does."""
    program = make_program('exec setpriv --reuid 65534 --regid 65534 --clear-groups /usr/bin/doveadm "$@"')
    program.rename(program.with_name("doveadm"))
    monkeypatch.setattr("acme_milter.program.PATH", f"{program.parent}:/usr/bin:/bin")


@pytest.mark.usefixtures("as_nobody")
def test_a_socket_for_others_is_told_what_to_grant() -> None:
    with DovecotLab(socket_mode=0o600) as lab:
        said = fault(lab.configuration)
    assert "Permission denied" in said
    assert "unix_listener acme-milter-userdb" in said


@pytest.mark.usefixtures("as_nobody")
def test_a_socket_that_lets_everybody_ask_but_not_list_is_told_the_same(dovecot: DovecotLab) -> None:
    dovecot.set_users(["ann@example.org"])
    said = fault(dovecot.configuration)
    assert "User listing returned failure" in said
    assert "unix_listener acme-milter-userdb" in said


@pytest.mark.usefixtures("as_nobody")
def test_with_a_socket_of_its_own_the_worker_needs_nothing_else_of_dovecot() -> None:
    with DovecotLab(["ann@example.org"], more_sockets="unix_listener acme-milter-userdb {\n user = nobody\n }") as lab:
        lab.configuration.chmod(0o600)
        ours = lab.directory / "doveadm.conf"
        ours.write_text(f"auth_socket_path = {lab.directory}/run/acme-milter-userdb\n")
        assert [entry.address for entry in read(ours).entries] == ["ann@example.org"]


def test_a_dovecot_that_is_down_is_told_from_one_without_users() -> None:
    with DovecotLab(["ann@example.org"]) as lab:
        lab.halt()
        said = fault(lab.configuration)
    assert "Connection refused" in said
    assert "start dovecot" in said


def test_a_configuration_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    assert "No such file or directory" in fault(tmp_path / "dovecot.conf")


def test_a_list_that_breaks_off_is_not_used(make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    lying = make_program("printf 'ann@example.org\\nbob@exam'")
    lying.rename(lying.with_name("doveadm"))
    monkeypatch.setattr("acme_milter.program.PATH", f"{lying.parent}:/usr/bin:/bin")
    assert "ended in the middle of a line" in fault(lying.parent / "dovecot.conf")


def test_the_lab_leaves_nothing_behind() -> None:
    with DovecotLab() as lab:
        directory = lab.directory
    assert not directory.exists()
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(directory) not in running
