# SPDX-License-Identifier: GPL-3.0-or-later
"""Two certification authorities, the first one killed while it has work: the whole way, with real Postfix and roles."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.model import State
from acme_milter.lab.authority import AuthorityLab
from acme_milter.lab.processes import free_port, wait_until
from acme_milter.lab.system import AUTHORITY
from acme_milter.store.schema import enrollment
from tests.forked_commands import Lab
from tests.scratch import scratch

SECOND, SECOND_DOMAIN = "second", "other.example"
MAILBOXES, EARLY, IN_FLIGHT = 24, 4, 4


class TwoAuthorities(Lab):
    """A Lab with another CA beside its own; both are in every mailbox's policy, the Lab's own one first."""

    store: sa.Engine
    """Once it has started."""

    def __init__(self, directory: Path) -> None:
        self._second_mx = free_port()
        super().__init__(
            directory,
            domains={"org.example": [f"user{number}" for number in range(MAILBOXES)]},
            reply_dkim="own",
            authority={"limits": {"in_flight": IN_FLIGHT}, "order_lifetime": "30s"},
            more_authorities={SECOND: {}},
            defaults={"authorities": [AUTHORITY, SECOND]},
            more_routes={SECOND_DOMAIN: ("127.0.0.1", self._second_mx)},
        )

    def _start_mail(self) -> None:
        super()._start_mail()
        self.second = AuthorityLab(
            self.directory / "second",
            smtp_port=self.postfix.smtp_port,
            mx_port=self._second_mx,
            resolver_port=self.name_server.port,
            domain=SECOND_DOMAIN,
        )
        self.second.start()
        self._started.append(self.second)
        self._more_authorities[SECOND] = {
            "directory": self.second.directory_url, "ca_bundle": str(self.second.ca_bundle),
        }  # fmt: skip
        for name, texts in (self.authority.dkim_records() | self.second.dkim_records()).items():
            self.name_server.set_txt(name, *texts)
        self._sections["dns"] = {"nameservers": [self.name_server.address]}


@pytest.fixture
def two() -> Iterator[TwoAuthorities]:
    with scratch("lab") as place, TwoAuthorities(place / "0") as lab:
        lab.store = sa.create_engine(lab.config.store.url)
        yield lab
        lab.store.dispose()


def number(lab: TwoAuthorities, *states: State) -> int:
    wanted = sa.select(sa.func.count()).where(enrollment.c.state.in_([state.value for state in states]))
    with lab.store.connect() as connection:
        return int(connection.execute(wanted).scalar_one())


def said_on_the_page(lab: Lab, *, alice: str) -> dict[str, str]:
    """What the commands of docs/failover.md print, by their first two words; each succeeds."""
    page = (Path(__file__).parents[2] / "docs" / "failover.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    said = {}
    for line in blocks.splitlines():
        words = shlex.split(line.replace("alice@org.example", alice).replace("pubca", AUTHORITY))[1:]
        done = lab.run_command(*words)
        assert done.returncode == 0, (line, done.stderr)
        said[" ".join(words[:2])] = done.stdout
    return said


def names_in(book: list[dict[str, object]]) -> Counter[str]:
    return Counter(str(name) for one in book for name in one["identifiers"])  # type: ignore[attr-defined]  # JSON


def test_everybody_gets_one_certificate_although_the_first_authority_and_then_the_worker_are_killed(
    two: TwoAuthorities,
) -> None:
    early, later = two.addresses[:EARLY], two.addresses[EARLY:]
    assert {row["state"] for row in two.enroll(*early)} == {"active"}
    two.authority.set_knobs(REPLY_GREYLIST=100)  # so that what is under way stays so
    assert two.run_command("enroll", *later).returncode == 0
    wait_until(lambda: number(two, State.REPLIED, State.VALIDATING) == IN_FLIGHT, "orders under way", timeout=25)
    book = names_in(two.authority.certificates())
    assert set(book) == set(early)
    two.authority.kill()
    two.kill_role("worker")
    two.wait_for_log("authority-failing authority=testca", timeout=60)
    two.wait_for_roles()
    wait_until(lambda: number(two, State.ACTIVE) == MAILBOXES, "everybody's certificate", timeout=120)
    assert book + names_in(two.second.certificates()) == Counter(two.addresses)

    said = said_on_the_page(two, alice=later[-1])
    assert "broken since" in said["authority list"]
    assert "takes no orders since" in said["status"]
    assert "order moved from testca to second: " in said["mailbox show"]
    rows = json.loads(two.run_command("authority", "list", "--json").stdout)["authorities"]
    assert {row["authority"]: row["health"]["state"] for row in rows} == {AUTHORITY: "broken", SECOND: "ok"}
    # What was under way at the first one has ended with its order; what had not begun was moved.
    assert number(two, State.FAILED) == IN_FLIGHT
    assert two.log_text().count("enrollment-moved") == len(later) - IN_FLIGHT
