# SPDX-License-Identifier: GPL-3.0-or-later
"""`acme-milter config`, as processes: explain, show, check, schema."""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from acme_milter.config.loader import load
from acme_milter.report.member_view import member
from acme_milter.store import mailboxes
from acme_milter.store.database import Database
from acme_milter.store.schema import mailbox
from tests.forked_commands import run_forked

EXAMPLE = Path(__file__).parents[2] / "contrib" / "examples"
BOARD = "CN=Board,OU=Groups,DC=corp,DC=example,DC=com"


def config(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_forked(
        [sys.executable, "-m", "acme_milter", "config", *arguments], environment={"ACME_MILTER_CONFIG": str(path)}
    )


def explained(path: Path, address: str) -> dict[str, Any]:
    done = config(path, "explain", address, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worked example with a store of its own, in which a source has brought two people."""
    place = tmp_path_factory.mktemp("config") / "example"
    shutil.copytree(EXAMPLE, place)
    for made in [place, *place.rglob("*")]:
        made.chmod(made.stat().st_mode & ~0o022)
    path = place / "acme-milter.yaml"
    text = path.read_text()
    url = next(line for line in text.splitlines() if "url: postgresql" in line)
    path.write_text(text.replace(url, f"  url: sqlite:///{place}/store.db"))
    database = Database(f"sqlite:///{place}/store.db")
    database.upgrade()
    row: dict[str, Any] = {
        "domain": "example.com",
        "source": "ad",
        "came_as": "import",
        "first_seen_at": datetime.now(UTC),
    }
    people: list[dict[str, Any]] = [
        {"address": "Ada.Boss@example.com", "principal": "ad:1", "person_name": "Ada Boss", "groups": [BOARD.upper()]},
        {"address": "blue-room@example.com", "principal": "ad:2", "person_name": "Blue", "groups": []},
        {"address": "gone@example.com", "principal": "ad:3", "person_name": None, "groups": [], "left": True},
    ]
    with database.write() as connection:
        for person in people:
            left = row["first_seen_at"] if person.pop("left", False) else None
            groups = json.dumps(person.pop("groups"))
            values = {**row, **person, "groups": groups, "folded": str(person["address"]).lower(), "left_at": left}
            connection.execute(mailbox.insert().values(**values))
    with database.read() as connection:
        assert mailboxes.find(connection, "ada.boss@example.com") is not None
    database.close()
    return path


def test_explain_tells_the_line_the_preset_or_the_program_that_each_value_comes_from(path: Path) -> None:
    answer = explained(path, "ADA.boss@example.com")
    place = path.parent
    assert answer["schema"] == "acme-milter/config-explain/1"
    assert (answer["managed"], answer["source"], answer["principal"]) == (True, "ad", "ad:1")
    assert answer["matched_group"]["key"] == "mailboxes.groups[0]"
    values = {value["key"]: value for value in answer["values"]}
    domain, main = f"{place}/domains.d/example.com.yaml", str(path)

    def origin(key: str) -> tuple[object, ...]:
        value = values[key]
        line = value.get("line")
        text = Path(value["file"]).read_text().splitlines()[line - 1].strip() if line else value.get("preset")
        return value["value"], value["from"], value.get("file"), text

    assert origin("certificate.key") == ("rsa4096", "file", domain, "certificate: {key: rsa4096}")
    assert origin("renewal.at") == (0.5, "file", domain, "renewal: {at: 0.5}")
    assert origin("renewal.spread")[1:3] == ("file", main)
    assert origin("renewal.keep_old_keys") == ("10y", "built-in", None, None)
    assert origin("authorities.pubca.token_join") == ("string", "preset", None, "rfc8823")
    assert origin("authorities.pubca.challenge_wait")[:3] == ("2h", "file", main)


def test_explain_covers_every_value_and_speaks_of_each_once(path: Path) -> None:
    text = config(path, "explain", "info@example.com").stdout
    keys = [line.split()[0] for line in text.split("\n\n")[1].splitlines()]
    assert len(keys) == len(set(keys))
    assert {"mode", "reply.dkim", "leavers.reason", "authorities.pubca.limits.background_per_hour"} <= set(keys)
    assert "on_success" in text
    assert "deliver " in text


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("blue-room@example.com", "matches exclude *-room@*"),
        ("postmaster@example.com", "matches the built-in pattern postmaster@* (role address; include it by name"),
        ("gone@example.com", "it is not listed, and ad did not name it when last read"),
        ("x@lab.example.com", "matches nothing in domains.lab.example.com.mailboxes.include"),
    ],
)
def test_explain_says_why_a_mailbox_is_not_managed_and_what_would_hold(path: Path, address: str, reason: str) -> None:
    answer = explained(path, address)
    assert answer["managed"] is False
    assert answer["reason"].startswith(reason)
    assert answer["values"]


@pytest.mark.parametrize(
    ("address", "words"), [("x@example.net", "no domain example.net is configured"), ("x", "is no mail address: ")]
)
def test_explain_of_what_no_domain_has_is_status_1(path: Path, address: str, words: str) -> None:
    done = config(path, "explain", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{address}: {words}")


def test_explain_without_a_store_still_says_what_the_configuration_says(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(path.parent, place)
    text = path.read_text().replace(f"{path.parent}/store.db", f"{tmp_path}/none.db")
    (place / "acme-milter.yaml").write_text(text)
    answer = explained(place / "acme-milter.yaml", "someone@example.com")
    assert answer["reason"] == "it is not listed, and ad did not name it when last read"


def test_a_worker_says_the_same_of_a_mailbox_as_the_store(path: Path) -> None:
    config_read = load(path)
    database = Database(config_read.store.url)
    try:
        with database.read() as connection:
            document = member(connection, config_read, datetime.now(UTC), address="ada.boss@EXAMPLE.com")
            gone = member(connection, config_read, datetime.now(UTC), address="gone@example.com")
    finally:
        database.close()
    answer = explained(path, "ada.boss@EXAMPLE.com")
    assert document["member"] == {
        key: answer[key] for key in ("address", "principal", "source", "groups", "person_name")
    }
    assert gone["member"] is None


def test_explain_is_quick_and_loads_no_database_library(path: Path) -> None:
    code = (
        "import sys\nsys.argv = ['acme-milter', 'config', 'explain', 'ada.boss@example.com']\n"
        "from acme_milter.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted(m for m in ('sqlalchemy', 'alembic', 'cryptography', 'requests', 'rich') if m in sys.modules))\n"
    )
    environment = os.environ | {"ACME_MILTER_CONFIG": str(path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=environment)
    assert done.stdout.splitlines()[-1] == "[]"

    def seconds() -> float:
        began = time.monotonic()
        config(path, "explain", "ada.boss@example.com")
        return time.monotonic() - began

    # 300 ms is the aim on an idle machine; the best of a few runs, with room for a busy one.
    assert min(seconds() for _ in range(3)) < 1


def test_show_is_yaml_with_the_socket_as_main_cf_has_it(path: Path) -> None:
    done = config(path, "show")
    assert done.stdout.splitlines()[1] == "# main.cf: smtpd_milters = unix:acme-milter/acme-milter.sock"
    answer = json.loads(config(path, "show", "--all", "--json").stdout)
    assert (answer["schema"], answer["all"]) == ("acme-milter/config-show/1", True)
    assert answer["configuration"]["authorities"]["pubca"]["eab"]["kid"] == {"credential": "pubca.kid"}
    assert answer["configuration"]["worker"]["threads"] == 16


def test_check_is_the_same_command_at_both_places(path: Path) -> None:
    done = config(path, "check")
    assert done.stdout == "configuration ok: 2 mailboxes in 3 domains, 2 authorities, 3 sources\n"
    assert json.loads(config(path, "check", "--json").stdout)["sources"] == ["ad", "postfix", "hr"]


@pytest.mark.parametrize("arguments", [("explain", "x@y.example"), ("show",)])
def test_a_faulty_configuration_is_refused_with_status_78(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("mod: 1\n")
    path.chmod(0o600)
    done = config(path, *arguments)
    assert (done.returncode, done.stdout) == (78, "")
    assert "unknown key" in done.stderr
