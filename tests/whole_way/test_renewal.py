# SPDX-License-Identifier: GPL-3.0-or-later
"""Renewal by the roles as they run: by themselves, at their authority's call; and an authority that a person pauses."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from acme_milter.lab.processes import wait_until
from acme_milter.lab.system import Lab
from acme_milter.store.schema import enrollment


def states_of(lab: Lab, address: str) -> list[str]:
    """Causes and states of its enrollments, the oldest first."""
    engine = sa.create_engine(lab.config.store.url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(
                sa.select(enrollment.c.cause, enrollment.c.state)
                .where(enrollment.c.address == address)
                .order_by(enrollment.c.opened_at)
            )
            return [f"{row.cause} {row.state}" for row in rows]
    finally:
        engine.dispose()


def authorities(lab: Lab) -> list[dict[str, object]]:
    done = lab.run_command("authority", "list", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "acme-milter/authority-list/1"
    found: list[dict[str, object]] = document["authorities"]
    return found


def no_session_is_open(lab: Lab) -> bool:
    log = lab.postfix.log_text()
    return log.count(": connect from ") == log.count(": disconnect from ")


def test_a_certificate_that_its_authority_wants_replaced_is_renewed_with_nobody_asking(
    own_lab: Callable[..., Lab],
) -> None:
    lab = own_lab(knobs={"ARI": "past"})
    (address,) = lab.addresses
    assert [row["state"] for row in lab.enroll(address)] == ["active"]
    lab.stop_roles(kill=True)  # in the middle of whatever it does
    # A session goes on with the milter that it began with, and past us when that is dead.
    wait_until(lambda: no_session_is_open(lab), "the authority to hang up")
    lab.start_roles()
    wait_until(
        lambda: states_of(lab, address) == ["asked superseded", "urgent-renewal active"], "the renewal", timeout=60
    )
    replaced = [one["replaces"] for one in lab.authority.history("order")]
    assert replaced[0] is None
    assert replaced[1] is not None


def test_a_paused_authority_begins_nothing_until_it_is_resumed(lab: Lab, mailbox: str) -> None:
    name = str(authorities(lab)[0]["authority"])
    assert lab.run_command("authority", "pause", "nobody").returncode == 1
    paused = lab.run_command("authority", "pause", name, "--reason", "moving house")
    assert paused.stdout.strip() == f"{name}: paused"
    try:
        lab.run_command("enroll", mailbox)
        assert states_of(lab, mailbox) == ["asked planned"]
        said = lab.run_command("authority", "list").stdout
        assert f"acme-milter authority resume {name} (moving house)" in said
    finally:
        resumed = lab.run_command("authority", "resume", name, "--json")
    assert json.loads(resumed.stdout)["outcome"] == "resumed"
    wait_until(lambda: states_of(lab, mailbox) == ["asked active"], "the certificate", timeout=60)
    assert lab.run_command("authority", "resume", name).returncode == 1
    (row,) = [one for one in authorities(lab) if one["authority"] == name]
    budgets = row["budgets"]
    assert isinstance(budgets, dict)
    assert budgets["orders_per_hour"]["used"] >= 1


def test_the_commands_of_the_page_on_renewal_run_as_they_stand_there(lab: Lab, mailbox: str) -> None:
    assert [row["state"] for row in lab.enroll(mailbox)] == ["active"]
    page = (Path(__file__).parents[2] / "docs" / "renewal.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^ *```sh\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL))
    commands = [line.strip().removeprefix("acme-milter ") for line in blocks.splitlines()]
    assert len(commands) == 4
    for command in commands:
        done = lab.run_command(*shlex.split(command.replace("alice@org.example", mailbox)))
        # Nothing is held here; then the release says so.
        assert done.returncode == (1 if command.startswith("hold release") else 0), done.stderr
    wait_until(
        lambda: states_of(lab, mailbox) == ["asked superseded", "asked active"], "the renewal asked for", timeout=60
    )
