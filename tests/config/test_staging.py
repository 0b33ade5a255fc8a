# SPDX-License-Identifier: GPL-3.0-or-later
"""An authority with a staging directory implies NAME:staging, which no policy can name."""

from pathlib import Path

import pytest

from acme_milter.config.differences import as_document
from acme_milter.config.loader import ConfigFaults, load_text
from acme_milter.config.schema import Config

TWO = """
authorities:
  a: {directory: "https://a.example/d", staging: "https://staging.a.example/d", agree_tos: true, post_delay: 7s}
  b: {directory: "https://b.example/d", agree_tos: true}
domains: {org.example: {mailboxes: {list: [x@org.example]}}}
"""


def read(text: str) -> Config:
    return load_text("version: 1\n" + text, Path("/etc/acme-milter.yaml"))


def test_it_is_the_same_in_everything_but_where_it_is() -> None:
    config = read(TWO)
    assert list(config.authorities) == ["a", "b", "a:staging"]
    assert config.authorities["a:staging"].directory == "https://staging.a.example/d"
    assert config.authorities["a:staging"].post_delay == config.authorities["a"].post_delay
    assert config.authorities["a:staging"].staging is None


def test_nobody_s_policy_has_it_and_no_file_is_written_with_it() -> None:
    config = read(TWO)
    assert config.policies["org.example"].authorities == ("a", "b")
    assert list(config.named_authorities) == ["a", "b"]
    assert list(as_document(config)["authorities"]) == ["a", "b"]


def test_a_policy_that_names_it_is_a_fault() -> None:
    with pytest.raises(ConfigFaults, match="no authority is called 'a:staging'"):
        read(TWO.replace("{mailboxes", "{authorities: ['a:staging'], mailboxes"))


def test_a_preset_s_staging_service_belongs_to_the_preset_s_directory() -> None:
    domain = "domains: {org.example: {mailboxes: {list: [x@org.example]}}}"
    known = read(f"authorities: {{c: {{preset: castle, agree_tos: true}}}}\n{domain}")
    assert known.authorities["c:staging"].directory.startswith("https://acme-staging.castle.cloud/")
    other = '{c: {preset: castle, agree_tos: true, directory: "https://lab.example/d"}}'
    assert list(read(f"authorities: {other}\n{domain}").authorities) == ["c"]
