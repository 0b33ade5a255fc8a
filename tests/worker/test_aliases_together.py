# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders for several addresses together with two certificates a mailbox, and with a second authority."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.lab.processes import wait_until
from acme_milter.store import authority_health, enrollments
from acme_milter.store.authority_health import Health
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.second_authority import OTHER_DOMAIN, SecondAuthority
from tests.worker.site import Site

SAME = {"key": "p256", "aliases": "same_certificate"}
PAIR = {**SAME, "layout": "dual"}
BOTH = {"authorities": ["ca", "second"]}


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_FIRST", timedelta(milliseconds=20))
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_LONGEST", timedelta(milliseconds=200))
    monkeypatch.setattr("acme_milter.enrollment.backoff.POLL_FIRST", timedelta(milliseconds=50))
    monkeypatch.setattr("acme_milter.worker.scheduler.LOOK_AGAIN", 0.05)


@pytest.fixture
def second(site: Site, tmp_path: Path) -> Iterator[SecondAuthority]:
    with SecondAuthority(site, tmp_path / "second") as running:
        yield running


def every_order(bench: OrderBench) -> list[Enrollment]:
    """Of the mailbox, the oldest first."""
    with bench.database.read() as connection:
        return enrollments.of_mailbox(connection, bench.addresses[0])[::-1]


def names_by_use(bench: OrderBench) -> dict[KeyUsageKind, set[str]]:
    found = {}
    for stored in bench.certificates():
        leaf = x509.load_pem_x509_certificates(stored.chain_pem)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found[stored.usage] = set(names.get_values_for_type(x509.RFC822Name))
    return found


def replies(bench: OrderBench) -> list[tuple[str, str]]:
    """(from, to) of what was handed over."""
    with bench.database.read() as connection:
        query = sa.text("SELECT envelope_sender, envelope_recipient FROM outbox WHERE sent_at IS NOT NULL")
        return [(row.envelope_sender, row.envelope_recipient) for row in connection.execute(query)]


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("mail_at", ["authz", "neworder"])
def test_of_two_certificates_each_names_the_mailbox_and_its_aliases(make_orders: MakeOrderBench, mail_at: str) -> None:
    bench = make_orders(aliases=2, policy={"certificate": PAIR})
    bench.site.authority.set_knobs(MAIL_AT=mail_at, MAIL_FROM="fixed")
    everybody = [bench.addresses[0], *bench.aliases]
    with bench.database.write() as connection:
        enrollments.open_new(
            connection, address=everybody[0], authority="ca", now=bench.clock(), usage=KeyUsageKind.SIGN
        )
    bench.start_scheduler()
    wait_until(lambda: [one.state for one in every_order(bench)] == [State.ACTIVE] * 2, "both", timeout=30)
    assert names_by_use(bench) == {KeyUsageKind.SIGN: set(everybody), KeyUsageKind.ENCRYPT: set(everybody)}
    assert len(bench.happened("order")) == 2
    assert sorted(sender for sender, _ in replies(bench)) == sorted(2 * everybody)
    assert {event["verdict"] for one in everybody for event in bench.happened("reply-received", address=one)} == {
        "valid"
    }


@pytest.mark.usefixtures("_hasty")
def test_an_order_with_aliases_that_one_authority_never_placed_is_proven_at_the_other_one(
    make_orders: MakeOrderBench, second: SecondAuthority
) -> None:
    bench = make_orders(
        aliases=2,
        policy={"certificate": SAME, **BOTH},
        others={"second": {**second.settings, "limits": {"identifiers": 2}}},
        **second.surroundings,
    )
    second.lab.set_knobs(MAIL_AT="neworder")
    ordering = bench.step(bench.open())
    assert (ordering.state, ordering.aliases) == (State.ORDERING, tuple(bench.aliases))
    bench.site.authority.set_knobs(HTTP_5XX=100, RETRY_AFTER="none")
    now = bench.clock()
    with bench.database.write() as connection:
        authority_health.put(
            connection,
            Health(
                authority="ca", failures=5, failed_at=now, last_error="timeout", open_since=now, openings=1,
                probe_at=now + timedelta(hours=1),
            ),
        )  # fmt: skip
    bench.make_failover().look()
    moved = bench.get(ordering.id)
    assert (moved.authority, moved.state, moved.aliases, moved.proofs) == ("second", State.PLANNED, (), ())
    bench.start_scheduler()
    done = bench.await_state(moved.id, State.ACTIVE, State.FAILED, timeout=30)
    assert (done.state, done.last_error) == (State.ACTIVE, None)
    kept = [bench.addresses[0], bench.aliases[0]]  # the second one takes two
    assert names_by_use(bench) == {KeyUsageKind.DUAL: set(kept)}
    assert sorted(replies(bench)) == sorted((one, to) for one, to in replies(bench) if to.endswith(OTHER_DOMAIN))
    assert sorted(one for one, _ in replies(bench)) == sorted(kept)


@pytest.mark.usefixtures("_hasty")
def test_an_order_with_aliases_that_died_half_proven_begins_anew_at_the_other_authority(
    make_orders: MakeOrderBench, second: SecondAuthority
) -> None:
    """What the first authority mailed and was kept is nobody's any more; each address answers the second one once."""
    bench = make_orders(
        aliases=1, policy={"certificate": SAME, **BOTH}, others={"second": second.settings}, **second.surroundings
    )
    everybody = [bench.addresses[0], *bench.aliases]
    bench.site.authority.set_knobs(MAIL_AT="neworder")
    waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    wait_until(lambda: bench.outbox_count(waiting) == 2, "both mails")
    bench.site.authority.reset_knobs()
    url = bench.get(waiting.id).authorization_url
    assert url is not None
    bench.desk.client(waiting).deactivate_authorization(url)  # as if it had given up by itself
    now = bench.clock()
    health = Health(
        authority="ca", failures=5, failed_at=now, last_error="timeout", open_since=now, openings=1,
        probe_at=now + timedelta(hours=1),
    )  # fmt: skip
    with bench.database.write() as connection:
        authority_health.put(connection, health)
    for reply in bench.replies_due:
        bench.responder.work_off(reply)
    bench.start_scheduler()
    wait_until(lambda: [one.state for one in every_order(bench)] == [State.FAILED, State.ACTIVE], "the other one")
    assert names_by_use(bench) == {KeyUsageKind.DUAL: set(everybody)}
    elsewhere = [one for one, to in replies(bench) if to.endswith(OTHER_DOMAIN)]
    assert sorted(elsewhere) == sorted(everybody)
    assert bench.aliases[0] not in [one for one, to in replies(bench) if not to.endswith(OTHER_DOMAIN)]
