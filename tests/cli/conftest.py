# SPDX-License-Identifier: GPL-3.0-or-later
"""One small mail system for the commands that look at what happened, and act on it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.forked_commands import Lab
from tests.scratch import scratch

OBSERVED = "observed.example"


class Office:
    """A running laboratory and its commands. ``alice`` has a certificate and an older one, ``never`` never any."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def run(self, *arguments: str, code: int = 0, given: str | None = None) -> tuple[str, str]:
        """(standard output, standard error) of a command that ends with ``code``."""
        done = self.lab.run_command(*arguments, given=given or "", timeout=60)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout, done.stderr

    def document(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """What a command prints with --json."""
        found: dict[str, Any] = json.loads(self.run(*arguments, "--json", code=code)[0])
        return found


@pytest.fixture(scope="session")
def office() -> Iterator[Office]:
    names = [
        "alice",
        "bob",
        "carol",
        "dave",
        "erin",
        "frank",
        "never",
        "paula",
        "quentin",
        "rita",
        "sonja",
        "stella",
        "trudy",
    ]
    policies = {OBSERVED: {"mode": "observe"}}
    domains = {"org.example": names, OBSERVED: ["grace"]}
    with (
        scratch("office") as place,
        Lab(place / "lab", domains=domains, reply_dkim="own", policies=policies, staging=True) as lab,
    ):
        here = Office(lab)
        here.run("cert", "issue", "alice@org.example", "--wait", "--timeout", "60")
        here.run("cert", "issue", "alice@org.example", "--again", "--wait", "--timeout", "60")
        yield here
