# SPDX-License-Identifier: GPL-3.0-or-later
"""A mailbox's aliases through Postfix, every role and the command line."""

import json
from pathlib import Path

from cryptography import x509

from acme_milter.lab.system import Lab
from tests.whole_way.conftest import APART, SHARED


def names_of(lab: Lab, mailbox: str, out: Path) -> set[str]:
    done = lab.run_command("export", mailbox, "--format", "chain", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    (chain,) = json.loads(done.stdout)["files"]
    leaf = x509.load_pem_x509_certificates(Path(chain).read_bytes())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.RFC822Name))


def test_a_mailbox_and_its_aliases_answer_for_one_certificate(lab: Lab, tmp_path: Path) -> None:
    mailbox = f"user0@{SHARED}"
    everybody = {mailbox, f"user1@{SHARED}", f"user9@{APART}"}
    assert [row["state"] for row in lab.enroll(mailbox)] == ["active"]
    assert names_of(lab, mailbox, tmp_path) == everybody
    replies = lab.authority.history("reply-received")
    assert everybody <= {reply["identifier"] for reply in replies}
    why = json.loads(lab.run_command("mailbox", "why", f"user1@{SHARED}", "--json").stdout)
    assert (why["word"], why["command"]) == ("alias", f"acme-milter mailbox why {mailbox}")
    why = json.loads(lab.run_command("mailbox", "why", mailbox, "--json").stdout)
    assert f"Its certificate is for user1@{SHARED} and user9@{APART} as well." in why["text"]


def test_aliases_with_certificates_of_their_own_are_enrolled_like_mailboxes(lab: Lab, tmp_path: Path) -> None:
    everybody = [f"user{number}@{APART}" for number in range(3)]
    assert {row["state"] for row in lab.enroll(*everybody)} == {"active"}
    assert [names_of(lab, one, tmp_path / one) for one in everybody] == [{one} for one in everybody]
    why = json.loads(lab.run_command("mailbox", "why", everybody[1], "--json").stdout)
    assert f"It is an alias of {everybody[0]}." in why["text"]
