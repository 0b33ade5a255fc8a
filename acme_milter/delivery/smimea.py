# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS as a target: the mailbox's certificates as SMIMEA records (RFC 8162), in a snippet or by an update."""

from collections.abc import Collection

from acme_milter.certificate.pem_chain import parse_pem_chain
from acme_milter.clock import Clock
from acme_milter.config.delivery import SmimeaTarget
from acme_milter.config.secret import SecretUnavailable
from acme_milter.delivery.smimea_record import owner_name, record_for
from acme_milter.delivery.smimea_update import UpdateServer, replace_records
from acme_milter.delivery.smimea_zone import write_block
from acme_milter.delivery.target import Claimed, Delivered, DeliveryFailed, Gone, Parcel

_LONGEST_TTL = 2**31 - 1  # RFC 2181 §8


class SmimeaDelivery:
    """A section with `to: smimea`. `clock` says which records of a snippet have expired."""

    def __init__(self, section: SmimeaTarget, clock: Clock | None = None) -> None:
        self._section = section
        self._clock = clock or Clock()

    def deliver(self, parcel: Parcel) -> Delivered:
        """Replace the mailbox's records by those of its certificates in use. Raises DeliveryFailed."""
        where = self._write(parcel, parcel.address, (parcel.chain_pem, *parcel.beside))
        return Delivered(outcome=f"SMIMEA {self._section.usage} at {where}")

    def withdraw(self, gone: Gone) -> str:
        """Replace the mailbox's records by those of the certificates that stay, or delete them."""
        where = self._write(gone, gone.address, gone.beside)
        if not gone.beside:
            return f"no SMIMEA any more at {where}"
        return f"SMIMEA {self._section.usage} of {len(gone.beside)} other in use, and not of this one, at {where}"

    def _write(self, job: Claimed, address: str, chains: Collection[bytes]) -> str:
        """Make the records of these chains' certificates the mailbox's; where that is."""
        section, owner = self._section, owner_name(address)
        ttl = min(int(section.ttl.total_seconds()), _LONGEST_TTL)
        records = {record_for(parse_pem_chain(chain)[0], section.usage) for chain in chains}
        if section.path is not None and section.mode == "zone":
            now, patience = self._clock.now(), section.timeout.total_seconds()
            write_block(section.path, address, records, ttl=ttl, now=now, patience=patience, job=job)
            return f"{owner}, in {section.path}; the name server has to load it"
        server = self._server(address.rpartition("@")[2])
        job.be_ours()
        replace_records(server, address, records, ttl=ttl)
        return f"{owner}, zone {server.zone}, by {server}"

    def _server(self, domain: str) -> UpdateServer:
        section = self._section
        assert section.server is not None
        assert section.tsig is not None
        zone = section.zone or domain
        if not f".{domain}".endswith(f".{zone}"):
            what = (
                f"the mail domain {domain} is not in the zone {zone}; correct zone, or give each domain its own target"
            )
            raise DeliveryFailed(what, permanent=True)
        try:
            secret = section.tsig.secret.read()
        except SecretUnavailable as reason:
            raise DeliveryFailed(f"tsig.secret: {reason}", permanent=True) from None
        return UpdateServer(
            host=section.server,
            port=section.port,
            zone=f"{zone}.",
            key_name=section.tsig.key_name,
            algorithm=section.tsig.algorithm,
            secret=secret,
            timeout=section.timeout.total_seconds(),
        )
