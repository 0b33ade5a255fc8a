# SPDX-License-Identifier: GPL-3.0-or-later
"""Who ends up holding the private key: the server alone, user and server, the user alone; or it never was here."""

import base64
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from acme_milter.certificate.csr import build_csr
from acme_milter.certificate.request import RequestRefused, read_request
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.cli.main import cli
from acme_milter.delivery.target import DeliveryFailed
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.keys.jwk import public_jwk
from acme_milter.store import accounts, certificates, deliveries, enrollments, mailbox_keys
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.worker.accounts import thumbprint_of
from acme_milter.worker.custody import DeliverOnce
from acme_milter.worker.delivery_keys import KeydFiles
from acme_milter.worker.request_call import RequestCall
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench

ADDRESS = "alice@org.example"
KEY = ec.generate_private_key(ec.SECP256R1())
SIGN, ENCRYPT = KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT


def certified(bench: OrderBench, enrollment: Enrollment | None = None) -> StoredCertificate:
    awaiting = bench.step_until(enrollment or bench.open(), State.AWAITING_MAIL)
    active = bench.step_until(bench.answer_mail(awaiting), State.ACTIVE)
    assert active.certificate_id is not None
    with bench.database.read() as connection:
        return certificates.get(connection, active.certificate_id)


def key_of(bench: OrderBench, certificate: StoredCertificate) -> StoredMailboxKey:
    with bench.database.read() as connection:
        return mailbox_keys.get(connection, certificate.key_id)


def audited(bench: OrderBench, event: str) -> list[dict[str, object]]:
    with bench.database.read() as connection:
        rows = connection.execute(sa.text("SELECT details FROM audit WHERE event = :e ORDER BY number"), {"e": event})
        return [json.loads(row.details) for row in rows]


def export(bench: OrderBench, out: Path, *more: str) -> Result:
    file = out.parent / "exporting.yaml"
    bench.write_configuration(file)
    return CliRunner().invoke(cli, ["-c", str(file), "export", bench.addresses[0], "--out", str(out), "--json", *more])


def request_call(bench: OrderBench) -> RequestCall:
    return RequestCall(
        config=lambda: bench.config, database=bench.database, clock=bench.clock, work_is_due=lambda: None
    )


def bring(bench: OrderBench, csr: bytes, address: str | None = None) -> dict[str, object]:
    header: dict[str, object] = {
        "address": address or bench.addresses[0],
        "request": base64.b64encode(csr).decode("ascii"),
    }
    return request_call(bench).answer(header)


# gateway


def test_a_key_that_stays_here_is_given_to_nobody_but_the_signing_milter(
    make_orders: MakeOrderBench, tmp_path: Path
) -> None:
    bench = make_orders(policy={"custody": "gateway"})
    certificate = certified(bench)
    done = export(bench, tmp_path / "out")
    assert done.exit_code == 1
    assert "the key stays on this server" in done.output
    assert not (tmp_path / "out").exists()
    files = KeydFiles(keyd=bench.keyd, key=key_of(bench, certificate), certificate=certificate, custody="gateway")
    with pytest.raises(DeliveryFailed, match="for its signing milter alone") as caught:
        files.encrypted_pem()
    assert caught.value.permanent
    place = tmp_path / "key.pem"
    with place.open("wb") as stream:
        place.chmod(0o600)
        files.write_clear_pem(stream.fileno())
    assert b"BEGIN PRIVATE KEY" in place.read_bytes()


def test_the_certificate_of_a_key_that_stays_is_everybodys(make_orders: MakeOrderBench, tmp_path: Path) -> None:
    bench = make_orders(policy={"custody": "gateway"})
    certificate = certified(bench)
    document = json.loads(export(bench, tmp_path / "out", "--format", "chain").stdout)
    (file,) = document["files"]
    assert Path(file).read_bytes() == certificate.chain_pem
    assert document["passphrase"] is None


# deliver_once


def delivered(bench: OrderBench, certificate: StoredCertificate, *titles: str) -> None:
    """As the engine ends a delivery to each of these targets."""
    look = DeliverOnce(lambda: bench.config, bench.clock).look
    for title in titles:
        with bench.database.write() as connection:
            now = bench.clock()
            deliveries.ask(connection, certificate.id, certificate.address, {title: title}, now, again=True)
            one = deliveries.claim(connection, title, owner="test", now=now, until=now)
            assert one is not None
            deliveries.done(connection, one.id, "there", now, owner="test")
            look(connection, certificate)


