# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command in docs/commands.md can be pasted, in the order in which it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Office
from tests.cli.test_cert_command import pkcs12

PAGE = Path(__file__).parents[2] / "docs/commands.md"
# Other tests have their own wishes for those who have these names there.
OF_THE_PAGE = {"alice@": "paula@", "bob@": "quentin@", "carol@": "rita@"}


def commands() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    for shown, ours in OF_THE_PAGE.items():
        text = text.replace(shown, ours)
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_page_can_be_pasted(office: Office, tmp_path: Path) -> None:
    pkcs12(tmp_path, "rita@org.example").rename(tmp_path / "old.p12")
    (tmp_path / "passphrase").rename(tmp_path / "old.passphrase")
    office.run("cert", "issue", "paula@org.example", "--wait", "--timeout", "60")
    environment = os.environ | {"ACME_MILTER_CONFIG": str(office.lab.config_path)}
    for words in commands():
        assert words[0] == "acme-milter"
        run = [sys.executable, "-m", "acme_milter", *words[1:]]
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (words, done.stdout, done.stderr)
