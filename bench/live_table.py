"""What the records of live.py say: utility per request by policy, beside what the simulator expects for the same runs.

    python bench/live_table.py [bench/results/live.json]

Intervals are at 95 %, of ratios of sums over runs that are drawn again 2,000 times.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from elastriton.generator.metrics import Values, bootstrap_interval

ROOT = Path(__file__).parents[1]
DRAWS = 2000
STOLEN = 0.01  # of the machine's time; a run from which more was taken counts as disturbed
PACE = 1.15  # so does one beside which full batches took longer than this times what was profiled

Records = list[dict[str, Any]]


def live_table(records: Records) -> Table:
    """A row per policy, in order of utility; `ours ÷ policy` is over the runs that nothing disturbed for either."""
    by_policy: dict[str, Records] = {}
    for record in records:
        by_policy.setdefault(record["policy"], []).append(record)
    ours = {_run(record): record for record in by_policy.get("ours", [])}
    table = Table(title="utility per request, and ratios [95 % over runs]")
    for name in ("policy", "runs", "live", "simulated", "alone", "simulated ÷ live", "within 5 %", "ours ÷ policy"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for policy, runs in sorted(by_policy.items(), key=lambda item: -_mean(item[1], "utility")):
        pairs = [(ours[_run(run)], run) for run in runs if _run(run) in ours]
        quiet = [(a["utility"], b["utility"]) for a, b in pairs if _quiet(a) and _quiet(b)]
        near = sum(abs(run["simulated"] / run["utility"] - 1.0) <= 0.05 for run in runs if run["utility"])
        table.add_row(
            policy,
            str(len(runs)),
            *(f"{_mean(runs, key):.3f}" for key in ("utility", "simulated", "simulated_alone")),
            ratio([(run["simulated"], run["utility"]) for run in runs]),
            f"{near} of {len(runs)}",
            "" if policy == "ours" else f"{ratio(quiet)} ({len(quiet)})",
        )
    return table


def disturbed(stolen: float, pace: float) -> float:
    """How much of the machine others had, of what is let pass: above 1 a run counts as disturbed."""
    return max(stolen / STOLEN, pace / PACE)


def ratio(pairs: list[tuple[float, float]]) -> str:
    """The sum of the first ÷ the sum of the second, with its bootstrap interval; a dash where there is nothing."""
    if not pairs:
        return "–"
    above, below = np.array(pairs).T
    low, high = bootstrap_interval(_of_sums, above, below, 0, DRAWS)
    return f"{_of_sums(above, below):.2f} \\[{low:.2f}, {high:.2f}]"


def _of_sums(above: Values, below: Values) -> float:
    return float(above.sum() / below.sum())


def _mean(runs: Records, key: str) -> float:
    return float(sum(run[key] for run in runs) / sum(run["requests"] for run in runs))


def _quiet(record: dict[str, Any]) -> bool:
    return disturbed(record["stolen"], record["pace"]) <= 1.0


def _run(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["trace"], record["load"], record["seed"]


def main() -> None:
    """Read, print."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "bench/results/live.json"
    Console(width=130).print(live_table(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
