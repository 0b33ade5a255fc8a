# SPDX-License-Identifier: GPL-3.0-or-later
"""S/MIME in the gate: it stands in for DKIM where the authority's configuration says so, and nowhere else."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from acme_milter.store import challenge_mails, timeline
from tests.protocol.sample_mail import CA_DOMAIN, RECIPIENT, good_mail
from tests.protocol.smime_mail import Identity, SignedSample, clear_part, multipart, root, signer
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import IntakeBench
from tests.worker.test_examination import judge

SELECTOR = f"rsa._domainkey.{CA_DOMAIN}"


@pytest.fixture
def make_bench(make_bench: MakeBench) -> MakeBench:
    """openssl signs at the machine's time, which is no longer NOW where many tests have been run before."""

    def make(**changes: Any) -> IntakeBench:
        bench = make_bench(**changes)
        bench.clock.now = datetime.now(UTC)
        return bench

    return make


@pytest.fixture
def accepting(make_bench: MakeBench, tmp_path: Path) -> IntakeBench:
    (tmp_path / "signers.pem").write_bytes(root().pem)
    bench = make_bench(authority={"accept_smime_signed": True, "smime_trust": "signers.pem"})
    bench.expect()
    return bench


def with_both(*, dkim: bool = True, smime: bool = True) -> bytes:
    """Signed by S/MIME and then by DKIM; a False one is broken."""
    raw = SignedSample().raw()
    if not smime:
        raw = raw.replace(b"automatically", b"manually")
    head, _, body = raw.partition(b"\r\n\r\n")
    mail = good_mail().with_body(body)
    for name, value in (line.split(b":", 1) for line in head.split(b"\r\n")):
        mail = mail.set(name.decode(), value.decode())
    signed = mail.signed()
    return signed if dkim else signed.replace(b"bh=", b"bh=A", 1)


def test_a_signed_mail_is_answered_and_suppressed(accepting: IntakeBench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="acme_milter"):
        decision = accepting.decide(SignedSample().raw())
    assert (decision.disposition, decision.reason) == ("discard", "accepted")
    (line,) = [message for message in caplog.messages if "challenge-accepted" in message]
    serial = f"{signer().certificate.serial_number:x}"
    assert f" smime=pass signer={serial} headers=rfc9788 " in line
    assert " dkim=" not in line
    (order,) = accepting.contents()["enrollment"]
    with accepting.database.read() as connection:
        (stored,) = challenge_mails.of_enrollment(connection, str(order[0]))
        (shown,) = timeline.mails(connection, stored.enrollment_id)
    assert (stored.smime_signer, stored.dkim_domain, shown.smime_signer) == (serial, "", serial)


def test_the_same_mail_again_is_a_duplicate(accepting: IntakeBench) -> None:
    raw = SignedSample().raw()
    accepting.decide(raw)
    assert accepting.decide(raw).reason == "answered-already"
    assert len(accepting.replies_due) == 1


def test_dkim_goes_on_as_before(accepting: IntakeBench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="acme_milter"):
        assert accepting.decide().reason == "accepted"
    assert " dkim=pass d=ca.example s=rsa " in caplog.text
    assert "smime" not in caplog.text
    assert accepting.smime.process_ids() == []


def test_one_of_two_signatures_is_enough(make_bench: MakeBench, tmp_path: Path) -> None:
    (tmp_path / "signers.pem").write_bytes(root().pem)
    bench = make_bench(authority={"accept_smime_signed": True, "smime_trust": "signers.pem"})
    bench.expect()
    assert bench.decide(with_both(dkim=False)).reason == "accepted"


def test_the_other_of_two_signatures_is_enough(accepting: IntakeBench) -> None:
    assert accepting.decide(with_both(smime=False)).reason == "accepted"


def test_of_two_broken_signatures_both_are_told(accepting: IntakeBench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="acme_milter"):
        decision = accepting.decide(with_both(dkim=False, smime=False))
    assert decision.disposition == "accept"
    assert decision.reason.startswith("dkim-")
    assert "and by S/MIME, smime-signature" in caplog.text


