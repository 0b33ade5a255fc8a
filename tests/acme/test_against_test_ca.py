# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against the project's own strict CA: two readings of RFC 8555 must agree."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acme_milter.acme import account, revocation
from acme_milter.acme.account import AccountStatus, Eab
from acme_milter.acme.authorization import Authorization, AuthorizationStatus, ChallengeStatus
from acme_milter.acme.client import AcmeClient
from acme_milter.acme.order import Order, OrderStatus
from acme_milter.acme.problem import AcmeError, ErrorType, RateLimited, ServerBusy, ServerRefused
from acme_milter.acme.revocation import RevocationReason
from tests.acme.rehearsal_authority import MAC_KEY, MailboxKey, Rehearsal, renewal_id_of
from tests.acme.scripted_authority import LocalSigner, b64

EAB = Eab("kid-1", MAC_KEY)
_numbers = itertools.count()
T = TypeVar("T")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    rehearsal = Rehearsal(tmp_path_factory.mktemp("testca"), "--eab", f"{EAB.kid}:{b64(MAC_KEY)}")
    yield rehearsal
    rehearsal.stop()


@pytest.fixture
def ca(running: Rehearsal) -> Iterator[Rehearsal]:
    yield running
    running.calm()


@pytest.fixture
def client(ca: Rehearsal) -> AcmeClient:
    return AcmeClient.register(ca.network(), LocalSigner(), ["pki@org.example"], agree_tos=True, eab=EAB)


@pytest.fixture
def address() -> str:
    return f"user{next(_numbers)}@org.example"


