"""The table of docs/ARCHITECTURE.md on cascades, from bench/results/cascades.json.

python bench/cascade_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results/cascades.json"
SHOWN = (
    "large-only", "small-only", "tiny-only", "infaas", "cocktail", "deebert", "agreement", "tabi-empirical", "ours",
    "ours-no-pruning", "ours-no-ensemble", "ours-three-levels", "hop", "hop-pruned",
)  # fmt: skip


def rows(records: list[dict[str, Any]]) -> list[str]:
    """One row per task and policy; times and throughput are relative to the large model's in the same run."""
    found = ["| task | policy | metric | early | mean | p99 | throughput |", "|---|---|---|---|---|---|---|"]
    for task in dict.fromkeys(one["task"] for one in records):
        by_policy = {one["policy"]: one for one in records if one["task"] == task}
        large = by_policy["large-only"]
        for policy in SHOWN:
            one = by_policy.get(policy)
            if one is None:
                continue
            name = policy if "same_as" not in one else f"{policy} (= {one['same_as']})"
            times = [f"{one[key] / large[key]:.2f}" for key in ("mean_ms", "p99_ms")]
            times += [f"{one['throughput'] / large['throughput']:.2f}" if one["throughput"] else "–"]
            metric = f"{one['accuracy']:.3f}" + (" \\*" if one.get("certified") else "")
            found.append(f"| {task} | {name} | {metric} | {one['early_return']:.0%} | {' | '.join(times)} |")
    return found


if __name__ == "__main__":
    print("\n".join(rows(json.loads(RESULTS.read_text(encoding="utf-8")))))
