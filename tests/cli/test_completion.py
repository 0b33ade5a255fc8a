# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell completion, in a real bash."""

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def script_for(shell: str) -> str:
    run = [str(BIN / "acme-milter"), "completion", shell]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("acme-milter mail", {"mailbox"}),
        ("acme-milter mailbox ", {"list", "show", "why", "sync"}),
        ("acme-milter cert re", {"renew", "request", "revoke"}),
        ("acme-milter cert revoke --rea", {"--reason"}),
        ("acme-milter completion z", {"zsh"}),
    ],
)
def test_bash_completes_nouns_verbs_options_and_choices(line: str, found: set[str]) -> None:
    words = line.split(" ")
    ask = (
        f"{script_for('bash')}\n"
        f"COMP_WORDS=({' '.join(words[:-1])} '{words[-1]}'); COMP_CWORD={len(words) - 1}\n"
        'COMPREPLY=(); _acme_milter_completion acme-milter; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {"PATH": f"{BIN}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60, env=environment)
    assert set(done.stdout.split()) == found, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_that_names_the_command(shell: str) -> None:
    assert "acme-milter" in script_for(shell)
    assert "_ACME_MILTER_COMPLETE" in script_for(shell)