def poll(look: Callable[[], T], until: Callable[[T], bool]) -> T:
    deadline = time.monotonic() + 10
    while not until(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def prove(ca: Rehearsal, client: AcmeClient, address: str, order: Order) -> Authorization:
    """Go the way of a challenge, up to the valid authorization."""
    (url,) = order.authorizations
    authorization = client.fetch_authorization(url)
    assert authorization.challenge is not None
    ca.answer_mail(address, authorization.challenge, client.thumbprint)
    client.respond(authorization.challenge.url)
    return poll(lambda: client.fetch_authorization(url), lambda a: a.status is not AuthorizationStatus.PENDING)


def issue(ca: Rehearsal, client: AcmeClient, address: str, key: MailboxKey) -> tuple[Order, x509.Certificate]:
    order = client.new_order(address)
    assert prove(ca, client, address, order).status is AuthorizationStatus.VALID
    client.finalize(
        poll(lambda: client.fetch_order(order.url), lambda o: o.status is OrderStatus.READY), key.csr(address)
    )
    order = poll(lambda: client.fetch_order(order.url), lambda o: o.status is OrderStatus.VALID)
    assert order.certificate is not None
    return order, x509.load_pem_x509_certificate(client.download(order.certificate))


def test_an_account_needs_its_binding_and_is_found_again(ca: Rehearsal, client: AcmeClient) -> None:
    with pytest.raises(ServerRefused) as caught:
        AcmeClient.register(ca.network(), LocalSigner(), [], agree_tos=True, eab=Eab("kid-1", b"wrong" * 8))
    assert caught.value.kind is ErrorType.UNAUTHORIZED
    found = account.find(client.network, client.signer)
    assert found is not None
    assert found.url == client.account_url
    assert account.find(client.network, LocalSigner()) is None
    assert client.fetch_account().status is AccountStatus.VALID
    assert client.update_contact(["other@org.example"]).url == client.account_url


def test_a_certificate_from_order_to_revocation(ca: Rehearsal, client: AcmeClient, address: str) -> None:
    key = MailboxKey()
    order, leaf = issue(ca, client, address, key)
    assert key.same_key(leaf)
    assert order.certificate is not None
    chain = client.download_chain(order.certificate)
    for alternate in chain.alternates:
        assert client.download(alternate).startswith(b"-----BEGIN CERTIFICATE-----")
    renewal = client.renewal_info(renewal_id_of(leaf))
    assert renewal is not None
    assert leaf.not_valid_before_utc < renewal.start < renewal.end < leaf.not_valid_after_utc
    successor = client.new_order(address, replaces=renewal_id_of(leaf))
    assert successor.replaces == renewal_id_of(leaf)
    der = leaf.public_bytes(Encoding.DER)
    assert client.revoke(der, RevocationReason.SUPERSEDED) is True
    assert client.revoke(der) is False


def test_a_certificate_s_own_key_may_revoke_it(ca: Rehearsal, client: AcmeClient, address: str) -> None:
    key = MailboxKey()
    _, leaf = issue(ca, client, address, key)
    der = leaf.public_bytes(Encoding.DER)
    with pytest.raises(ServerRefused) as caught:
        revocation.revoke(client.network, LocalSigner(), None, der)
    assert caught.value.kind is ErrorType.UNAUTHORIZED
    assert revocation.revoke(client.network, key, None, der, RevocationReason.KEY_COMPROMISE)


def test_a_profile_of_the_directory_can_be_ordered_and_no_other(client: AcmeClient, address: str) -> None:
    profile = min(client.network.directory().meta.profiles)
    assert client.new_order(address, profile=profile).profile == profile
    with pytest.raises(ServerRefused) as caught:
        client.new_order(address, profile="no-such-profile")
    assert caught.value.kind is ErrorType.INVALID_PROFILE


def test_an_authorization_given_up_ends_its_order(client: AcmeClient, address: str) -> None:
    order = client.new_order(address)
    (url,) = order.authorizations
    pending = client.fetch_authorization(url)
    assert pending.identifier.value == address
    assert pending.challenge is not None
    assert client.deactivate_authorization(url).status is AuthorizationStatus.DEACTIVATED
    assert client.fetch_order(order.url).status is OrderStatus.INVALID


def test_a_valid_authorization_is_reused_without_a_mail(ca: Rehearsal, client: AcmeClient, address: str) -> None:
    prove(ca, client, address, client.new_order(address))
    ca.chaos(AUTHZREUSE="on")
    again = client.new_order(address)
    assert again.status is OrderStatus.READY
    assert client.fetch_authorization(again.authorizations[0]).status is AuthorizationStatus.VALID


def test_a_wrong_reply_is_told_in_the_authority_s_words(ca: Rehearsal, client: AcmeClient, address: str) -> None:
    order = client.new_order(address)
    (url,) = order.authorizations
    authorization = client.fetch_authorization(url)
    assert authorization.challenge is not None
    ca.answer_mail(address, authorization.challenge, "another-thumbprint")
    client.respond(authorization.challenge.url)
    lost = poll(lambda: client.fetch_authorization(url), lambda a: a.status is AuthorizationStatus.INVALID)
    assert lost.challenge is not None
    assert lost.challenge.error is not None
    assert lost.challenge.error.kind is ErrorType.INCORRECT_RESPONSE


def test_an_error_while_processing_is_only_news(ca: Rehearsal, client: AcmeClient, address: str) -> None:
    ca.chaos(PROCESSING_WITH_ERROR="on")
    authorization = client.fetch_authorization(client.new_order(address).authorizations[0])
    assert authorization.challenge is not None
    challenge = client.respond(authorization.challenge.url)
    assert challenge.status is ChallengeStatus.PROCESSING
    assert challenge.error is not None


def test_a_csr_before_its_time_and_a_wrong_one_are_told_apart(ca: Rehearsal, client: AcmeClient, address: str) -> None:
    order = client.new_order(address)
    with pytest.raises(ServerRefused) as early:
        client.finalize(order, MailboxKey().csr(address))
    assert (early.value.kind, early.value.temporary) == (ErrorType.ORDER_NOT_READY, True)
    prove(ca, client, address, order)
    with pytest.raises(ServerRefused) as wrong:
        client.finalize(order, MailboxKey().csr("mallory@org.example"))
    assert (wrong.value.kind, wrong.value.temporary) == (ErrorType.BAD_CSR, False)
    assert client.finalize(order, MailboxKey().csr(address)).status is OrderStatus.VALID


def test_the_account_s_key_can_be_exchanged(client: AcmeClient, address: str) -> None:
    renewed = client.roll_over(LocalSigner())
    renewed.new_order(address)
    with pytest.raises(ServerRefused):
        client.fetch_account()
    taken = renewed.signer
    with pytest.raises(ServerRefused) as caught:
        renewed.roll_over(taken)
    assert caught.value.location == client.account_url


def test_a_closed_account_is_closed(client: AcmeClient, address: str) -> None:
    assert client.deactivate_account().status is AccountStatus.DEACTIVATED
    with pytest.raises(ServerRefused) as caught:
        client.new_order(address)
    assert caught.value.kind is ErrorType.UNAUTHORIZED


def test_half_of_all_nonces_refused_stops_nothing(ca: Rehearsal, client: AcmeClient) -> None:
    ca.chaos(NONCEREJECT=50)
    for _ in range(10):
        client.fetch_account()


@pytest.mark.parametrize(("form", "known"), [("int", True), ("date", True), ("huge", True), ("garbage", False)])
def test_a_rate_limit_says_how_long(ca: Rehearsal, client: AcmeClient, address: str, form: str, known: bool) -> None:
    ca.chaos(RATELIMIT="on", RETRY_AFTER=form)
    with pytest.raises(RateLimited) as caught:
        client.new_order(address)
    assert (caught.value.retry_after is not None) is known
    assert caught.value.link("help") is not None


def test_after_a_lost_answer_reading_again_finds_the_effect(ca: Rehearsal, address: str) -> None:
    network, signer = ca.network(), LocalSigner()
    ca.chaos(HTTP_RESET_AFTER_COMMIT="on")
    with pytest.raises(ServerBusy) as caught:
        account.register(network, signer, [], agree_tos=True, eab=EAB)
    assert caught.value.outcome_unknown
    ca.calm()
    found = account.find(network, signer)
    assert found is not None
    ca.chaos(HTTP_RESET_AFTER_COMMIT="on")
    client = AcmeClient(network, signer, found.url)
    with pytest.raises(ServerBusy):
        client.new_order(address)
    ca.chaos(HTTP_RESET_AFTER_COMMIT="off", ORDERREUSE="on")
    assert client.new_order(address).status is OrderStatus.PENDING


def test_trouble_at_the_server_is_temporary(ca: Rehearsal, client: AcmeClient, address: str) -> None:
    ca.chaos(HTTP_5XX="on")
    with pytest.raises(AcmeError) as caught:
        client.new_order(address)
    assert isinstance(caught.value, ServerBusy)
