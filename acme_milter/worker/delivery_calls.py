# SPDX-License-Identifier: GPL-3.0-or-later
"""What `deliver run`, `deliver retry` and `deliver passphrase` want of a running worker."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.member import Member
from acme_milter.config.schema import Config
from acme_milter.delivery.wanted import targets_for
from acme_milter.eventlog import Event, log_event
from acme_milter.ipc.server import PEER_UID
from acme_milter.keys.sealing import SealBroken
from acme_milter.store import audit, deliveries, delivery_lists, mailbox_keys, passphrases
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.deliveries import Delivery, DeliveryState
from acme_milter.worker.control import Answer
from acme_milter.worker.custody import keyless
from acme_milter.worker.delivery_plan import plan_deliveries
from acme_milter.worker.vault import Vault
from acme_milter.worker.withdrawal_calls import WithdrawalCalls

AT_ONCE = 100
_FAILED = frozenset({DeliveryState.FAILED, DeliveryState.RETRYING})


class DeliveryCalls:
    """Answers the control socket's calls ``deliver``, ``retry-delivery``, ``withdraw`` and ``passphrase``."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        vault: Vault,
        clock: Callable[[], datetime],
        work_is_due: Callable[[], None],
    ) -> None:
        self._config = config
        self._database = database
        self._vault = vault
        self._clock = clock
        self._work_is_due = work_is_due
        taking_back = WithdrawalCalls(config=config, database=database, clock=clock, work_is_due=work_is_due)
        self._withdraw = taking_back.run

    def answers(self) -> dict[str, Answer]:
        """The calls by name."""
        return {
            "deliver": self.run,
            "retry-delivery": self.retry,
            "withdraw": self._withdraw,
            "passphrase": self.passphrase,
        }

    def run(self, header: dict[str, object]) -> dict[str, object]:
        """``addresses``, and perhaps ``target``, a title, and ``again``. A result for each address, with the titles of
        the ``targets`` that something is now on its way to and an ``outcome``: asked, nothing-missing, not-managed,
        no-target, no-certificate; under-way, has-failed: with the targets that something was on its way to before, or
        waits for a person; key-destroyed, key-elsewhere. ``withheld``: why targets, by title, get nothing.
        """
        target, again = _text(header, "target"), header.get("again") is True
        return self._for_each(_addresses(header), lambda connection, one: self._ask(connection, one, target, again))

    def retry(self, header: dict[str, object]) -> dict[str, object]:
        """``addresses``, and perhaps ``target``. ``outcome``: retrying, or nothing-failed; ``targets`` as for `run`."""
        target = _text(header, "target")
        return self._for_each(_addresses(header), lambda connection, one: self._retry(connection, one, target))

    def passphrase(self, header: dict[str, object]) -> dict[str, object]:
        """``address``, and perhaps ``target``; whose request it is the server says (PEER_UID). ``passphrases``:
        of what was delivered of the certificates that the mailbox's present person uses, each noted in the audit trail
        before it is told.
        """
        wanted, target = str(header.get("address")), _text(header, "target")
        member = self._config().member(wanted)
        if member is None:
            text = f"{wanted}: not a managed mailbox; see why with: acme-milter mailbox why {wanted}"
            return {"error": "not-managed", "text": text}
        try:
            with self._database.write() as connection:
                found = self._open(connection, member, target, header.get(PEER_UID))
        except SealBroken as broken:
            return {"error": "seal-broken", "text": f"the passphrase cannot be opened: {broken}"}
        for one in found:
            log_event(Event.PASSPHRASE_SHOWN, rcpt=member.address, target=one["target"], serial=one["serial"])
        return {"address": member.address, "passphrases": found}

    def _for_each(
        self, addresses: Sequence[str], do: Callable[[sa.Connection, str], dict[str, object]]
    ) -> dict[str, object]:
        results: list[dict[str, object]] = []
        for start in range(0, len(addresses), AT_ONCE):
            with self._database.write() as connection:
                results += [do(connection, address) for address in addresses[start : start + AT_ONCE]]
        self._work_is_due()
        return {"results": results}

    def _ask(self, connection: sa.Connection, wanted: str, target: str | None, again: bool) -> dict[str, object]:
        config, now = self._config(), self._clock()
        member = config.member(wanted)
        if member is None:
            return _result(wanted, "not-managed")
        in_use = deliveries.in_use(connection, member.address, member.principal)
        lasting = [one for one in in_use if one.not_after > now]
        if not lasting:
            return _result(member.address, "no-certificate")
        titles = {title for one in lasting for title in _titles(config, one)}
        if not titles or (target is not None and target not in titles):
            return _result(member.address, "no-target")
        asked: set[str] = set()
        withheld: dict[str, str] = {}
        for one in lasting:
            without = keyless(connection, config, one, only=target, again=again)
            changed = plan_deliveries(connection, config, one, now, only=target, but=without, again=again)
            withheld |= without
            asked |= set(changed)
            if changed:
                details = {"targets": changed, "serial": one.serial, "by": "operator"}
                _note(connection, Event.DELIVERY_ASKED, one, details, now)
        if asked:
            return {**_result(member.address, "asked", asked), "withheld": withheld}
        undone = [one for one in _undone(connection, lasting) if one.target in titles and target in {None, one.target}]
        failed = {one.target for one in undone if one.state is DeliveryState.FAILED}
        if undone:
            waiting = _result(member.address, "under-way", {one.target for one in undone})
            return {**(_result(member.address, "has-failed", failed) if failed else waiting), "withheld": withheld}
        return {**_result(member.address, _why_nothing(connection, lasting, withheld)), "withheld": withheld}

    def _retry(self, connection: sa.Connection, wanted: str, target: str | None) -> dict[str, object]:
        address = self._config().canonical(wanted) or wanted
        rows = delivery_lists.where(connection, addresses=[address], everything=False)
        failed = [one for one in rows if one.state in _FAILED and target in {None, one.target}]
        number = deliveries.retry(connection, [one.id for one in failed], self._clock())
        titles = {one.target for one in failed} if number else set()
        return _result(address, "retrying" if number else "nothing-failed", titles)

    def _open(
        self, connection: sa.Connection, member: Member, target: str | None, uid: object
    ) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        now = self._clock()
        for certificate in deliveries.in_use(connection, member.address, member.principal):
            for one in deliveries.of_certificate(connection, certificate.id):
                if one.withdraw_why is None and target in {None, one.target}:
                    found += self._open_one(connection, certificate, one, now, uid)
        return found

    def _open_one(
        self, connection: sa.Connection, certificate: StoredCertificate, one: Delivery, now: datetime, uid: object
    ) -> list[dict[str, object]]:
        opened: list[dict[str, object]] = []
        for row in passphrases.of_delivery(connection, one.id):
            opened.append(
                {
                    "target": one.target,
                    "format": row.format,
                    "serial": certificate.serial,
                    "outcome": one.outcome,
                    "made_at": row.made_at.isoformat(),
                    "shown_at": None if row.shown_at is None else row.shown_at.isoformat(),
                    "passphrase": self._vault.unseal_passphrase(one.id, row.format, row.sealed),
                }
            )
            passphrases.shown(connection, one.id, row.format, now)
        if opened:
            details = {"target": one.target, "serial": certificate.serial, "uid": uid}
            _note(connection, Event.PASSPHRASE_SHOWN, certificate, details, now)
        return opened


