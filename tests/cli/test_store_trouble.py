# SPDX-License-Identifier: GPL-3.0-or-later
"""A store that is absent, damaged, of another version or out of reach is one line that says so."""

import os
import pwd
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from acme_milter.cli.store import as_owner, store_fault
from acme_milter.config.loader import load
from acme_milter.store.database import Database, StoreUnusable
from tests.forked_commands import run_forked

COMMANDS = (("status",), ("export", "alice@org.example", "--out", "."))


def configured(directory: Path, url: str | None = None) -> Path:
    path = directory / "acme-milter.yaml"
    path.write_text(
        f"store: {{url: '{url or f'sqlite:///{directory}/store.db'}'}}\n"
        "authorities: {ca: {directory: 'https://ca.example/d', agree_tos: true}}\n"
        "domains: {org.example: {mailboxes: {list: [alice@org.example]}}}\n"
        f"worker: {{intake_socket: {directory}/i.sock, control_socket: {directory}/c.sock}}\n"
        f"keys: {{socket: {directory}/k.sock}}\n"
    )
    path.chmod(0o600)
    return path


def acme_milter(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_forked([sys.executable, "-m", "acme_milter", "--config", str(config), *arguments])


def damaged(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be looked at as one" * 40)


def of_another_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    connection.close()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no store yet"),
        (damaged, "file is not a database"),
        (of_another_version, "no such table"),
        (lambda path: path.mkdir(), "unable to open database file"),
    ],
)
def test_readers_name_the_store_and_what_is_wrong_with_it(
    tmp_path: Path, make: Callable[[Path], None], words: str, command: tuple[str, ...]
) -> None:
    make(tmp_path / "store.db")
    done = acme_milter(configured(tmp_path), *command)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.startswith(f"sqlite:///{tmp_path}/store.db: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [(damaged, "file is not a database"), (of_another_version, "another version of acme-milter made this store")],
)
def test_the_worker_names_them_too(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "store.db")
    done = acme_milter(configured(tmp_path), "worker")
    assert done.returncode == 1
    assert "role-died role=worker" in done.stderr
    assert words in done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.parametrize("command", [*COMMANDS, ("worker",)])
def test_postgresql_without_its_driver_says_what_to_install(tmp_path: Path, command: tuple[str, ...]) -> None:
    config = configured(tmp_path, "postgresql://u:secret-word@127.0.0.1:1/x")
    code = "import sys; sys.modules['psycopg'] = None\n"  # as if it were not installed, whether or not it is
    run = [sys.executable, "-c", code + "from acme_milter.cli.main import main; main()", "--config", str(config)]
    done = subprocess.run([*run, *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert "pip install 'acme-milter[postgresql]'" in done.stderr
    assert "secret-word" not in done.stderr


NOBODY = 65534
# Another user could not even read a checkout below /root; root without this right is like any user to others' files.
WITHOUT_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_is_not_the_callers_is_status_77_and_names_its_owner(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    config = configured(tmp_path)
    store = tmp_path / "store.db"
    database = Database(f"sqlite:///{store}")
    database.upgrade()
    database.close()
    store.chmod(0o600)
    os.chown(store, NOBODY, NOBODY)
    run = [*WITHOUT_OVERRIDE, sys.executable, "-m", "acme_milter", "--config", str(config), *command]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr == f"{store}: permission denied; {as_owner(store)}\n"


def test_the_owner_is_named_by_the_nearest_place_that_can_be_seen(tmp_path: Path) -> None:
    assert as_owner(tmp_path / "not" / "there") == as_owner(tmp_path)
    user = pwd.getpwuid(tmp_path.stat().st_uid).pw_name
    assert ("root" if user == "root" else f"sudo -u {user}") in as_owner(tmp_path)


def test_a_servers_words_are_not_repeated(tmp_path: Path) -> None:
    import sqlalchemy as sa

    config = load(configured(tmp_path, "postgresql://u:secret-word@db.example/x"))
    error = sa.exc.OperationalError("SELECT 1", None, Exception("canary"))
    assert store_fault(config, error) == "postgresql://u:***@db.example/x: Exception"
    assert store_fault(config, StoreUnusable("as it is")) == "as it is"
