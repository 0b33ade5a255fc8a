# SPDX-License-Identifier: GPL-3.0-or-later
"""`acme-milter check` and the frame of the command line, as processes: what scripts lean on."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forked_commands import run_forked

ROOT = Path(__file__).parents[2]
GOOD = (
    "authorities: {castle: {preset: castle, agree_tos: true}}\n"
    "domains: {example.org: {mailboxes: {list: [alice@example.org]}}}\n"
)
BAD = "milter: {cpu: x}\nworker: {thread: 4}\n"


def acme_milter(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_forked([sys.executable, "-m", "acme_milter", *map(str, arguments)], environment=environment)


def config_file(directory: Path, text: str) -> Path:
    path = directory / "acme-milter.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def with_wrapping_key(directory: Path, text: str) -> str:
    """The configuration with a wrapping key that is there."""
    key = directory / "wrapping.key"
    key.write_text("not looked into by check\n")
    key.chmod(0o600)
    return text + f"keys: {{wrapping_key: {{file: {key}}}}}\n"


def test_a_good_configuration_is_one_line_and_status_0(tmp_path: Path) -> None:
    done = acme_milter("--config", config_file(tmp_path, with_wrapping_key(tmp_path, GOOD)), "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "configuration ok: 1 mailbox in 1 domain, 1 authority\n"


def test_the_repositorys_default_is_good_on_any_machine(tmp_path: Path) -> None:
    text = (ROOT / "acme-milter.yaml").read_text(encoding="utf-8")
    done = acme_milter("--config", config_file(tmp_path, text), "check")
    assert done.returncode == 0
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())


def test_what_a_fresh_machine_lacks_is_a_note_that_says_what_to_do(tmp_path: Path) -> None:
    missing, loose = tmp_path / "missing.key", tmp_path / "loose.key"
    loose.write_text("x")
    loose.chmod(0o644)
    for key, words in ((missing, f"{missing} is not there: keyd makes a new one"), (loose, f"run: chmod 0600 {loose}")):
        path = config_file(tmp_path, GOOD + f"keys: {{wrapping_key: {{file: {key}}}}}\n")
        done = acme_milter("--config", path, "check")
        assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
        assert done.stderr.startswith("note: keys.wrapping_key: ")
        assert words in done.stderr
        assert json.loads(acme_milter("--config", path, "check", "--json").stdout)["notes"] == [
            done.stderr.removeprefix("note: ").rstrip()
        ]


def test_a_configuration_without_mailboxes_says_so(tmp_path: Path) -> None:
    done = acme_milter("--config", config_file(tmp_path, with_wrapping_key(tmp_path, "version: 1\n")), "check")
    assert done.returncode == 0
    assert done.stderr.startswith("note: no mailbox is managed yet; list some: ")


NOBODY = 65534
# Another user could not even read a checkout below /root; root without this right is like any user to others' files.
WITHOUT_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]


@pytest.mark.parametrize("arguments", [("check",), ("check", "--json"), ("status",)])
def test_a_configuration_that_one_may_not_read_is_status_77(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = config_file(tmp_path, GOOD)
    os.chown(path, NOBODY, NOBODY)
    run = [*WITHOUT_OVERRIDE, sys.executable, "-m", "acme_milter", "--config", str(path), *arguments]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 77
    assert "cannot be read" in done.stdout + done.stderr or "denied" in done.stderr


def test_every_fault_is_a_line_of_standard_error_and_status_78(tmp_path: Path) -> None:
    path = config_file(tmp_path, BAD)
    done = acme_milter("--config", path, "check")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.splitlines() == [
        f"{path}:1: milter.cpu: must be auto, null or the number of a CPU (not 'x')",
        f"{path}:2: worker.thread: unknown key (did you mean threads?)",
    ]


def test_a_missing_file_is_one_clear_line_and_status_78(tmp_path: Path) -> None:
    done = acme_milter("--config", tmp_path / "none.yaml", "check")
    assert (done.returncode, done.stderr) == (78, f"{tmp_path}/none.yaml: cannot be read: No such file or directory\n")


def test_a_broken_yaml_is_reported_with_its_line(tmp_path: Path) -> None:
    path = config_file(tmp_path, "version: 1\nmilter: [\n")
    done = acme_milter("--config", path, "check")
    assert done.returncode == 78
    assert re.match(rf"{path}:2: not valid YAML", done.stderr)


@pytest.mark.parametrize(("text", "ok"), [(GOOD, True), (BAD, False)])
def test_json_names_its_schema_and_holds_every_fault(tmp_path: Path, text: str, ok: bool) -> None:
    path = config_file(tmp_path, text)
    done = acme_milter("--config", path, "check", "--json")
    answer = json.loads(done.stdout)
    assert (answer["schema"], answer["ok"], done.returncode) == ("acme-milter/check/1", ok, 0 if ok else 78)
    assert done.stderr == ""
    if ok:
        assert (answer["mailboxes"], answer["domains"], answer["faults"]) == (1, ["example.org"], [])
    else:
        assert [fault["line"] for fault in answer["faults"]] == [1, 2]
        assert answer["faults"][1] == {
            "file": str(path),
            "line": 2,
            "key": "worker.thread",
            "message": "unknown key (did you mean threads?)",
        }


def test_the_configuration_can_be_named_by_the_environment(tmp_path: Path) -> None:
    done = acme_milter("check", ACME_MILTER_CONFIG=str(config_file(tmp_path, GOOD)))
    assert done.returncode == 0


def test_other_commands_refuse_a_bad_configuration_the_same_way(tmp_path: Path) -> None:
    path = config_file(tmp_path, BAD)
    done = acme_milter("--config", path, "status")
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["chekc"], "did you mean check?"), (["check", "--frob"], "--frob"), (["--frob"], "--frob")],
)
def test_wrong_usage_is_status_2(arguments: list[str], words: str) -> None:
    done = acme_milter(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['acme-milter', '--help']\nfrom acme_milter.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted(m for m in ('pydantic', 'yaml', 'cryptography', 'requests', 'rich', 'sqlalchemy', 'Milter',\n"
        "    'josepy', 'logging', 'acme_milter.eventlog', 'acme_milter.config.schema') if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    *shown, imported = done.stdout.splitlines()
    assert imported in ("[]", "['logging']")
    for command in ("check", "run", "milter", "worker", "keyd", "status", "enroll", "export", "testca"):
        assert any(line.strip().startswith(command + " ") for line in shown)


def test_help_is_quick() -> None:
    def seconds() -> float:
        began = time.monotonic()
        assert acme_milter("--help").returncode == 0
        return time.monotonic() - began

    # 150 ms is the aim on an idle machine; the best of a few runs, with room for a busy one.
    assert min(seconds() for _ in range(5)) < 0.5


def test_version_is_told_in_both_ways() -> None:
    short, long = acme_milter("--version"), acme_milter("version", "--json")
    answer = json.loads(long.stdout)
    assert short.stdout == f"acme-milter {answer['version']}\n"
    assert answer["schema"] == "acme-milter/version/1"


def failing_program(raised: str) -> str:
    return (
        "import sys\nfrom acme_milter.cli import main as program\nimport click\n"
        "class SafeError(Exception): safe_text = True\n"
        "@click.command()\ndef check():\n    secret = 'canary-local'\n    " + raised + "\n"
        "program.LazyGroup.get_command = lambda self, ctx, name: check\n"
        "sys.argv = ['acme-milter', 'check']\nprogram.main()\n"
    )


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        ("raise ValueError('canary-text')", 1, "internal error: ValueError at "),
        ("raise SafeError('the CA is\\nasleep')", 1, "acme-milter: the CA is asleep"),
        ("raise PermissionError(13, 'Permission denied', '/x')", 77, "Permission denied: /x"),
        ("import starlette_missing", 1, "internal error: ModuleNotFoundError"),
        ("raise ModuleNotFoundError('x', name='starlette')", 1, "pip install 'acme-milter[testca]'"),
    ],
)
def test_an_unexpected_exception_is_one_line_without_text_or_locals(raised: str, code: int, words: str) -> None:
    run = [sys.executable, "-c", failing_program(raised)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "canary" not in done.stderr


def test_a_traceback_comes_only_on_request_and_without_locals() -> None:
    run = [sys.executable, "-c", failing_program("raise ValueError('why')")]
    environment = os.environ | {"ACME_MILTER_TRACEBACK": "1"}
    done = subprocess.run(run, capture_output=True, text=True, timeout=30, env=environment)
    assert "Traceback" in done.stderr
    assert "canary-local" not in done.stderr
