# SPDX-License-Identifier: GPL-3.0-or-later
"""A second test CA beside a Site's, with a mail domain of its own, and a post that brings replies to the right one."""

import smtplib
from pathlib import Path
from typing import Any, Self

from aiosmtpd.controller import Controller

from acme_milter.lab.authority import AuthorityLab
from acme_milter.lab.processes import free_port
from tests.worker.site import Site

OTHER_DOMAIN = "other.example"


class _Post:
    """Hands each mail on to the MX of its recipient's domain, octet for octet."""

    def __init__(self, routes: dict[str, int]) -> None:
        self._routes = routes

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        (recipient,) = envelope.rcpt_tos
        port = self._routes[recipient.rpartition("@")[2]]
        try:
            with smtplib.SMTP("127.0.0.1", port, local_hostname="post.example", timeout=10) as onward:
                onward.sendmail(envelope.mail_from, recipient, envelope.original_content)
        except smtplib.SMTPResponseException as refused:
            return f"{refused.smtp_code} {refused.smtp_error!r}"
        except OSError:
            return "451 4.4.1 nobody is there"
        return "250 2.0.0 handed on"


class SecondAuthority:
    """``lab`` is the CA. ``settings`` describe it to a bench, ``surroundings`` are what that bench needs to know."""

    def __init__(self, site: Site, directory: Path) -> None:
        self._mx_port = free_port()
        self._post_port = free_port()
        self._site = site
        self.lab = AuthorityLab(
            directory,
            smtp_port=site.mx.port,
            mx_port=self._mx_port,
            resolver_port=site.names.port,
            domain=OTHER_DOMAIN,
            options=["--first-pause", "0.05", "--senders", "8", "--seed", "2"],
        )
        routes = {"ca.example": site.replies_to, OTHER_DOMAIN: self._mx_port}
        self._post = Controller(_Post(routes), hostname="127.0.0.1", port=self._post_port)

    def __enter__(self) -> Self:
        self.lab.start()
        for name, texts in (self._site.authority.dkim_records() | self.lab.dkim_records()).items():
            self._site.names.set_txt(name, *texts)
        self._post.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._post.stop()
        self.lab.stop()

    @property
    def settings(self) -> dict[str, object]:
        return {"directory": self.lab.directory_url, "ca_bundle": str(self.lab.ca_bundle)}

    @property
    def surroundings(self) -> dict[str, Any]:
        return {"reply_port": self._post_port, "dns_port": self._site.names.port}