def test_a_mail_of_somebody_elses_is_delivered_with_an_alert(
    accepting: IntakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Identity("stranger", addresses=["acme-generator@ca.example"])
    with caplog.at_level("INFO", logger="acme_milter"):
        decision = accepting.decide(SignedSample().signed_by(stranger).bringing().raw())
    assert (decision.disposition, decision.reason) == ("accept", "smime-untrusted")
    assert " condition=S4 " in caplog.text
    assert "alert=1" in caplog.text
    assert accepting.replies_due == []


def test_reply_to_has_to_be_protected_and_to_lead_to_the_authority(accepting: IntakeBench) -> None:
    unprotected = multipart(good_mail().set("Reply-To", " x@ca.example"), clear_part(good_mail()), SignedSample().der())
    assert accepting.decide(unprotected).reason == "smime-unprotected"
    elsewhere = good_mail().set("Reply-To", " x@elsewhere.example")
    assert accepting.decide(SignedSample(elsewhere).raw()).reason == "reply-to-foreign"


def test_what_cannot_be_judged_now_is_put_off(accepting: IntakeBench, tmp_path: Path) -> None:
    (tmp_path / "signers.pem").unlink()
    decision = accepting.decide(SignedSample().raw())
    assert (decision.disposition, decision.reason) == ("tempfail", "smime-temperror")
    accepting.clock.advance(minutes=31)
    assert accepting.decide(SignedSample().raw()).disposition == "accept"


def test_a_signed_mail_waits_for_its_order(make_bench: MakeBench, tmp_path: Path) -> None:
    (tmp_path / "signers.pem").write_bytes(root().pem)
    bench = make_bench(authority={"accept_smime_signed": True, "smime_trust": "signers.pem"}, milter={"deadline": "1s"})
    ordering = bench.begin()
    decision = bench.decide(SignedSample().raw())
    assert (decision.disposition, decision.reason) == ("tempfail", "order-not-known-yet")
    bench.place(ordering)
    bench.configure(authority={"accept_smime_signed": True, "smime_trust": "signers.pem"})  # a patient milter again
    assert bench.decide(SignedSample().raw()).reason == "accepted"


@pytest.mark.parametrize("settings", [{}, {"smime_trust": "signers.pem"}], ids=["nothing said", "trust alone"])
def test_an_authority_that_does_not_accept_it_is_judged_by_dkim_alone(
    make_bench: MakeBench, tmp_path: Path, settings: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "signers.pem").write_bytes(root().pem)
    bench = make_bench(authority=settings)
    bench.expect()
    before = bench.contents()
    with caplog.at_level("INFO", logger="acme_milter"):
        decision = bench.decide(SignedSample().raw())
    assert (decision.disposition, decision.reason) == ("accept", "dkim-none")
    assert " condition=G12 reason=dkim-none " in caplog.text
    assert "S/MIME" not in caplog.text
    assert bench.contents() == before
    assert bench.smime.process_ids() == []


def test_where_it_is_not_accepted_no_signed_mail_waits(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.begin()
    # Without a DKIM signature nothing could prove it, so it is told so at once, as any mail.
    assert bench.decide(SignedSample().raw()).reason == "dkim-none"


def test_people_are_told_the_same(accepting: IntakeBench) -> None:
    found = judge_all(accepting, SignedSample().raw())
    assert {found[f"S{number}"] for number in range(1, 8)} == {"holds"}
    assert (found["G11"], found["G12"], found["G19"]) == ("holds", "not needed", "holds")
    assert judge_all(accepting, good_mail().signed())["S1"] == "not needed"
    found = judge_all(accepting, SignedSample().raw().replace(b"automatically", b"manually"))
    assert (found["S2"], found["S3"], found["S4"], found["G12"]) == ("holds", "fails", "not reached", "fails")


def judge_all(bench: IntakeBench, raw: bytes) -> dict[str, str]:
    return {name: finding.result.value for name, finding in judge(bench, raw, RECIPIENT).items()}
