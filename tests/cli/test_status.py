# SPDX-License-Identifier: GPL-3.0-or-later
"""`status` and the way its answer takes: from the worker while one answers, from the store otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

from acme_milter.cli.main import COMMANDS
from tests.cli.conftest import Office
from tests.cli.test_store_trouble import configured

ALICE = "alice@org.example"


def test_one_screen_has_roles_coverage_today_authorities_and_what_is_ahead(office: Office) -> None:
    document = office.document("status")
    assert document["schema"] == "acme-milter/status/2"
    assert document["running"] == {"keyd": True, "worker": True}
    today = document["today"]
    assert today["ordered"] >= 2
    assert today["issued"] >= 2
    # Another test may have rehearsed at its staging service, which is then shown as well.
    assert {row["authority"].removesuffix(":staging") for row in document["authorities"]} == {"testca"}
    assert document["stages"]["issued"] == document["coverage"]["total"]["with_certificate"] >= 1
    text, _ = office.run("status")
    for word in ("keyd runs, worker runs", "org.example", "today: ordered", "authority testca", "needs you"):
        assert word in text


def test_few_mailboxes_are_listed_and_addresses_are_listed_alone(office: Office) -> None:
    everybody = office.document("status")
    assert ALICE in [row["address"] for row in everybody["mailboxes"]]
    one = office.document("status", ALICE, "nobody@org.example")
    assert [row["address"] for row in one["mailboxes"]] == [ALICE]
    assert one["not_managed"] == ["nobody@org.example"]
    text, _ = office.run("status", ALICE, "nobody@org.example")
    assert "nobody@org.example: not a managed mailbox" in text
    assert "today:" not in text


ASKING = (
    ("status",),
    ("mailbox", "show", ALICE),
    ("mailbox", "why", ALICE),
    ("cert", "show", ALICE),
)
FORBIDDEN = ("sqlalchemy", "rich", "alembic", "josepy", "requests", "acme_milter.store")


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_who_asks_the_worker_imports_no_database(office: Office, words: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        f"for name in {FORBIDDEN!r}: sys.modules[name] = None\n"
        "from acme_milter.cli.main import main; main()\n"
    )
    run = [sys.executable, "-c", code, "--config", str(office.lab.config_path), *words]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert ALICE in done.stdout


def test_help_imports_nothing_but_click() -> None:
    code = (
        "import sys\n"
        "from acme_milter.cli.main import cli\n"
        "for words in (['--help'], ['mailbox', '--help'], ['cert', '--help'], ['report', '--help']):\n"
        "    cli(words, standalone_mode=False)\n"
        "print(sorted(set(sys.modules) & {'pydantic', 'yaml', 'sqlalchemy', 'rich', 'cryptography', 'requests'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("words", [*ASKING[1:], ("mailbox", "list"), ("report", "coverage")], ids=" ".join)
def test_without_a_worker_and_without_a_store_it_is_one_line_and_status_75(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    run = [sys.executable, "-m", "acme_milter", "--config", str(configured(tmp_path)), *words]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (75, "")
    assert (
        done.stderr == f"sqlite:///{tmp_path}/store.db: there is no store yet; a worker makes it when it first starts\n"
    )


@pytest.mark.parametrize(
    "words", [("cert", "issue", ALICE), ("cert", "renew", ALICE), ("cert", "revoke", ALICE, "--reason", "superseded")]
)
def test_what_only_a_worker_can_do_names_the_command_that_starts_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    config = configured(tmp_path)
    run = [sys.executable, "-m", "acme_milter", "--config", str(config), *words]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (75, "")
    assert f"start it with: acme-milter --config {config} run" in done.stderr
