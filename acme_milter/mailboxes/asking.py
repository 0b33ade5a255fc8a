# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks Postfix about the few mailboxes that somebody looks at, and waits for the answer no longer than people do."""

import dataclasses
import threading
from collections.abc import Collection

from acme_milter.config.schema import Config
from acme_milter.mailboxes.verification import Deliverability, Verdict, examine_with, verifiers_of


def ask_about(config: Config, addresses: Collection[str], seconds: float) -> dict[str, Verdict]:
    """A verdict for each address after so many seconds at most; none at all where `worker.verification` is none."""
    if config.worker.verification == "none" or not addresses:
        return {}
    verifiers = [dataclasses.replace(one, timeout=seconds) for one in verifiers_of(config.sources)]
    late = Verdict(Deliverability.UNDECIDED, f"Postfix did not answer within {seconds:g} seconds")
    found = dict.fromkeys(addresses, late)
    answers: list[dict[str, Verdict]] = []
    thread = threading.Thread(
        target=lambda: answers.append(examine_with(verifiers, addresses)), name="asking-postfix", daemon=True
    )
    thread.start()
    thread.join(seconds)
    return found | (answers[0] if answers else {})