def _undone(connection: sa.Connection, in_use: Sequence[StoredCertificate]) -> list[Delivery]:
    """What is to be brought of these, and is not there yet."""
    rows = [row for one in in_use for row in deliveries.of_certificate(connection, one.id)]
    return [row for row in rows if row.done_at is None and row.withdraw_why is None]


def _why_nothing(connection: sa.Connection, in_use: Sequence[StoredCertificate], withheld: Collection[str]) -> str:
    if not withheld:
        return "nothing-missing"
    keys = [mailbox_keys.get(connection, one.key_id) for one in in_use]
    return "key-destroyed" if any(key.destroyed_at is not None for key in keys) else "key-elsewhere"


def _titles(config: Config, one: StoredCertificate) -> frozenset[str]:
    return frozenset(targets_for(config, one.address, one.principal, one.authority))


def _note(
    connection: sa.Connection, event: Event, one: StoredCertificate, details: Mapping[str, object], now: datetime
) -> None:
    audit.record(connection, event, at=now, enrollment_id=one.enrollment_id, address=one.address, details=details)


def _result(address: str, outcome: str, targets: set[str] | None = None) -> dict[str, object]:
    return {"address": address, "outcome": outcome, "targets": sorted(targets or ())}


def _addresses(header: dict[str, object]) -> list[str]:
    given = header.get("addresses")
    return [str(one) for one in given] if isinstance(given, list) else []


def _text(header: dict[str, object], name: str) -> str | None:
    value = header.get(name)
    return None if value is None else str(value)
