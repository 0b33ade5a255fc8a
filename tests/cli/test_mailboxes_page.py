# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of docs/mailboxes.md, pasted at a site with a source."""

import shlex
from pathlib import Path

from click.testing import CliRunner

from acme_milter.cli.main import cli

PAGE = Path(__file__).parents[2] / "docs" / "mailboxes.md"


def test_the_commands_of_the_page_can_be_pasted(tmp_path: Path) -> None:
    (tmp_path / "staff.csv").write_text("address,id\nalice@org.example,1\npostmaster@org.example,2\n")
    config = tmp_path / "acme-milter.yaml"
    config.write_text(
        f"""
version: 1
store: {{url: "sqlite:///{tmp_path}/store.db"}}
worker: {{control_socket: {tmp_path}/none.sock, verification: none}}
authorities: {{ca: {{directory: "https://ca.example/directory", agree_tos: true}}}}
sources: {{staff: {{type: csv, path: staff.csv}}}}
domains: {{org.example: {{source: staff}}}}
"""
    )
    config.chmod(0o600)
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("acme-milter ")]
    assert len(lines) >= 2
    for line in lines:
        done = CliRunner().invoke(cli, ["--config", str(config), *shlex.split(line, comments=True)[1:]])
        assert done.exit_code == 0, (line, done.output)
    assert "+ alice@org.example" in done.output
