# SPDX-License-Identifier: GPL-3.0-or-later
"""Challenges that are signed by S/MIME, through a real Postfix; test_behaviours has the forms that end well."""

import json
from collections.abc import Iterator

import pytest

from acme_milter.lab.system import Lab
from tests.whole_way.conftest import SIGNED

USER = f"user0@{SIGNED}"


@pytest.fixture
def signing(lab: Lab) -> Iterator[None]:
    lab.authority.set_knobs(SMIME="clear", DKIM="unsigned")
    yield
    lab.authority.reset_knobs()


@pytest.mark.usefixtures("signing")
def test_the_signature_proves_the_mail_and_the_timeline_says_by_whose(lab: Lab) -> None:
    assert [row["state"] for row in lab.enroll(USER)] == ["active"]
    assert lab.postfix.inbox(USER) == []
    line = lab.wait_for_log(f"challenge-accepted rcpt=<{USER}>")
    assert "smime=pass signer=" in line
    shown = json.loads(lab.run_command("mailbox", "show", USER, "--json").stdout)
    assert "S/MIME pass signer=" in json.dumps(shown)


@pytest.mark.usefixtures("signing")
@pytest.mark.parametrize(
    ("number", "fault", "condition"),
    [(1, "untrusted", "S4"), (2, "other-address", "S5"), (3, "changed-body", "S3"), (4, "nested", "G12")],
)
def test_a_signature_that_proves_nothing_is_delivered(lab: Lab, number: int, fault: str, condition: str) -> None:
    mailbox = f"user{number}@{SIGNED}"
    lab.authority.set_knobs(SMIME_FAULT=fault)
    lab.run_command("enroll", mailbox)
    assert lab.wait_for_mail(mailbox)
    assert f" condition={condition} " in lab.wait_for_log(f"challenge-refused rcpt=<{mailbox}>")


@pytest.mark.usefixtures("signing")
@pytest.mark.parametrize(("number", "added"), [(5, "reply-to"), (6, "sender")])
def test_what_somebody_adds_to_a_sparsely_protected_mail_leads_no_answer_astray(
    lab: Lab, number: int, added: str
) -> None:
    mailbox = f"user{number}@{SIGNED}"
    lab.authority.set_knobs(SMIME="sparse", MAIL_EXTRA_HEADER=added)
    lab.run_command("enroll", mailbox)
    assert lab.wait_for_mail(mailbox)
    line = lab.wait_for_log(f"challenge-refused rcpt=<{mailbox}>")
    assert " condition=S6 reason=smime-unprotected " in line
    assert f"not {added}" in line


@pytest.mark.usefixtures("signing")
def test_an_authority_that_is_not_said_to_sign_so_is_not_believed(lab: Lab, mailbox: str) -> None:
    lab.run_command("enroll", mailbox)
    assert lab.wait_for_mail(mailbox)
    assert " condition=G12 reason=dkim-none " in lab.wait_for_log(f"challenge-refused rcpt=<{mailbox}>")
