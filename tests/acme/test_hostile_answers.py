# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers a broken or hostile server may give, over real TLS."""

import ssl
import threading
import time
from pathlib import Path

import pytest

from acme_milter.acme.client import AcmeClient
from acme_milter.acme.network import Network
from acme_milter.acme.problem import AcmeError, BadAnswer, ServerBusy, ServerRefused
from acme_milter.acme.transport import LARGEST_BODY, tls_context
from tests.acme.conftest import MakeNetwork
from tests.acme.scripted_authority import LocalSigner, Say, ScriptedAuthority, TlsFiles, make_tls_files, problem

DEEP = b'{"status":' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (Say(b"<html>", content_type="text/html"), "expected JSON, got text/html"),
        (Say(b'{"status":"valid"', content_type="application/json"), "not JSON"),
        (Say(b"\xff\xfe{}", content_type="application/json"), "not JSON"),
        (Say(b'{"status":NaN}', content_type="application/json"), "not JSON"),
        (Say(b'{"status":' + b"9" * 100_000 + b"}", content_type="application/json"), "not JSON"),
        (Say(b"", content_type="application/json"), "not JSON"),
        (Say(["valid"]), "not a JSON object"),
        (Say(DEEP, content_type="application/json"), "too deeply"),
        (Say({}), "status: missing"),
        (Say({"status": 7}), "status: not a string"),
        (Say({"status": "sleeping\x1b[0m"}), r"unknown state sleeping\\x1b"),
        (Say({"status": "valid"}, 302, {"Location": "https://evil.example/"}), "unexpected HTTP status 302"),
        (Say(b" " * (2 * LARGEST_BODY), content_type="application/json"), "larger than"),
        (Say({}, headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
)
def test_nonsense_is_a_bad_answer_that_says_what_is_wrong(
    authority: ScriptedAuthority, client: AcmeClient, say: Say, words: str
) -> None:
    authority.say("/acct/1", say)
    with pytest.raises(BadAnswer, match=words) as caught:
        client.fetch_account()
    assert not caught.value.temporary
    authority.say("/acct/1", Say({"status": "valid"}))
    client.fetch_account()  # the connection or a new one still serves


def test_a_redirect_is_not_followed(authority: ScriptedAuthority, network: Network) -> None:
    for status in (301, 302, 303, 307, 308):
        authority.say("/directory", Say({}, status, {"Location": f"{authority.base}/elsewhere"}))
        with pytest.raises(BadAnswer, match=str(status)):
            network.directory()
    assert {path for _, path in authority.requests} == {"/directory"}


def test_cookies_are_not_sent_back(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.say("/acct/1", Say({"status": "valid"}, headers={"Set-Cookie": "a=b; Path=/"}), Say({"status": "valid"}))
    client.fetch_account()
    client.fetch_account()  # the server refuses a request with a cookie
    assert len(authority.posts) == 2


def test_a_compliant_body_of_just_under_the_cap_is_read(authority: ScriptedAuthority, client: AcmeClient) -> None:
    body = b'{"status":"valid"' + b" " * (LARGEST_BODY - 18) + b"}"
    authority.say("/acct/1", Say(body, content_type="application/json"))
    client.fetch_account()


@pytest.mark.parametrize("fault", ["reset", "cut"])
def test_a_connection_lost_after_the_post_is_busy_and_the_outcome_unknown(
    authority: ScriptedAuthority, client: AcmeClient, fault: str
) -> None:
    authority.say("/acct/1", Say({"status": "valid"}, fault=fault), Say({"status": "valid"}))
    with pytest.raises(ServerBusy) as caught:
        client.fetch_account()
    assert caught.value.temporary
    assert caught.value.outcome_unknown
    client.fetch_account()
    assert len(authority.posts) == 2, "nothing is repeated behind the caller's back"


def test_a_connection_lost_before_the_post_changes_nothing(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.say("/directory", Say({}, fault="reset"))
    with pytest.raises(ServerBusy) as caught:
        client.fetch_account()
    assert not caught.value.outcome_unknown


def test_nobody_listening_is_busy_and_says_so(make_network: MakeNetwork, authority: ScriptedAuthority) -> None:
    with pytest.raises(ServerBusy, match="refused") as caught:
        make_network("https://127.0.0.1:1/directory").directory()
    assert not caught.value.outcome_unknown


@pytest.mark.parametrize("fault", ["drip", "drip-head"])
def test_a_dripping_answer_ends_at_the_timeout(
    authority: ScriptedAuthority, make_network: MakeNetwork, signer: LocalSigner, fault: str
) -> None:
    authority.say("/x", Say(b"." * 60, fault=fault))
    network = make_network(timeout=0.5)
    started = time.monotonic()
    with pytest.raises(ServerBusy, match="timeout") as caught:
        network.post(f"{authority.base}/x", None, signer, None)
    assert time.monotonic() - started < 1.5
    assert caught.value.outcome_unknown


def test_a_silent_server_ends_at_the_timeout(authority: ScriptedAuthority, make_network: MakeNetwork) -> None:
    release = threading.Event()

    def silent(_: object) -> Say:
        release.wait(5)
        return Say({})

    authority.say("/directory", silent)
    with pytest.raises(ServerBusy, match="timeout"):
        make_network(timeout=0.3).directory()
    release.set()


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_trouble_at_the_server_is_temporary(authority: ScriptedAuthority, client: AcmeClient, status: int) -> None:
    authority.say("/acct/1", Say(b"<html>oops", status, {"Retry-After": "9"}, "text/html"))
    with pytest.raises(ServerBusy, match=f"HTTP {status}: ") as caught:
        client.fetch_account()
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == 9


def test_a_refusal_without_a_problem_document_is_still_a_refusal(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    authority.say("/acct/1", Say(b"<html>go away", 403, {}, "text/html"))
    with pytest.raises(ServerRefused, match="HTTP 403: Forbidden") as caught:
        client.fetch_account()
    assert caught.value.problem is not None
    assert caught.value.problem.type == "about:blank"


def test_a_refusal_shows_the_server_s_words_and_its_subproblems(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    parts = [{"type": "urn:ietf:params:acme:error:caa", "identifier": {"type": "email", "value": "a@example.org"}}]
    authority.say("/acct/1", problem("compound", 403, subproblems=parts))
    with pytest.raises(ServerRefused, match=r"compound 403: compound it is; a@example\.org: caa") as caught:
        client.fetch_account()
    assert caught.value.problem is not None
    assert caught.value.problem.needs_operator


@pytest.mark.parametrize("name", ["newNonce", "newAccount", "newOrder", "revokeCert", "keyChange", "renewalInfo"])
@pytest.mark.parametrize("url", ["https://evil.example/x", "http://127.0.0.1/x", "file:///etc/passwd", 7])
def test_a_directory_that_points_elsewhere_is_refused(
    authority: ScriptedAuthority, network: Network, name: str, url: object
) -> None:
    authority.directory[name] = url
    with pytest.raises(BadAnswer, match=f"directory: {name}"):
        network.directory()


@pytest.mark.parametrize("name", ["newNonce", "newAccount", "newOrder"])
def test_a_directory_must_name_what_we_need(authority: ScriptedAuthority, network: Network, name: str) -> None:
    del authority.directory[name]
    with pytest.raises(BadAnswer, match=f"directory: {name}: missing"):
        network.directory()


def test_nothing_is_sent_to_another_origin_whoever_supplies_the_url(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    with pytest.raises(BadAnswer, match="away"):
        client.fetch_order("https://localhost:1/order/1")
    assert authority.posts == []


def test_a_server_of_an_unknown_ca_is_refused(authority: ScriptedAuthority, make_network: MakeNetwork) -> None:
    with pytest.raises(ServerBusy, match="TLS certificate refused"):
        make_network(ca_bundle=None).directory()


def test_a_server_of_another_private_ca_is_refused(make_network: MakeNetwork, tmp_path: Path) -> None:
    with pytest.raises(ServerBusy, match="TLS certificate refused") as caught:
        make_network(ca_bundle=make_tls_files(tmp_path).ca).directory()
    assert caught.value.temporary
    assert not caught.value.outcome_unknown


def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    files = make_tls_files(tmp_path, name="127.0.0.2")
    with ScriptedAuthority(files) as authority:
        network = Network(authority.url, ca_bundle=files.ca)
        with pytest.raises(ServerBusy, match="IP address mismatch"):
            network.directory()
        network.close()


def test_a_pinned_bundle_is_trusted_alone_even_after_a_request(
    make_network: MakeNetwork, tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[ssl.SSLContext] = []

    def remember(ca_bundle: Path | None) -> ssl.SSLContext:
        contexts.append(tls_context(ca_bundle))
        return contexts[-1]

    monkeypatch.setattr("acme_milter.acme.transport.tls_context", remember)
    make_network().directory()
    assert [context.cert_store_stats()["x509"] for context in contexts] == [1]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # we ask for what is deprecated, on purpose
def test_old_tls_is_refused(authority: ScriptedAuthority, network: Network) -> None:
    authority.tls_context.minimum_version = ssl.TLSVersion.TLSv1
    authority.tls_context.maximum_version = ssl.TLSVersion.TLSv1_1
    authority.tls_context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ServerBusy):
        network.directory()


def test_the_environment_changes_nothing(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    network.directory()


def test_a_proxy_is_used_only_when_asked_for(
    authority: ScriptedAuthority, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ServerBusy):
        make_network(system_proxies=True).directory()
    assert authority.requests == []


def test_no_exception_text_breaks_a_log_line(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.say("/acct/1", problem("malformed", detail="x\r\nOct 10 root: \x1b[2J" + "y" * 100_000))
    with pytest.raises(AcmeError) as caught:
        client.fetch_account()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 600
