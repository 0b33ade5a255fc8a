# SPDX-License-Identifier: GPL-3.0-or-later
"""Which URLs are followed."""

import pytest

from acme_milter.acme.problem import BadAnswer
from acme_milter.acme.urls import Origin

ORIGIN = Origin.of("https://ca.example:8443/acme/directory")


@pytest.mark.parametrize(
    "url",
    [
        "https://ca.example:8443/order/1",
        "https://ca.example:8443",
        "https://CA.example:8443/a?b=c&d=%2Fe",
        "https://ca.example:8443/a//b/~x;y=1,2/(z)!$'*+:@",
    ],
)
def test_urls_of_the_directory_s_origin_pass_unchanged(url: str) -> None:
    assert ORIGIN.check(url, "order") == url


@pytest.mark.parametrize(
    "url",
    [
        "http://ca.example:8443/order/1",
        "https://ca.example/order/1",
        "https://evil.example:8443/order/1",
        "https://ca.example:8443@evil.example/",
        "https://user@ca.example:8443/",
        "https://ca.example.evil.example:8443/",
        "https://ca.example:99999/",
        "https://ca.example:x/",
        "https://[::1/",
        "https:///order",
        "//ca.example:8443/order/1",
        "/order/1",
        "file:///etc/passwd",
        "https://ca.example:8443/a b",
        "https://ca.example:8443/a\r\nHost: x",
        "https://ca.example:8443\\@evil.example/",
        "https://ca.example:8443/a#b",
        "https://ca.example:8443/é",
        "https://ca.example:8443/a/../b",
        "https://ca.example:8443/%zz",
        "https://ca.example:8443/" + "a" * 3000,
        "",
        None,
        7,
        ["https://ca.example:8443/"],
    ],
)
def test_everything_else_is_a_bad_answer_that_names_the_field(url: object) -> None:
    with pytest.raises(BadAnswer, match=r"^order: ") as caught:
        ORIGIN.check(url, "order")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("url", ["http://ca.example/", "ca.example", "ftp://ca.example/", ""])
def test_a_directory_that_is_not_https_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Origin.of(url)


def test_the_default_port_may_be_written_out() -> None:
    assert Origin.of("https://ca.example/").check("https://ca.example:443/x", "f") == "https://ca.example:443/x"