def once(tmp_path: Path) -> dict[str, object]:
    targets = [
        {"to": "files", "path": str(tmp_path / "{address}")},
        {"to": "hook", "argv": ["/bin/true", "{p12}"]},
        {"to": "smimea", "mode": "zone", "path": str(tmp_path / "zone")},
    ]
    return {"custody": "deliver_once", "deliver": targets}


def test_a_key_is_destroyed_when_every_target_that_takes_it_has_it(make_orders: MakeOrderBench, tmp_path: Path) -> None:
    bench = make_orders(policy=once(tmp_path))
    certificate = certified(bench)
    before = key_of(bench, certificate)
    delivered(bench, certificate, "files", "smimea")
    assert key_of(bench, certificate) == before
    delivered(bench, certificate, "hook")
    after = key_of(bench, certificate)
    assert (after.sealed_key, after.spki) == (b"", before.spki)
    assert after.destroyed_at is not None
    assert [one["serial"] for one in audited(bench, "key-destroyed")] == [certificate.serial]
    delivered(bench, certificate, "files")  # once more changes nothing
    assert key_of(bench, certificate) == after


def test_nothing_of_a_destroyed_key_is_left_in_the_store(make_orders: MakeOrderBench, tmp_path: Path) -> None:
    bench = make_orders(policy=once(tmp_path))
    certificate = certified(bench)
    sealed = key_of(bench, certificate).sealed_key
    delivered(bench, certificate, "files", "hook")
    with bench.database.read() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    for file in bench.store_files():
        assert sealed[20:60] not in file.read_bytes()


def test_a_key_that_no_target_takes_waits_for_its_first_export_and_has_no_second(
    make_orders: MakeOrderBench, tmp_path: Path
) -> None:
    bench = make_orders(policy={"custody": "deliver_once"})
    certificate = certified(bench)
    delivered(bench, certificate)
    assert key_of(bench, certificate).destroyed_at is None
    first = export(bench, tmp_path / "out")
    assert first.exit_code == 0, first.output
    assert Path(json.loads(first.stdout)["files"][0]).exists()
    assert key_of(bench, certificate).sealed_key == b""
    second = export(bench, tmp_path / "again")
    assert second.exit_code == 1
    assert "the key was destroyed on" in second.output
    assert not (tmp_path / "again").exists()


def test_other_custody_destroys_nothing(make_orders: MakeOrderBench, tmp_path: Path) -> None:
    bench = make_orders(policy={**once(tmp_path), "custody": "escrow"})
    certificate = certified(bench)
    delivered(bench, certificate, "files", "hook")
    assert export(bench, tmp_path / "out").exit_code == 0
    assert key_of(bench, certificate).sealed_key


def test_what_was_destroyed_is_not_used_again(make_orders: MakeOrderBench, tmp_path: Path) -> None:
    bench = make_orders(policy={"custody": "deliver_once"})
    old = certified(bench)
    export(bench, tmp_path / "out")
    bench.change_policy(custody="escrow", renewal={"key": "reuse"})
    with bench.database.write() as connection:
        renewal = enrollments.open_new(
            connection, address=old.address, authority="ca", now=bench.clock(), replaces_id=old.id
        )
    assert certified(bench, renewal).key_id != old.key_id


# csr


def test_an_order_waits_for_a_request_and_says_by_which_command_it_comes(make_orders: MakeOrderBench) -> None:
    bench = make_orders(policy={"custody": "csr"})
    waiting = bench.step(bench.open())
    assert waiting.state is State.PLANNED
    assert f"acme-milter cert request {bench.addresses[0]} --csr FILE" in (waiting.last_error or "")
    answer = bring(bench, build_csr(KEY, [bench.addresses[0]]))
    assert (answer["outcome"], answer["id"]) == ("waited", waiting.id)
    certificate = certified(bench, bench.get(waiting.id))
    leaf = x509.load_pem_x509_certificates(certificate.chain_pem)[0]
    assert leaf.public_key() == KEY.public_key()
    key = key_of(bench, certificate)
    assert (key.sealed_key, key.destroyed_at, key.algorithm) == (b"", None, "p256")


