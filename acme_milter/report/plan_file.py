# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan file, schema acme-milter/plan/1: JSON with one mailbox a line, so that it streams and can be compared."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

from acme_milter.acme.problem import printable
from acme_milter.acme.revocation import RevocationReason
from acme_milter.report.plan import Plan, PlanItem, Selection
from acme_milter.report.plan_shares import AuthorityShare
from acme_milter.store.bulk_runs import Kind

SCHEMA = "acme-milter/plan/1"
REASONS = {reason.name.lower().replace("_", "-"): reason for reason in RevocationReason}
"""RFC 5280 §5.3.1 in the words of the command line."""


class PlanFault(Exception):
    """The file is no plan; the text says where and why."""

    safe_text = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """What a run needs of a plan; ``revoke`` is one of REASONS."""

    kind: Kind
    made_at: datetime
    configuration: str
    revoke: str | None
    description: str
    items: tuple[PlanItem, ...] = field(repr=False)


def document_of(plan: Plan) -> dict[str, object]:
    """The plan without its mailboxes; times are RFC 3339, durations seconds."""
    return {
        "schema": SCHEMA,
        "kind": plan.kind.value,
        "made_at": plan.made_at.isoformat(),
        "configuration": plan.configuration,
        "description": describe(plan.kind, plan.selection),
        "selection": _selection(plan.selection),
        "revoke": plan.revoke,
        "total": len(plan.items),
        "counts": [
            {"domain": domain, "authority": authority, "mailboxes": number}
            for domain, authority, number in plan.counts()
        ],
        "authorities": [_share(share) for share in plan.authorities],
        "takes_seconds": round(plan.takes.total_seconds()),
        "excluded": [
            {"reason": one.reason, "number": one.number, "examples": list(one.examples)} for one in plan.excluded
        ],
    }


def write(plan: Plan, out: IO[str]) -> None:
    """Write the whole plan, its mailboxes last."""
    head = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document_of(plan).items()]
    out.write("{\n" + ",\n".join(head) + ',\n"mailboxes": [')
    for number, item in enumerate(plan.items):
        line = {"address": item.address, "authority": item.authority, "principal": item.principal}
        if item.replaces_id is not None:
            line |= {"replaces": item.replaces_id, "serial": item.serial or ""}
        if item.also_replaces_id is not None:
            line["also_replaces"] = item.also_replaces_id
        out.write((",\n" if number else "\n") + json.dumps(line, ensure_ascii=False))
    out.write("\n]\n}\n")


def describe(kind: Kind, selection: Selection) -> str:
    """What was asked for, in a few words: "replace: issued before 2026-05-04, authority ca"."""
    words = []
    if not selection.looks_at_certificates:
        words.append("without a valid certificate")
    if selection.expiring is not None:
        words.append(f"expiring within {selection.expiring.days} d")
    if selection.issued_before is not None:
        words.append(f"issued before {selection.issued_before:%Y-%m-%d %H:%M} UTC".replace(" 00:00 UTC", ""))
    if selection.serials is not None:
        words.append(f"{len(selection.serials)} serials")
    if selection.addresses is not None:
        words.append(f"{len(selection.addresses)} given addresses")
    if selection.authority is not None:
        words.append(f"authority {selection.authority}")
    if selection.domains:
        words.append("of " + ", ".join(sorted(selection.domains)))
    return f"{kind.value}: " + ", ".join(words)


def read(path: Path) -> PlanFile:
    """Raises PlanFault, with the line where JSON has one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanFault(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PlanFault(f"{path}: is no text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise PlanFault(f"{path}:{error.lineno}: is not JSON: {error.msg}; make the plan anew") from None
    except (RecursionError, ValueError):  # nested too deep; a number of thousands of digits
        raise PlanFault(f"{path}: is no plan") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else None
        raise PlanFault(f"{path}: is no plan of this version: its schema is {found!r}, wanted is {SCHEMA!r}")
    try:
        return _plan(document)
    except PlanFault as fault:
        raise PlanFault(f"{path}: {fault}; make the plan anew") from None


def _plan(document: Mapping[str, Any]) -> PlanFile:
    try:
        made_at = datetime.fromisoformat(str(document["made_at"]))
        kind = Kind(document["kind"])
    except (KeyError, ValueError):
        raise PlanFault("made_at or kind is missing or unknown") from None
    revoke = document.get("revoke")
    if made_at.tzinfo is None or (revoke is not None and revoke not in REASONS):
        raise PlanFault("made_at has no time zone, or revoke is no reason that is known")
    found = document.get("mailboxes")
    if not isinstance(found, list):
        raise PlanFault("it has no mailboxes")
    items = tuple(_items(cast("list[object]", found)))
    if len({item.address.lower() for item in items}) != len(items):
        raise PlanFault("a mailbox stands in it twice")
    return PlanFile(
        kind=kind,
        made_at=made_at,
        configuration=str(document.get("configuration", "")),
        revoke=revoke,
        description=printable(str(document.get("description", kind.value)), 500),
        items=items,
    )


def _items(found: list[object]) -> Iterator[PlanItem]:
    for number, one in enumerate(found, start=1):
        given: dict[str, object] = one if isinstance(one, dict) else {}
        address, authority, principal = (_text(given.get(name)) for name in ("address", "authority", "principal"))
        replaces, also = _text(given.get("replaces")), _text(given.get("also_replaces"))
        plain = (
            address + authority + replaces + also
        ).isprintable()  # they are shown on terminals, and put into a store
        if "@" not in address or not authority or not principal or ("replaces" in given and not replaces) or not plain:
            raise PlanFault(f"mailbox {number} wants address, authority and principal, and perhaps replaces, as text")
        serial = _text(given.get("serial"))
        yield PlanItem(address, authority, principal, replaces or None, serial or None, also or None)


def _text(value: object) -> str:
    """Nothing for what is no text, or none that could be written anywhere: JSON can hold half a character."""
    return value if isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value) else ""


def _selection(selection: Selection) -> dict[str, object]:
    return {
        "missing": not selection.looks_at_certificates,
        "expiring_seconds": None if selection.expiring is None else round(selection.expiring.total_seconds()),
        "issued_before": None if selection.issued_before is None else selection.issued_before.isoformat(),
        "authority": selection.authority,
        "domains": sorted(selection.domains),
        "addresses": None if selection.addresses is None else len(selection.addresses),
        "serials": None if selection.serials is None else len(selection.serials),
    }


def _share(share: AuthorityShare) -> dict[str, object]:
    return {
        "authority": share.name,
        "mailboxes": share.number,
        "orders": share.orders,
        "mails": share.mails,
        "in_flight": share.pace.in_flight,
        "orders_per_hour": share.pace.orders_per_hour,
        "mails_per_hour": share.pace.mails_per_hour,
        "failed_per_hour": share.failed_per_hour,
        "orders_last_hour": share.orders_last_hour,
        "typical_seconds": round(share.pace.typical.total_seconds(), 3),
        "measured": share.pace.measured,
        "takes_seconds": round(share.estimate.takes.total_seconds()),
        "bound_by": share.estimate.bound_by,
    }
