# SPDX-License-Identifier: GPL-3.0-or-later
"""What the demo sends besides the challenges, and the judgement of what became of it all."""

import email.utils
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from acme_milter.enrollment.model import State
from acme_milter.lab.processes import wait_until
from acme_milter.lab.system import Lab
from acme_milter.store import overview
from acme_milter.store.database import Database
from acme_milter.store.overview import Overview

CORRESPONDENT = "friend@elsewhere.example"


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise of the product, and whether it was kept in this run."""

    promise: str
    kept: bool
    evidence: str


@dataclass
class Traffic:
    """Ordinary mail, a forged challenge and somebody else's challenge, sent while certificates are ordered."""

    lab: Lab
    per_mailbox: int = 2
    sent: dict[str, list[bytes]] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin sending, from a few connections at once."""
        addresses = self.lab.addresses
        for part in range(3):
            thread = threading.Thread(target=self._send_ordinary, args=(addresses[part::3],), daemon=True)
            thread.start()
            self._threads.append(thread)

    def send_hostile(self, forged_to: str, foreign_to: str) -> None:
        """A challenge that nobody signed, and a genuine one of an order that is not ours."""
        self.lab.authority.send_mail(forged_to, "forged-unsigned")
        self.lab.authority.send_mail(foreign_to, "foreign")

    def finish(self) -> None:
        """Return when everything was handed to Postfix and delivered."""
        for thread in self._threads:
            thread.join()
        wait_until(self.lab.postfix.queue_is_empty, "the mail queue to become empty", timeout=30)

    def _send_ordinary(self, addresses: Sequence[str]) -> None:
        for number in range(self.per_mailbox):
            for address in addresses:
                raw = ordinary_mail(address, number)
                self.lab.send(raw, CORRESPONDENT, address)
                self.sent.setdefault(address, []).append(raw)


def ordinary_mail(recipient: str, number: int) -> bytes:
    """A mail as people send them: long lines, 8-bit text, and nothing that concerns us."""
    lines = [
        f"Date: {email.utils.formatdate()}",
        f"From: A Friend <{CORRESPONDENT}>",
        f"To: {recipient}",
        f"Subject: lunch, the {number + 1}. try",
        f"Message-ID: <{email.utils.make_msgid(domain='elsewhere.example')[1:-1]}>",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        "Grüße, ça va? " + "a long line of words " * 30,
        "",
    ]
    return "\r\n".join(lines).encode("utf-8")


def judge(lab: Lab, traffic: Traffic, rows: Sequence[Overview], forged_to: str, foreign_to: str) -> list[Finding]:
    """Compare what came of it with what was promised, from the inboxes' and the authority's own records."""
    issued = [row for row in rows if row.state is State.ACTIVE]
    intact, unexpected = _inspect_inboxes(lab, traffic, {forged_to: 1, foreign_to: 1})
    replies = lab.authority.history("reply-received")
    answered = {str(reply["sender"]) for reply in replies}
    total = sum(len(mails) for mails in traffic.sent.values())
    return [
        Finding("every mailbox has its certificate", len(issued) == len(lab.addresses), f"{len(issued)} issued"),
        Finding("ordinary mail arrived untouched", intact == total, f"{intact} of {total} mails, byte for byte"),
        Finding("no challenge mail of ours reached an inbox", unexpected == 0, f"{unexpected} seen"),
        Finding(
            "the forged and the foreign challenge were delivered and not answered",
            len(replies) == len(issued),
            f"{len(replies)} replies to {len(issued)} orders, from {len(answered)} mailboxes",
        ),
    ]


def _inspect_inboxes(lab: Lab, traffic: Traffic, allowed: dict[str, int]) -> tuple[int, int]:
    """(ordinary mails found byte for byte, challenge mails that should not be there)"""
    intact = unexpected = 0
    for address in lab.addresses:
        inbox = [mail.replace(b"\r\n", b"\n") for mail in lab.postfix.inbox(address)]
        for raw in traffic.sent.get(address, []):
            intact += any(mail.endswith(raw.replace(b"\r\n", b"\n")) for mail in inbox)
        challenges = sum(b"\nSubject: ACME:" in mail for mail in inbox)
        unexpected += abs(challenges - allowed.get(address, 0))
    return intact, unexpected


def latest_enrollments(lab: Lab) -> list[Overview]:
    """The newest enrollment of each mailbox that has one, in the order of the mailboxes."""
    database = Database(lab.config.store.url)
    try:
        with database.read() as connection:
            found = {row.address: row for row in overview.latest_of_each_mailbox(connection, lab.addresses)}
    finally:
        database.close()
    return [found[address] for address in lab.addresses if address in found]


def describe_inbox(lab: Lab, traffic: Traffic, address: str) -> str:
    """What a person would find in the mailbox, in a few words."""
    inbox = lab.postfix.inbox(address)
    challenges = sum(b"\nSubject: ACME:" in mail.replace(b"\r\n", b"\n") for mail in inbox)
    words = f"{len(inbox) - challenges} ordinary"
    return words + (f", {challenges} stranger's challenge" if challenges else "")
