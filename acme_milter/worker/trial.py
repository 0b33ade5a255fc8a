# SPDX-License-Identifier: GPL-3.0-or-later
"""Trying an authority out: one order at its staging service, with settings that let whatever comes be seen."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from acme_milter.acme.problem import AcmeError
from acme_milter.config.schema import Authority
from acme_milter.enrollment.staging import staging_of
from acme_milter.protocol.dkim_policy import HeaderCoverage
from acme_milter.protocol.token import TokenJoin
from acme_milter.store import audit, certificates, challenge_mails, enrollments, outbox
from acme_milter.store.database import Database
from acme_milter.worker.authorities import Authorities, AuthorityUnusable
from acme_milter.worker.control import Answer
from acme_milter.worker.rehearsing import rehearse
from acme_milter.worker.standing_config import StandingConfig
from acme_milter.worker.trial_findings import Seen, findings
from acme_milter.worker.vault import Vault

EVERY = timedelta(seconds=30)
POST_AFTER = timedelta(minutes=10)
_REFUSALS = {
    "not-managed": "{address} is not a managed mailbox; add it, and reload acme-milter",
    "no-staging": "authorities.{name} has no staging service; name its directory with authorities.{name}.staging",
    "order-open": "{address} has an order under way; see: acme-milter mailbox show {address}",
    "already-open": "{address} is being tried there already; see: acme-milter mailbox show {address}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Answers the control socket's calls; one trial of an authority at a time. What is tried ends with its order."""

    standing: StandingConfig
    database: Database
    authorities: Authorities
    vault: Vault
    clock: Callable[[], datetime]
    work_is_due: Callable[[], None]
    _running: dict[str, str] = field(default_factory=dict)  # enrollment ids by staging service
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answers(self) -> dict[str, Answer]:
        return {"authority-test": self._begin, "authority-test-findings": self._findings}

    def end_what_is_over(self) -> None:
        """Put the settings back that a trial has changed."""
        with self._lock:
            for staging, enrollment_id in list(self._running.items()):
                with self.database.read() as connection:
                    enrollment = enrollments.get(connection, enrollment_id)
                if enrollment is None or not enrollment.is_open:
                    self.standing.try_out(staging, None)
                    del self._running[staging]

    def _begin(self, header: dict[str, object]) -> dict[str, object]:
        """``authority``, ``mailbox``; ``token_join``, ``post_after`` (seconds) instead of what is configured."""
        name, address = str(header.get("authority")), str(header.get("mailbox"))
        config = self.standing.current()
        if name not in config.named_authorities:
            known = ", ".join(config.named_authorities) or "none"
            return {"error": "unknown-authority", "text": f"no authority {name} is configured; there is {known}"}
        staging = staging_of(name)
        self.end_what_is_over()
        with self._lock:
            if staging in self._running:
                return {"error": "busy", "text": f"{name} is being tried out already; wait for the end of that"}
            with self.database.write() as connection:
                result = rehearse(connection, config, address, self.clock(), name)
            if result["outcome"] != "opened":
                words = _REFUSALS[str(result["outcome"])].format(address=address, name=name)
                return {"error": str(result["outcome"]), "text": words}
            self._running[staging] = str(result["id"])
            self.standing.try_out(staging, _open_minded(self.standing.file().authorities[staging], header))
        self.work_is_due()
        return {"authority": name, **result}

    def _findings(self, header: dict[str, object]) -> dict[str, object]:
        """``id``: of the enrollment that `_begin` opened, ended or not."""
        with self.database.read() as connection:
            enrollment = enrollments.get(connection, str(header.get("id")))
            if enrollment is None:
                return {"error": "unknown-enrollment", "text": "there is no such order"}
            mails = challenge_mails.of_enrollment(connection, enrollment.id)
            replies = outbox.of_enrollment(connection, enrollment.id)
            certificate_id = enrollment.certificate_id
            certificate = None if certificate_id is None else certificates.find(connection, certificate_id)
            moments = audit.moments(connection, enrollment.id)
        settings = self.standing.current().authorities.get(enrollment.authority)
        if settings is None:
            return {"error": "unknown-authority", "text": f"{enrollment.authority} is not configured any more"}
        directory, limits = None, dict[str, str]()
        with contextlib.suppress(AcmeError, AuthorityUnusable):
            network = self.authorities.network(enrollment.authority)
            limits = dict(network.rate_limits)
            directory = network.directory()
        seen = Seen(
            enrollment=enrollment,
            settings=settings,
            mail=self.vault.unseal_mail(mails[0].id, mails[0].sealed_mail) if mails and mails[0].sealed_mail else None,
            mailed_at=mails[0].accepted_at if mails else None,
            smime_signer=mails[0].smime_signer if mails else None,
            mails=len(mails),
            replied_at=min((one.sent_at for one in replies if one.sent_at is not None), default=None),
            certificate=certificate,
            moments=moments,
            directory=directory,
            rate_limits=limits,
        )
        document = findings(seen)
        self.end_what_is_over()
        return document


def _open_minded(settings: Authority, header: dict[str, object]) -> Authority:
    """What hides nothing: any signature that covers what is there, with or without Auto-Submitted, mailed at any time.

    A bad ``token_join`` is left as it is configured.
    """
    changes: dict[str, object] = {
        "challenge_trigger": "auto",
        "auto_post_after": _seconds(header.get("post_after")) or POST_AFTER,
        "dkim_headers": HeaderCoverage.PRESENT,
        "require_auto_submitted": False,
    }
    with contextlib.suppress(ValueError):
        changes["token_join"] = TokenJoin(str(header.get("token_join")))
    return settings.model_copy(update=changes)


def _seconds(value: object) -> timedelta | None:
    return timedelta(seconds=value) if isinstance(value, int | float) and value > 0 else None