def test_of_a_key_that_never_was_here_there_is_the_chain_to_export(make_orders: MakeOrderBench, tmp_path: Path) -> None:
    bench = make_orders(policy={"custody": "csr"})
    bring(bench, build_csr(KEY, [bench.addresses[0]]))
    with bench.database.read() as connection:
        opened = enrollments.find_open(connection, bench.addresses[0], "ca")
    certificate = certified(bench, opened)
    document = json.loads(export(bench, tmp_path / "out").stdout)
    assert [Path(file).read_bytes() for file in document["files"]] == [certificate.chain_pem]
    refused = export(bench, tmp_path / "out", "--format", "p12-modern")
    assert (refused.exit_code, "the key was never here" in refused.output) == (1, True)
    files = KeydFiles(keyd=bench.keyd, key=key_of(bench, certificate), certificate=certificate, custody="csr")
    with pytest.raises(DeliveryFailed, match="never here"):
        files.encrypted_pem()


def test_a_request_brings_an_order_where_none_waits_and_serves_again_by_policy(make_orders: MakeOrderBench) -> None:
    bench = make_orders(policy={"custody": "csr", "renewal": {"key": "reuse"}})
    assert bring(bench, build_csr(KEY, [bench.addresses[0]]))["outcome"] == "opened"
    with bench.database.read() as connection:
        opened = enrollments.find_open(connection, bench.addresses[0], "ca")
    old = certified(bench, opened)
    with bench.database.write() as connection:
        renewal = enrollments.open_new(
            connection, address=old.address, authority="ca", now=bench.clock(), replaces_id=old.id
        )
    assert certified(bench, renewal).key_id == old.key_id
    bench.change_policy(custody="csr")
    with bench.database.write() as connection:
        renewal = enrollments.open_new(
            connection, address=old.address, authority="ca", now=bench.clock(), replaces_id=old.id
        )
    assert bench.step(renewal).state is State.PLANNED


def test_an_order_that_is_tried_again_asks_for_no_second_request(make_orders: MakeOrderBench) -> None:
    bench = make_orders(policy={"custody": "csr"})
    answer = bring(bench, build_csr(KEY, [bench.addresses[0]]))
    bench.site.authority.set_knobs(MAIL_LOSS="on")
    awaiting = bench.step_until(bench.get(str(answer["id"])), State.AWAITING_MAIL)
    with bench.moved_ahead(minutes=31):
        failed = bench.step_until(awaiting, State.FAILED)
    assert failed.successor_id is not None
    assert bench.get(failed.successor_id).key_id == failed.key_id


def test_of_two_certificates_the_one_whose_request_is_there_is_ordered_first(make_orders: MakeOrderBench) -> None:
    bench = make_orders(policy={"custody": "csr", "certificate": {"layout": "dual"}})
    waiting = bench.step(bench.open())
    both = bring(bench, build_csr(KEY, [waiting.address]))
    assert "layout: dual" in str(both["text"])
    answer = bring(bench, build_csr(KEY, [waiting.address], ENCRYPT))
    assert (answer["outcome"], answer["usage"]) == ("waited", "encrypt")
    assert certified(bench, bench.get(waiting.id)).usage is ENCRYPT
    with bench.database.read() as connection:
        following = enrollments.find_open(connection, waiting.address, "ca")
    assert following is not None
    assert following.usage is SIGN
    assert "digitalSignature" in (bench.step(following).last_error or "")


def test_a_request_is_not_spent_on_a_rehearsal_that_waits_for_one(make_orders: MakeOrderBench) -> None:
    bench = make_orders(policy={"custody": "csr"})
    rehearsal = bench.open(authority="ca:staging")
    answer = bring(bench, build_csr(KEY, [bench.addresses[0]]))
    assert (answer["outcome"], bench.get(str(answer["id"])).authority) == ("opened", "ca")
    assert bench.get(rehearsal.id).key_id is None


