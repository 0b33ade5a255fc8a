# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory's entry as a target: the certificate goes into its attribute, in a process that can be killed."""

import base64
import json
import sys

from cryptography.hazmat.primitives.serialization import Encoding

from acme_milter.certificate.pem_chain import parse_pem_chain
from acme_milter.clock import Clock
from acme_milter.config.delivery import LdapTarget
from acme_milter.config.secret import SecretUnavailable
from acme_milter.delivery.ldap_writer import Writing, request, time_text
from acme_milter.delivery.target import Delivered, DeliveryFailed, Gone, Parcel
from acme_milter.ldap_connection import shows_the_password
from acme_milter.program import Outcome, ProgramFault, run_program
from acme_milter.quoting import quoted

_GRACE = 2.0  # seconds beyond the timeout for it to say by itself what was slow


class LdapDelivery:
    """A section with `to: ldap` or `to: ad`. `clock` says which certificates have expired."""

    def __init__(self, section: LdapTarget, clock: Clock | None = None) -> None:
        self._section = section
        self._clock = clock or Clock()

    def deliver(self, parcel: Parcel) -> Delivered:
        """Add it to the entry's certificates, where it is not there yet, and take out what has had its time.

        Raises DeliveryFailed. That no entry fits is no permanent fault: other programs make entries, too.
        """
        return Delivered(outcome=self._written(parcel))

    def withdraw(self, gone: Gone) -> str:
        """Take exactly this certificate out of its entry; that there is no entry is as good. Raises DeliveryFailed."""
        return self._written(gone)

    def _written(self, job: Parcel | Gone) -> str:
        """Have the process write, and what it says it has done."""
        section = self._section
        if section.ca_bundle is not None and not section.ca_bundle.is_file():
            raise DeliveryFailed(f"ca_bundle: the file {section.ca_bundle} is not there", permanent=True)
        asked = self._writing(job)
        job.be_ours()
        try:
            done = run_program(
                [sys.executable, "-m", "acme_milter.delivery.ldap_writer"],
                timeout=asked.timeout + _GRACE,
                given=request(asked),
            )
        except ProgramFault:
            what = f"{section.uri}: no complete answer within {asked.timeout:g} s; raise timeout, or see what it is at"
            raise DeliveryFailed(what) from None
        said = _answer(done)
        if "fault" in said:
            raise DeliveryFailed(str(said["fault"]), permanent=bool(said["permanent"]))
        outcome = str(said["done"])
        if section.bind is not None and shows_the_password(section.uri, starttls=section.starttls):
            outcome += "; the bind password crossed the network unencrypted: use ldaps:// or starttls: true"
        return outcome

    def _writing(self, job: Parcel | Gone) -> Writing:
        section = self._section
        try:
            password = section.bind.password.read() if section.bind else ""
        except SecretUnavailable as reason:
            raise DeliveryFailed(f"bind.password: {reason}", permanent=True) from None
        local, _, domain = job.address.rpartition("@")
        certificate = parse_pem_chain(job.chain_pem)[0]
        return Writing(
            uri=section.uri,
            timeout=section.timeout.total_seconds(),
            bind_dn=section.bind.dn if section.bind else None,
            password=password,
            starttls=section.starttls,
            ca_bundle=str(section.ca_bundle) if section.ca_bundle else None,
            base=section.base,
            filter=section.filter,
            mailbox={"address": job.address, "local": local, "domain": domain},
            attribute=section.attribute_in_force,
            certificate=base64.b64encode(certificate.public_bytes(Encoding.DER)).decode(),
            take_out=isinstance(job, Gone),
            keep=section.keep,
            clear_stale=section.stale_usersmimecertificate == "clear",
            now=time_text(self._clock.now()),
        )


def _answer(done: Outcome) -> dict[str, object]:
    """What the process has answered; that it died without an answer is a fault like another."""
    lines = done.output.splitlines()
    if done.status == 0 and lines and lines[-1].startswith(b"{"):
        answer: dict[str, object] = json.loads(lines[-1])
        return answer
    said = quoted((done.error_lines() or [""])[-1])
    raise DeliveryFailed(f"the writing ended early ({done.ending}) {said}".rstrip())
