# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 at every state: after the restart each enrollment goes on to its certificate, with one reply."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.model import State
from acme_milter.lab.processes import wait_until
from acme_milter.lab.system import Lab
from acme_milter.store.schema import enrollment


@dataclass(frozen=True)
class Hold:
    """How to keep an enrollment in a state: faults of the CA, settings, or a CA that hangs from the start."""

    knobs: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    frozen: bool = False
    registered: bool = False


HOLDS = {
    State.PLANNED: Hold(frozen=True),
    State.ORDERING: Hold(frozen=True, registered=True),
    State.AWAITING_MAIL: Hold(knobs={"MAIL_DELAY": 4}),
    State.REPLIED: Hold(settings={"post_delay": "4s"}),
    State.VALIDATING: Hold(knobs={"REPLY_GREYLIST": 100}),
    State.FINALIZING: Hold(knobs={"FINALIZE_ASYNC": 100, "FINALIZE_POLLS": 4}),
}


def state_of(lab: Lab, address: str) -> State | None:
    engine = sa.create_engine(lab.config.store.url)
    try:
        with engine.connect() as connection:
            found = connection.execute(sa.select(enrollment.c.state).where(enrollment.c.address == address)).scalar()
    finally:
        engine.dispose()
    return None if found is None else State(found)


def is_settled(lab: Lab, address: str) -> bool:
    return state_of(lab, address) is State.ACTIVE or len(lab.postfix.inbox(address)) == 1


@pytest.mark.parametrize("state", HOLDS)
@pytest.mark.parametrize("role", ["worker", "keyd"])
def test_a_role_that_is_killed_in_a_state_loses_nothing(own_lab: Callable[..., Lab], state: State, role: str) -> None:
    hold = HOLDS[state]
    lab = own_lab(mailboxes=2, knobs=hold.knobs, authority=hold.settings)
    address, other = lab.addresses
    if hold.registered:
        lab.enroll(other)
    if hold.frozen:
        lab.authority.freeze()
    lab.run_command("enroll", address)
    wait_until(lambda: state_of(lab, address) is state, f"state {state}", timeout=40)
    lab.kill_role(role)
    lab.authority.thaw()
    lab.authority.reset_knobs()
    lab.postfix.flush()
    wait_until(lambda: f"role-died role={role}" in lab.log_text(), "the supervisor to notice")
    lab.wait_for_roles()
    (row,) = lab.enroll(address, timeout=60)
    assert row["state"] == "active", row
    replies = [event for event in lab.authority.history("reply-received") if event["sender"] == address]
    assert len({reply["sha256"] for reply in replies if reply["verdict"] == "valid"}) == 1
    # An order whose answer was lost is placed again; the mail of the first one is then nobody's, and delivered.
    strays = 1 if state in {State.PLANNED, State.ORDERING} else 0
    assert len(lab.postfix.inbox(address)) <= strays


def test_everything_killed_at_once_goes_on_after_a_restart(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab(mailboxes=12, knobs={"MAIL_REORDER": 100})
    lab.run_command("enroll", *lab.addresses)
    wait_until(lambda: "challenge-accepted" in lab.log_text(), "the first answer", timeout=20)
    lab.stop_roles(kill=True)
    lab.start_roles()
    # A challenge that arrived while everything was dead was delivered, as it must be; its order is tried again later.
    wait_until(lambda: all(is_settled(lab, address) for address in lab.addresses), "every mailbox", timeout=60)
    replies = [reply["sender"] for reply in lab.authority.history("reply-received")]
    assert all(replies.count(address) <= 2 for address in lab.addresses)


def test_mail_flows_while_every_role_is_dead(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab()
    address = lab.addresses[0]
    lab.stop_roles(kill=True)
    lab.send(b"From: a@b.example\r\nSubject: hello\r\n\r\nhi\r\n", "a@b.example", address)
    assert len(lab.wait_for_mail(address)) == 1


def test_a_candidate_is_put_off_while_the_worker_is_dead_and_ordinary_mail_flows(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab(knobs={"MAIL_DELAY": 4}, testca_options={"options": ["--first-pause", "0.5"]})
    address = lab.addresses[0]
    lab.run_command("enroll", address)
    wait_until(lambda: state_of(lab, address) is State.AWAITING_MAIL, "the order", timeout=20)
    lab.roles.signal(signal.SIGSTOP)  # or the supervisor would start the worker again at once
    lab.kill_role("worker")
    assert lab.authority.history("mail-deferred", wait=10)[0]["code"] == 451
    lab.send(b"From: a@b.example\r\nSubject: hello\r\n\r\nhi\r\n", "a@b.example", address)
    assert len(lab.wait_for_mail(address)) == 1
    lab.roles.signal(signal.SIGCONT)
    lab.wait_for_roles()
    (row,) = lab.enroll(address)
    assert row["state"] == "active", row
    assert len(lab.postfix.inbox(address)) == 1
