# SPDX-License-Identifier: GPL-3.0-or-later
"""The child that judges S/MIME: confined, ended when it takes too long, never started without need."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acme_milter.protocol.challenge_mail import parse_challenge_mail
from acme_milter.protocol.faults import MailFault
from acme_milter.protocol.smime_verdict import SmimeVerdict
from acme_milter.worker.dkim_child import MAX_ADDRESS_SPACE
from acme_milter.worker.smime_verifier import SmimeVerifier
from tests.protocol.sample_mail import ORDER_CREATED, good_mail
from tests.protocol.smime_mail import Identity, SignedSample, root


@pytest.fixture(scope="module")
def verifier() -> Iterator[SmimeVerifier]:
    with SmimeVerifier() as made:
        yield made


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    path = tmp_path / "signers.pem"
    path.write_bytes(root().pem)
    return path


def ask(verifier: SmimeVerifier, raw: bytes, trust: Path) -> SmimeVerdict:
    # openssl signs at the machine's time, which is no longer NOW where many tests have been run before.
    now = datetime.now(UTC)
    return verifier.verify(parse_challenge_mail(raw), trust=trust, now=now, not_before=ORDER_CREATED)


def test_the_child_says_what_the_arithmetic_says(verifier: SmimeVerifier, trust: Path) -> None:
    good = ask(verifier, SignedSample().raw(), trust)
    assert (good.passed, good.protection) == (True, "rfc9788")
    bad = ask(verifier, SignedSample().raw().replace(b"automatically", b"manually"), trust)
    assert (bad.fault, bad.detail) == (MailFault.SMIME_SIGNATURE, "the content has been changed since it was signed")


def test_no_child_is_started_for_mails_that_are_not_signed_by_smime(trust: Path) -> None:
    with SmimeVerifier() as made:
        assert ask(made, good_mail().signed(), trust).fault is MailFault.SMIME_NONE
        assert made.process_ids() == []
        assert ask(made, SignedSample().raw(), trust).passed
        (process,) = made.process_ids()
    assert not Path(f"/proc/{process}").exists()


def test_the_child_is_confined(verifier: SmimeVerifier, trust: Path) -> None:
    ask(verifier, SignedSample().raw(), trust)
    (process,) = verifier.process_ids()
    assert resource.prlimit(process, resource.RLIMIT_CORE) == (0, 0)
    assert resource.prlimit(process, resource.RLIMIT_AS) == (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE)
    assert 2 <= resource.prlimit(process, resource.RLIMIT_CPU)[0] < 60
    assert not [one for one in Path(f"/proc/{process}/fd").iterdir() if str(one.readlink()).startswith("socket")]


def _set_of_many() -> bytes:
    """A SignedData whose list of hash algorithms has tens of thousands of members: small octets, much work."""
    members = b"\x30\x03\x06\x01\x01" * 37_000
    algorithms = b"\x31\x83" + len(members).to_bytes(3, "big") + members
    version = b"\x02\x01\x01"
    signed = b"\x30\x83" + (len(version) + len(algorithms)).to_bytes(3, "big") + version + algorithms
    tagged = b"\xa0\x83" + len(signed).to_bytes(3, "big") + signed
    name = bytes.fromhex("06092a864886f70d010702")
    return b"\x30\x83" + (len(name) + len(tagged)).to_bytes(3, "big") + name + tagged


def test_a_mail_that_takes_too_long_proves_nothing_and_the_next_one_is_judged(trust: Path) -> None:
    with SmimeVerifier() as made:
        found = ask(made, SignedSample().raw(_set_of_many()), trust)
        assert found.fault in {MailFault.SMIME_LIMIT, MailFault.SMIME_MALFORMED}
        assert ask(made, SignedSample().raw(), trust).passed


@pytest.mark.parametrize(
    "octets", [b"\x30\x80" * 90_000, b"\x24\x80" * 90_000, bytes(180_000), b"\xff" * 180_000], ids=range(4)
)
def test_a_quarter_megabyte_of_nonsense_is_refused(verifier: SmimeVerifier, trust: Path, octets: bytes) -> None:
    assert ask(verifier, SignedSample().raw(octets), trust).fault is MailFault.SMIME_MALFORMED
    assert ask(verifier, SignedSample().enclosing(octets), trust).fault is MailFault.SMIME_MALFORMED


def test_a_trust_file_that_cannot_be_read_is_a_doubt(verifier: SmimeVerifier, trust: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        found = ask(verifier, SignedSample().raw(), path)
        assert (found.fault, found.doubtful) == (MailFault.SMIME_TRUST_UNREADABLE, True)
    trust.write_bytes(b"x" * 300_000)
    assert ask(verifier, SignedSample().raw(), trust).doubtful
    trust.write_bytes(b"no certificate")
    assert ask(verifier, SignedSample().raw(), trust).doubtful


def test_a_changed_trust_file_counts_at_once(verifier: SmimeVerifier, trust: Path) -> None:
    assert ask(verifier, SignedSample().raw(), trust).passed
    trust.write_bytes(Identity("another", ca=True).pem)
    assert ask(verifier, SignedSample().raw(), trust).fault is MailFault.SMIME_UNTRUSTED


def test_after_closing_nothing_is_judged(trust: Path) -> None:
    made = SmimeVerifier()
    made.close()
    made.close()
    with pytest.raises(RuntimeError):
        ask(made, SignedSample().raw(), trust)


def test_the_worker_itself_never_loads_a_reader_of_asn1() -> None:
    script = (
        "import sys, acme_milter.worker.intake, acme_milter.worker.smime_verifier\n"
        "print([name for name in sys.modules if name.startswith(('pyasn1_modules', 'acme_milter.protocol.smime_cms',"
        " 'acme_milter.worker.smime_arithmetic'))])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_mail_does_not_appear_in_the_process_list(verifier: SmimeVerifier, trust: Path) -> None:
    assert ask(verifier, SignedSample().raw(), trust).passed
    listing = Path(f"/proc/{verifier.process_ids()[0]}/cmdline").read_text()
    assert ("ACME" in listing, "smime_child" in listing) == (False, True)
