# SPDX-License-Identifier: GPL-3.0-or-later
"""SMIMEA records put into a zone by a dynamic update (RFC 2136), signed with a TSIG key (RFC 8945)."""

import base64
import contextlib
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.tsig
import dns.update

from acme_milter.delivery.smimea_record import SmimeaRecord, owner_name
from acme_milter.delivery.target import DeliveryFailed
from acme_milter.quoting import quoted

_CONNECT_SECONDS = 10.0
_TYPE = "SMIMEA"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateServer:
    """Whom to ask, and by which key; `secret` is in base64. `timeout` in seconds is for all of its addresses."""

    host: str
    port: int
    zone: str
    key_name: str
    algorithm: str
    secret: str = field(repr=False)
    timeout: float

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


def replace_records(server: UpdateServer, address: str, records: Iterable[SmimeaRecord], *, ttl: int) -> None:
    """Make these the only SMIMEA records of the mailbox, in one update, which is all or nothing (RFC 2136 §3.4).

    `ttl` is in seconds. Without records there are none there any more. Raises DeliveryFailed, also when the server's
    answer is not signed: then it is nobody's.
    """
    owner = dns.name.from_text(f"{owner_name(address)}.")
    update = _signed_update(server)
    update.delete(owner, _TYPE)
    for record in records:
        update.add(owner, ttl, _TYPE, record.data())
    with _told(server):
        answer = _ask(server, update)
    _judge(server, answer)


def _signed_update(server: UpdateServer) -> dns.update.UpdateMessage:
    try:
        secret = base64.b64decode(server.secret, validate=True)
    except ValueError:
        # The cause would quote the secret.
        raise DeliveryFailed("tsig.secret is not base64; it is what tsig-keygen calls secret", permanent=True) from None
    return dns.update.UpdateMessage(server.zone, keyring=dns.tsig.Key(server.key_name, secret, server.algorithm))


def _ask(server: UpdateServer, update: dns.update.UpdateMessage) -> dns.message.Message:
    """The answer of the first of the server's addresses that gives one."""
    give_up = time.monotonic() + server.timeout
    found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    hosts = list(dict.fromkeys(str(place[0]) for *_, place in found))
    for number, host in enumerate(hosts, 1):
        left = max(give_up - time.monotonic(), 0.001)
        patience = left if number == len(hosts) else min(left, _CONNECT_SECONDS)
        try:
            # By TCP: a certificate has no room in a datagram, and nobody can answer in the server's place.
            return dns.query.tcp(update, host, port=server.port, timeout=patience)
        except (OSError, dns.exception.Timeout):
            if number == len(hosts):
                raise
    raise AssertionError("getaddrinfo finds an address or raises")


@contextlib.contextmanager
def _told(server: UpdateServer) -> Iterator[None]:
    """What goes wrong before there is an answer to believe, in an administrator's words."""
    try:
        yield
    except dns.tsig.PeerBadKey:
        what = f"it does not know the key {server.key_name} (BADKEY); is key_name what the server calls it?"
        raise DeliveryFailed(f"{server}: {what}", permanent=True) from None
    except (dns.tsig.PeerBadSignature, dns.tsig.PeerBadTruncation):
        what = f"the key {server.key_name} has another secret or algorithm there (BADSIG); compare tsig with the server"
        raise DeliveryFailed(f"{server}: {what}", permanent=True) from None
    except (dns.tsig.PeerBadTime, dns.tsig.BadTime):
        what = "its clock and ours differ by minutes (BADTIME); see that both follow NTP: timedatectl"
        raise DeliveryFailed(f"{server}: {what}") from None
    except (dns.tsig.BadSignature, dns.tsig.BadKey, dns.tsig.BadAlgorithm, dns.tsig.PeerError):
        raise DeliveryFailed(f"{server}: its answer is not signed by the key {server.key_name}") from None
    except dns.exception.Timeout:
        raise DeliveryFailed(f"{server}: no answer within {server.timeout:g} s; raise timeout") from None
    except (dns.exception.DNSException, EOFError) as error:
        words = quoted(f"{type(error).__name__}: {error}")
        raise DeliveryFailed(f"{server}: its answer cannot be believed ({words})") from None
    except OSError as error:
        raise DeliveryFailed(f"{server}: cannot be reached ({error.strerror or error})") from None


def _judge(server: UpdateServer, answer: dns.message.Message) -> None:
    """RFC 2136 §2.2: what the codes mean in an answer to an update."""
    code = answer.rcode()
    name = dns.rcode.to_text(code)
    if code == dns.rcode.NOERROR:
        if not answer.had_tsig:
            raise DeliveryFailed(
                f"{server}: it says yes in an answer that is not signed, which anybody could have sent"
            )
        return
    lasting = {
        dns.rcode.NOTAUTH: (
            f"it does not answer for the zone {server.zone}; where the mail domain is part of a larger zone, name that"
            " one in zone, and the primary server in server"
        ),
        dns.rcode.NOTZONE: f"the mailbox's name is not in the zone {server.zone}; correct zone",
        dns.rcode.REFUSED: (
            f"the key {server.key_name} may not do this in {server.zone}; in BIND: update-policy"
            f" {{ grant {server.key_name} zonesub SMIMEA; }};"
        ),
        dns.rcode.NOTIMP: "it takes no updates at all; use mode: zone, or another server",
        dns.rcode.FORMERR: "it does not understand the update; does it know SMIMEA records?",
    }
    if code in lasting:
        raise DeliveryFailed(f"{server}: {name}: {lasting[code]}", permanent=True)
    raise DeliveryFailed(f"{server}: {name}: it could not do it now; its log says why")
