# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS as a target: the mailbox's certificates as SMIMEA records (RFC 8162), in a snippet or by an update."""

from acme_milter.certificate.pem_chain import parse_pem_chain
from acme_milter.clock import Clock
from acme_milter.config.delivery import SmimeaTarget
from acme_milter.config.secret import SecretUnavailable
from acme_milter.delivery.smimea_record import owner_name, record_for
from acme_milter.delivery.smimea_update import UpdateServer, replace_records
from acme_milter.delivery.smimea_zone import write_block
from acme_milter.delivery.target import Delivered, DeliveryFailed, Gone, Parcel

_LONGEST_TTL = 2**31 - 1  # RFC 2181 §8


class SmimeaDelivery:
    """A section with `to: smimea`. `clock` says which records of a snippet have expired."""

    def __init__(self, section: SmimeaTarget, clock: Clock | None = None) -> None:
        self._section = section
        self._clock = clock or Clock()

    def deliver(self, parcel: Parcel) -> Delivered:
        """Replace the mailbox's records by those of its certificates in use. Raises DeliveryFailed."""
        section = self._section
        ttl = min(int(section.ttl.total_seconds()), _LONGEST_TTL)
        chains = (parcel.chain_pem, *parcel.beside)
        records = {record_for(parse_pem_chain(chain)[0], section.usage) for chain in chains}
        what = f"SMIMEA {section.usage} at {owner_name(parcel.address)}"
        if section.path is not None and section.mode == "zone":
            patience = section.timeout.total_seconds()
            write_block(section.path, parcel.address, records, ttl=ttl, now=self._clock.now(), patience=patience)
            return Delivered(outcome=f"{what}, in {section.path}; the name server has to load it")
        server = self._server(parcel.address.rpartition("@")[2])
        replace_records(server, parcel.address, records, ttl=ttl)
        return Delivered(outcome=f"{what}, zone {server.zone}, by {server}")

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

    def withdraw(self, gone: Gone) -> str:
        """Raises DeliveryFailed."""
        text = f"certificate {gone.serial} of {gone.address} is still there; remove it by hand"
        raise DeliveryFailed(text, permanent=True)
