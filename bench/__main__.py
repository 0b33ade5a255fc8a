# SPDX-License-Identifier: GPL-3.0-or-later
"""All figures with their targets, in one run on this machine."""

import sys

from bench import commands, milter_cost, store_cost, whole_way
from bench.milter_cost import Measure

ANSWER_TARGET_MS = 150.0
RATE_TARGET = 8.0
ANSWERS = 30


def main() -> int:
    """Print the figures; 0 when every target is met."""
    print("An ordinary mail for an unmanaged recipient, raw milter protocol, concurrency 10, against a milter in C:")
    met = [_show(measure) for measure in milter_cost.measure()]
    print(
        f"\n{ANSWERS} challenges one after the other, from the begin of the SMTP transaction to the reply's queue id:"
    )
    answer = whole_way.measure(ANSWERS + 1, paced=True)
    median = answer.median_answer * 1000
    met.append(_show(Measure("median time to the answer", median, "ms", ANSWER_TARGET_MS)))
    print(f"\n{whole_way.MAILBOXES} mailboxes at once, P-256 keys, everything on this machine:")
    bulk = whole_way.measure()
    met.append(_show_rate(bulk.per_second))
    print(f"  median time to the answer under this load: {bulk.median_answer * 1000:.0f} ms")
    print("  where the processors' time goes, for each mailbox:")
    for name, seconds in sorted(bulk.cpu.items(), key=lambda item: -item[1]):
        print(f"    {name:<14}{seconds / bulk.count * 1000:6.1f} ms")
    busy = sum(bulk.cpu.values()) / bulk.seconds
    print(f"    all together, {busy:.2f} processors were busy for {bulk.seconds:.1f} s")
    print(f"\nAn organization of {commands.MAILBOXES} mailboxes, its worker running:")
    met += [_show(measure) for measure in commands.measure()]
    print("\nStatements and commits of the worker's database while it enrolls one mailbox after the other:")
    met += [_show(measure) for measure in store_cost.measure()]
    return 0 if all(met) else 1


def _show(measure: Measure) -> bool:
    target = "" if measure.target is None else f"   target: at most {measure.target:g}{_verdict(measure.met)}"
    print(f"  {measure.name}: {measure.value:.2f} {measure.unit}{target}")
    return measure.met


def _show_rate(per_second: float) -> bool:
    met = per_second >= RATE_TARGET
    print(f"  enrollments: {per_second:.1f} a second   target: at least {RATE_TARGET:g}{_verdict(met)}")
    return met


def _verdict(met: bool) -> str:
    return "  met" if met else "  NOT MET"


if __name__ == "__main__":
    sys.exit(main())
