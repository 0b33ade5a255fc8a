# SPDX-License-Identifier: GPL-3.0-or-later
"""A scripted HTTPS authority, and a client with an account there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acme_milter.acme.client import AcmeClient
from acme_milter.acme.network import Network
from tests.acme.scripted_authority import LocalSigner, ScriptedAuthority, TlsFiles, make_tls_files

MakeNetwork = Callable[..., Network]


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_tls_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def authority(tls_files: TlsFiles) -> Iterator[ScriptedAuthority]:
    with ScriptedAuthority(tls_files) as running:
        yield running
    assert running.violations == []


@pytest.fixture
def make_network(authority: ScriptedAuthority, tls_files: TlsFiles) -> Iterator[MakeNetwork]:
    """Networks to the scripted authority, closed before it stops."""
    made: list[Network] = []

    def make(url: str = authority.url, ca_bundle: Path | None = tls_files.ca, **options: Any) -> Network:
        made.append(Network(url, ca_bundle=ca_bundle, **{"timeout": 5.0, **options}))
        return made[-1]

    yield make
    for network in made:
        network.close()


@pytest.fixture
def network(make_network: MakeNetwork) -> Network:
    return make_network()


@pytest.fixture
def signer() -> LocalSigner:
    return LocalSigner()


@pytest.fixture
def client(authority: ScriptedAuthority, network: Network, signer: LocalSigner) -> AcmeClient:
    url = f"{authority.base}/acct/1"
    authority.keys[url] = signer.jwk
    return AcmeClient(network, signer, url)