def test_a_request_that_comes_while_an_order_is_under_way_is_to_come_again(make_orders: MakeOrderBench) -> None:
    bench = make_orders(policy={"custody": "csr"})
    answer = bring(bench, build_csr(KEY, [bench.addresses[0]]))
    bench.step(bench.get(str(answer["id"])))
    again = bring(bench, build_csr(ec.generate_private_key(ec.SECP256R1()), [bench.addresses[0]]))
    assert "under way (ordering)" in str(again["text"])


def test_account_keys_and_keys_of_others_and_keys_made_here_are_refused(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2, policy={"custody": "csr"})
    first, second = bench.addresses
    account_key, next_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    with bench.database.write() as connection:
        accounts.insert(
            connection,
            StoredAccount(
                id="a1", authority="old", directory_url="https://old.example/", sealed_key=b"x",
                jwk=json.dumps(public_jwk(account_key.public_key())), url=None, terms_url=None,
                thumbprint=thumbprint_of(public_jwk(account_key.public_key())), created_at=bench.clock(),
            ),
        )  # fmt: skip
        next_jwk = public_jwk(next_key.public_key())
        assert accounts.begin_exchange(
            connection, "a1", sealed_key=b"y", jwk=json.dumps(next_jwk), thumbprint=thumbprint_of(next_jwk),
            at=bench.clock(),
        )  # fmt: skip
    for of_account in (account_key, next_key):
        assert "RFC 8555 §11.1" in str(bring(bench, build_csr(of_account, [first]))["text"])
    assert bring(bench, build_csr(KEY, [first]))["outcome"] == "opened"
    assert "another mailbox's" in str(bring(bench, build_csr(KEY, [second]), second)["text"])


def test_only_a_managed_mailbox_whose_custody_says_so_brings_requests(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    assert "custody: escrow" in str(bring(bench, build_csr(KEY, [bench.addresses[0]]))["text"])
    assert "not a managed mailbox" in str(bring(bench, build_csr(KEY, [ADDRESS]), "nobody@org.example")["text"])


# what a request must be


def foreign(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *extensions: x509.ExtensionType, cn: str = ""
) -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, cn)] if cn else [])
    builder = x509.CertificateSigningRequestBuilder(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


NAME = x509.SubjectAlternativeName([x509.RFC822Name(ADDRESS)])
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 -- that is what is refused


@pytest.mark.parametrize(
    ("csr", "words"),
    [
        (b"nonsense", "no certificate request"),
        (foreign(KEY), "subjectAltName"),
        (foreign(KEY, x509.SubjectAlternativeName([x509.RFC822Name("bob@org.example")])), "subjectAltName"),
        (foreign(KEY, x509.SubjectAlternativeName([*NAME, x509.DNSName("org.example")])), "nothing else"),
        (foreign(KEY, NAME, cn="The Boss"), "subject must be empty"),
        (foreign(KEY, NAME, x509.BasicConstraints(ca=True, path_length=None)), "CA certificate"),
        (foreign(KEY, NAME, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])), "emailProtection"),
        (foreign(KEY, NAME, x509.TLSFeature([x509.TLSFeatureType.status_request])), "extension that no mailbox gets"),
        (foreign(WEAK, NAME), "1024 bits"),
        (foreign(ec.generate_private_key(ec.SECP521R1()), NAME), "P-256 or P-384"),
        (build_csr(KEY, [ADDRESS])[:-4] + bytes(4), "no certificate request"),
    ],
)
def test_a_request_that_no_mailboxs_certificate_could_come_of_is_refused(csr: bytes, words: str) -> None:
    with pytest.raises(RequestRefused, match=words):
        read_request(csr, ADDRESS)


def test_a_key_that_cannot_encrypt_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(NAME, critical=True).sign(key, None)
    with pytest.raises(RequestRefused, match="neither RSA nor"):
        read_request(csr.public_bytes(Encoding.PEM), ADDRESS)


@pytest.mark.parametrize("usage", list(KeyUsageKind))
def test_a_request_says_what_its_certificate_is_to_be_for(usage: KeyUsageKind) -> None:
    for key, algorithm in ((KEY, "p256"), (rsa.generate_private_key(65537, 2048), "rsa2048")):
        found = read_request(build_csr(key, [ADDRESS], usage), ADDRESS)
        assert (found.usage, found.algorithm) == (usage, algorithm)
