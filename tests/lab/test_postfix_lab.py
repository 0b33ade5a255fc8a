# SPDX-License-Identifier: GPL-3.0-or-later
"""The private Postfix: takes, delivers, hands on, refuses; keeps out of the machine's mail system; leaves nothing."""

import smtplib
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from acme_milter.lab.postfix import PostfixLab
from acme_milter.lab.postfix_config import postfix_milter_address
from acme_milter.lab.processes import ProcessFault, free_port, wait_until

RAW = b"From: x@y.example\r\nSubject: hello\r\n\r\nHi\r\n"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., PostfixLab]]:
    made: list[PostfixLab] = []

    def make(**options: Any) -> PostfixLab:
        options.setdefault("domains", {"org.example": ["alice", "bob@org.example"]})
        lab = PostfixLab(tmp_path / f"postfix{len(made)}", **options)
        made.append(lab)
        lab.start()
        return lab

    yield make
    for lab in made:
        lab.remove()
        assert not lab.directory.exists()


def send(port: int, *recipients: str, sender: str = "x@y.example", raw: bytes = RAW) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
        smtp.sendmail(sender, recipients, raw)


def processes_of(lab: PostfixLab) -> list[str]:
    """Processes that work in the lab's queue directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == lab.queue_directory:
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue
    return found


def test_mail_is_delivered_to_maildirs_in_the_order_it_came(make: Callable[..., PostfixLab]) -> None:
    lab = make()
    for number in range(3):
        send(lab.smtp_port, "alice@org.example", raw=b"Subject: %d\r\n\r\n" % number)
        lab.wait_for_empty_queue()
    inbox = lab.inbox("ALICE@org.example")
    assert [raw.split(b"Subject: ")[1][:1] for raw in inbox] == [b"0", b"1", b"2"]
    assert lab.inbox("bob@org.example") == []
    with pytest.raises(KeyError):
        lab.inbox("nobody@org.example")


def test_it_works_in_a_directory_whose_parents_are_closed_to_others(make: Callable[..., PostfixLab]) -> None:
    lab = make()
    assert lab.directory.parent.stat().st_mode & 0o077 == 0
    send(lab.smtp_port, "alice@org.example")
    wait_until(lambda: len(lab.inbox("alice@org.example")) == 1, "the mail")


def test_an_alias_reaches_all_its_mailboxes(make: Callable[..., PostfixLab]) -> None:
    lab = make(aliases={"all@org.example": ["alice@org.example", "bob@org.example"]})
    send(lab.smtp_port, "all@org.example")
    lab.wait_for_empty_queue()
    assert len(lab.inbox("alice@org.example")) == len(lab.inbox("bob@org.example")) == 1


@pytest.mark.parametrize("recipient", ["nobody@org.example", "someone@elsewhere.example", "acme@ca.example"])
def test_the_mx_face_takes_mail_for_its_mailboxes_and_for_nobody_else(
    make: Callable[..., PostfixLab], recipient: str
) -> None:
    lab = make()
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(lab.smtp_port, recipient)


def test_the_reply_face_hands_mail_for_the_authority_to_its_port_and_nothing_else_leaves(
    make: Callable[..., PostfixLab],
) -> None:
    class Sink:
        def __init__(self) -> None:
            self.got: list[tuple[list[str], bytes]] = []

        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
            self.got.append((envelope.rcpt_tos, envelope.original_content))
            return "250 OK"

    sink = Sink()
    port = free_port()
    controller = Controller(sink, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        lab = make(ca_routes={"ca.example": ("127.0.0.1", port)})
        send(lab.reply_port, "acme@ca.example", sender="alice@org.example")
        wait_until(lambda: len(sink.got) == 1, "the routed mail")
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="delivers nowhere else"):
            send(lab.reply_port, "someone@elsewhere.example", sender="alice@org.example")
    finally:
        controller.stop()
    recipients, raw = sink.got[0]
    assert recipients == ["acme@ca.example"]
    assert raw.endswith(RAW)


def test_mail_for_a_peer_that_was_away_is_delivered_when_it_is_back(make: Callable[..., PostfixLab]) -> None:
    port = free_port()
    lab = make(ca_routes={"ca.example": ("127.0.0.1", port)})
    send(lab.reply_port, "acme@ca.example", sender="alice@org.example")
    wait_until(lambda: "Connection refused" in lab.log_text(), "the first try")
    assert not lab.queue_is_empty()

    class Handler:
        pass

    controller = Controller(Handler(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        lab.flush()
        lab.wait_for_empty_queue(60)
    finally:
        controller.stop()
    assert "status=sent" in lab.log_text()


def test_a_mailbox_added_later_gets_mail(make: Callable[..., PostfixLab]) -> None:
    lab = make()
    lab.add_mailboxes(["carol@org.example"])

    def accepted() -> bool:
        try:
            send(lab.smtp_port, "carol@org.example")
        except smtplib.SMTPRecipientsRefused:
            return False
        return True

    wait_until(accepted, "carol to be known", pause=0.1)
    wait_until(lambda: len(lab.inbox("carol@org.example")) == 1, "carol's mail")


def test_it_starts_and_stops_and_leaves_no_process(make: Callable[..., PostfixLab]) -> None:
    lab = make()
    assert "master" in processes_of(lab)
    lab.stop()
    wait_until(lambda: processes_of(lab) == [], "every process of Postfix to end", timeout=30)


def test_two_at_a_time_do_not_disturb_each_other(make: Callable[..., PostfixLab]) -> None:
    one, other = make(), make()
    assert len({one.smtp_port, one.reply_port, other.smtp_port, other.reply_port}) == 4
    send(one.smtp_port, "alice@org.example")
    wait_until(lambda: len(one.inbox("alice@org.example")) == 1, "the mail")
    assert other.inbox("alice@org.example") == []


def test_many_mails_one_after_the_other_all_arrive(make: Callable[..., PostfixLab]) -> None:
    lab = make()
    for _ in range(40):
        send(lab.smtp_port, "alice@org.example")
    wait_until(lambda: len(lab.inbox("alice@org.example")) == 40, "all of them")
    lab.wait_for_empty_queue(20)


def test_a_port_that_is_taken_is_only_a_reason_to_choose_another(
    make: Callable[..., PostfixLab], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as taken:
        threading.Thread(target=taken.serve_forever, daemon=True).start()
        ports = iter([taken.server_address[1], free_port(), free_port(), free_port()])
        monkeypatch.setattr("acme_milter.lab.postfix.free_port", lambda: next(ports))
        lab = make()
        assert lab.smtp_port != taken.server_address[1]
        taken.shutdown()


def test_a_faulty_configuration_is_told_with_what_postfix_said(make: Callable[..., PostfixLab]) -> None:
    with pytest.raises(ProcessFault, match="bad numerical configuration"):
        make(main_extra="message_size_limit = many\n")


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("inet:8891@127.0.0.1", "inet:127.0.0.1:8891"),
        ("inet:127.0.0.1:8891", "inet:127.0.0.1:8891"),
        ("unix:/lab/queue/acme-milter/a.sock", "unix:acme-milter/a.sock"),
        ("local:/lab/a.sock", "unix:../a.sock"),
        ("unix:acme-milter/a.sock", "unix:acme-milter/a.sock"),
    ],
)
def test_milter_addresses_are_written_as_postfix_wants_them(address: str, written: str) -> None:
    assert postfix_milter_address(address, Path("/lab/queue")) == written
