"""The tables of docs/MEASUREMENTS.md on cascades, from bench/results/cascades.json.

python bench/cascade_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results/cascades.json"
SHOWN = (
    "large-only", "small-only", "tiny-only", "infaas", "cocktail", "deebert", "agreement", "tabi-empirical", "ours",
    "ours-three-levels",
)  # fmt: skip
ABLATIONS = ("ours-no-pruning", "ours-no-ensemble")

Record = dict[str, Any]


def rows(records: list[Record]) -> list[str]:
    """One row per task and policy, ablations where they differ from ours; times are relative to the large model's."""
    found = ["| task | policy | metric | early | mean | p99 | throughput |", "|---|---|---|---|---|---|---|"]
    for by_policy in by_task(records):
        large, ours = by_policy["large-only"], by_policy["ours"]
        other = [name for name in ABLATIONS if by_policy[name]["early_return"] != ours["early_return"]]
        for policy in (*SHOWN, *other):
            one = by_policy.get(policy)
            if one is None:
                continue
            name = policy if "same_as" not in one else f"{policy} (= {one['same_as']})"
            times = [f"{one[key] / large[key]:.2f}" for key in ("mean_ms", "p99_ms", "throughput")]
            metric = f"{one['accuracy']:.3f}" + (" \\*" if one.get("certified") else "")
            found.append(f"| {one['task']} | {name} | {metric} | {one['early_return']:.0%} | {' | '.join(times)} |")
    return found


def hops(records: list[Record]) -> list[str]:
    """What it costs to send every text through both models, whole and pruned."""
    found = ["| task | words pruned | metric: large, hop-pruned | mean: hop | hop-pruned | p99: hop | hop-pruned |"]
    found.append("|---|---|---|---|---|---|---|")
    for by_policy in by_task(records):
        if "hop" not in by_policy:
            continue
        large, whole, pruned = (by_policy[name] for name in ("large-only", "hop", "hop-pruned"))
        times = [f"{one[key] / large[key]:.2f}" for key in ("mean_ms", "p99_ms") for one in (whole, pruned)]
        metric = f"{large['accuracy']:.3f}, {pruned['accuracy']:.3f}"
        found.append(f"| {large['task']} | {pruned['words_pruned']:.0%} | {metric} | {' | '.join(times)} |")
    return found


def by_task(records: list[Record]) -> list[dict[str, Record]]:
    """The records of each task, by policy."""
    names = dict.fromkeys(one["task"] for one in records)
    return [{one["policy"]: one for one in records if one["task"] == name} for name in names]


if __name__ == "__main__":
    everything = json.loads(RESULTS.read_text(encoding="utf-8"))
    print("\n".join([*rows(everything), "", *hops(everything)]))
