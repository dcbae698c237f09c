"""What the price of time brings, on more seeds than bench/policies.py has: `joint` over the same plan without it.

    python bench/price.py --processes 2                       # about ten minutes

A price is a premium: most runs pay a little of their accuracy for a burst that does not come, some gain much by one
that does. So a cell's five seeds say little of its mean, and here it has forty that nothing was chosen on. No bound and
no peers. Writes bench/results/price.json: by table and cell the ratio of utilities, summed over seeds, with its 95 %
bootstrap interval, and those of single runs (quartiles, least and most).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from policies import LOADS, Cell
from rich.progress import track
from setting import Setting, from_profile, synthetic
from simulator import simulate
from summary import Floats, interval
from traces import available

from elastriton.core.joint import Joint
from elastriton.generator.loads import make_load
from elastriton.generator.machine import this_machine

RESULTS = Path(__file__).parent / "results"
FIRST_SEED = 100  # behind all that anything was chosen on


def run(setting: Setting, requests: int, cell: Cell) -> tuple[float, float]:
    """The utility of one cell with the price and without."""
    load = make_load(available()[0][cell.trace], requests, cell.load * setting.capacity_per_s, cell.seed)
    items = setting.items(load.arrivals_s, cell.seed)
    priced, unpriced = (simulate(setting, items, Joint(priced=paid), cell.seed).utility for paid in (True, False))
    return priced, unpriced


def rows(cells: Sequence[Cell], utilities: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    """One row per trace and load, and one of the mean over them; `utilities` are with the price and without."""
    named = list(dict.fromkeys((cell.trace, cell.load) for cell in cells))
    pairs = np.array(utilities).reshape(len(named), -1, 2)  # [cells, seeds, (priced, unpriced)]
    found = [{"trace": trace, "load": load, **_ratio(pairs[[index]])} for index, (trace, load) in enumerate(named)]
    return [*found, {"trace": "mean", "load": None, **_ratio(pairs)}]


def _ratio(pairs: Floats) -> dict[str, Any]:
    def mean(seeds: Any) -> float:
        priced, unpriced = pairs[:, seeds].sum(axis=1).T
        return float((priced / unpriced).mean())

    ratio, low, high = interval(mean, pairs.shape[1])
    single = pairs[..., 0] / pairs[..., 1]
    return {
        "ratio": round(ratio, 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "single_runs": np.percentile(single, [0, 25, 50, 75, 100]).round(4).tolist(),
    }


def main() -> None:
    """Run all cells on both tables, write the result, print what loses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=1500, help="requests per run")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "price.json")
    arguments = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    cells = [Cell(trace, load, seed) for trace in available()[0] for load in LOADS for seed in seeds]
    settings = {"synthetic": synthetic(), "measured": from_profile(RESULTS / "sizes_profile.json")}
    result: dict[str, Any] = {"machine": asdict(this_machine()), "seeds": [*seeds], "requests": arguments.requests}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for name, setting in settings.items():
            work = partial(run, setting, arguments.requests)
            utilities = list(track(pool.map(work, cells, chunksize=8), name, total=len(cells)))
            result[name] = rows(cells, utilities)
            for row in sorted(result[name], key=lambda row: row["ratio"])[:6] + result[name][-1:]:
                print(name, row)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
