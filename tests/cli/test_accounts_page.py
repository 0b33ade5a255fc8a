# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command in docs/accounts.md and docs/authority-test.md can be pasted, in the order in which it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Office

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["accounts.md", "authority-test.md"])
def test_the_page_can_be_pasted(office: Office, page: str) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines
    for line in lines:
        words = shlex.split(line.replace("alice@", "trudy@"))
        assert words[0] == "acme-milter"
        if words[1:3] == ["authority", "resume"]:
            office.run("authority", "pause", "testca")  # as new terms would have done
        office.run(*words[1:])
