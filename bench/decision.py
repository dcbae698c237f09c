"""How long a decision takes: every policy on queues of 1 to 1,000 waiting samples of three tasks, 8 levels.

A queue is `mixed`, or all `at risk`: behind a burst, where the fastest level is typically in time and no p99 is.

    python bench/decision.py        (six minutes; writes bench/results/decision.json)

In turns: each policy and queue length is timed in every round. Medians over rounds of the p50 and the p99, with their
95 % intervals. A policy has seen the arrivals of what waits, so that `joint` reckons with a price of time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from spread import spread

from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.policies import POLICIES
from elastriton.core.policy import Outlook, Policy
from elastriton.core.queue import Item
from elastriton.generator.machine import this_machine

GAMMAS = (-16, -12, -8, -4, 0, 2, 4, 8)
TASKS = (("a", 65.0, 1.0), ("b", 130.0, 1.0), ("c", 260.0, 2.0))
SIZES = (1, 2, 4, 8, 16, 32, 64)
WAITING = (1, 8, 64, 256, 1000)


def outlook() -> Outlook:
    """A ViT-like table: 6 ms and 4 ms a sample, divided by the level's speed-up."""
    speed_up = dict(zip(GAMMAS, (2.4, 1.9, 1.5, 1.2, 1.0, 0.99, 0.98, 0.96), strict=True))
    cells = [Cell(g, 65, size, ms := (6.0 + 4.0 * size) / speed_up[g], 1.08 * ms, 50) for g in GAMMAS for size in SIZES]
    accuracy = {
        name: {g: 0.95 - 0.01 * k * i for i, g in enumerate(reversed(GAMMAS))} for k, (name, *_) in enumerate(TASKS)
    }
    return Outlook(LatencyTable(cells), accuracy, max(SIZES))


def queue(n: int, generator: np.random.Generator) -> list[Item]:
    """`n` samples that arrived within the last moments, most urgent first."""
    items = []
    for _ in range(n):
        name, slo_ms, utility = TASKS[generator.integers(len(TASKS))]
        age_ms = generator.uniform(0.0, 0.6 * slo_ms)
        items.append(Item(name, -age_ms / 1000.0, (slo_ms - age_ms) / 1000.0, utility, 65))
    return sorted(items, key=lambda item: item.deadline_s)


def at_risk(n: int, generator: np.random.Generator) -> list[Item]:
    """`n` samples with more time left than the fastest level typically takes for one, and less than its p99."""
    left_ms = np.sort(generator.uniform(4.2, 4.45, n)).tolist()
    tasks = generator.integers(len(TASKS), size=n)
    return [
        Item(name, (ms - slo_ms) / 1000.0, ms / 1000.0, utility, 65)
        for ms, (name, slo_ms, utility) in zip(left_ms, (TASKS[i] for i in tasks), strict=True)
    ]


QUEUES = {"mixed": (queue, WAITING), "at risk": (at_risk, WAITING[:-1])}  # otas takes 0.3 s for 1,000 at risk


def main() -> None:
    """Time every policy on fresh queues; write and print median and p99."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/decision.json")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    view = outlook()
    queues = {
        (kind, n): [make(n, np.random.default_rng(seed)) for seed in range(arguments.runs)]
        for kind, (make, waiting) in QUEUES.items()
        for n in waiting
    }
    rounds = [
        {(name, *key): timed(make, queues[key], view) for name, make in POLICIES.items() for key in queues}
        for _ in range(arguments.rounds)
    ]
    rows = []
    for key in rounds[0]:
        p50_ms, p99_ms = zip(*(one[key] for one in rounds), strict=True)
        row = dict(zip(("policy", "queue", "waiting"), key, strict=True))
        rows.append({**row, "p50_ms": spread(p50_ms), "p99_ms": spread(p99_ms)})
        print(rows[-1])
    result = {
        "levels": len(GAMMAS),
        "runs": arguments.runs,
        "rounds": arguments.rounds,
        "rows": rows,
        "machine": asdict(this_machine()),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def timed(make: Callable[[], Policy], queues: Sequence[Sequence[Item]], view: Outlook) -> tuple[float, float]:
    """p50 and p99 in ms of one decision for each of `queues`, the first ten left out."""
    samples_ms = []
    for waiting in queues:
        policy = make()
        for item in sorted(waiting, key=lambda item: item.arrival_s):
            policy.arrived(item)
        before_s = time.perf_counter()
        policy.decide(waiting, 0.0, view)
        samples_ms.append((time.perf_counter() - before_s) * 1000.0)
    p50_ms, p99_ms = np.percentile(samples_ms[10:], [50, 99])
    return float(p50_ms), float(p99_ms)


if __name__ == "__main__":
    main()
