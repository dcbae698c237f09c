"""All policies on the same loads in one event simulator, beside the clairvoyant bound.

    python bench/policies.py                                  # about half an hour on one core, most of it for the bound
    python bench/policies.py --quick                          # a few cells
    python bench/policies.py --profile build/demo/profile.json --processes 2

A cell is a trace at a mean load, in multiples of what level 0 can keep up with, with a seed for arrivals, tasks and
noise; every policy meets the same cell. Writes bench/results/policies.json, a list of one record per policy and cell
(the bound is the policy `clairvoyant`), and policies_meta.json beside it; bench/plots.py draws them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bound import clairvoyant
from peers import INFaaS, policies
from rich.console import Console
from rich.progress import track
from setting import Setting, from_profile, resident_sizes, synthetic
from simulator import simulate
from summary import summarise
from traces import available

from elastriton.generator.loads import make_load
from elastriton.generator.machine import this_machine

ROOT = Path(__file__).parents[1]
LOADS = (0.2, 0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5)
QUICK_LOADS = (0.5, 1.25, 2.0)

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One trace at one load with one seed."""

    trace: str
    load: float
    seed: int


def run_cell(setting: Setting, sizes: Setting | None, requests: int, cell: Cell) -> tuple[list[Record], Record]:
    """The records of all policies and the bound, and what is worth knowing about the cell beside them."""
    load = make_load(available()[0][cell.trace], requests, cell.load * setting.capacity_per_s, cell.seed)
    items = setting.items(load.arrivals_s, cell.seed)
    started = time.perf_counter()
    bound = clairvoyant(setting, items)
    notes = {**asdict(cell), "requests": len(items), "stretch": load.stretch, "bound_s": time.perf_counter() - started}
    records: list[Record] = []
    levels, decision_ms = {}, {}
    served = {name: (setting, make) for name, make in policies(setting).items()}
    if sizes is not None:
        served["infaas-models"] = sizes, partial(INFaaS, sizes)
    for name, (place, make) in served.items():
        outcome = simulate(place, items, make(), cell.seed)
        levels[name] = outcome.levels
        decision_ms[name] = [round(outcome.decision_mean_ms, 4), round(outcome.decision_p99_ms, 4)]
        records.append(
            {
                **asdict(cell),
                "policy": name,
                "utility": outcome.utility,
                "on_time": outcome.on_time,
                "accuracy": outcome.accuracy,
                "p50_ms": outcome.p50_ms,
                "p99_ms": outcome.p99_ms,
                "dropped": outcome.dropped,
                "fraction_of_bound": outcome.utility / bound,
            }
        )
    unknown = dict.fromkeys(("on_time", "accuracy", "p50_ms", "p99_ms", "dropped"))
    records.append({**asdict(cell), "policy": "clairvoyant", "utility": bound, **unknown, "fraction_of_bound": 1.0})
    return records, {**notes, "levels": levels, "decision_mean_p99_ms": decision_ms}


def main() -> None:
    """Run all cells, write the results, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, help="a measured profile.json; default: a synthetic table")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/policies.json")
    parser.add_argument("--requests", type=int, default=1500, help="requests per cell")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="three loads, two seeds")
    arguments = parser.parse_args()
    setting = from_profile(arguments.profile) if arguments.profile else synthetic()
    sizes = resident_sizes(arguments.profile) if arguments.profile else None
    traces, notes = available()
    if sizes is None:
        notes = [*notes, "infaas-models is left out: the profile has no further model sizes (bench/sizes.py makes one)"]
    seeds = range(2 if arguments.quick else arguments.seeds)
    loads = QUICK_LOADS if arguments.quick else LOADS
    cells = [Cell(trace, load, seed) for trace in traces for load in loads for seed in seeds]
    console = Console(width=130)
    console.print(f"[bold]profile[/] {setting.source}", *notes, sep="\n")
    started = time.perf_counter()
    results = list(_run(setting, sizes, arguments.requests, cells, arguments.processes))
    records = [record for part, _ in results for record in part]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    meta = {
        "profile": setting.source,
        "tasks": [asdict(task) for task in setting.tasks],
        "accuracy": setting.accuracy,
        "capacity_per_s": setting.capacity_per_s,
        "machine": asdict(this_machine()),
        "seeds": list(seeds),
        "requests": arguments.requests,
        "notes": [*notes],
        "took_s": time.perf_counter() - started,
        "cells": [cell for _, cell in results],
    }
    meta_path = arguments.output.with_name(f"{arguments.output.stem}_meta.json")
    meta_path.write_text(json.dumps(meta) + "\n", encoding="utf-8")
    for table in summarise(records):
        console.print(table)
    console.print(f"wrote {arguments.output} and {meta_path.name} in {meta['took_s']:.0f} s")


def _run(
    setting: Setting, sizes: Setting | None, requests: int, cells: list[Cell], processes: int
) -> Iterator[tuple[list[Record], Record]]:
    work = partial(run_cell, setting, sizes, requests)
    if processes == 1:
        yield from (work(cell) for cell in track(cells, "cells"))
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from track(pool.map(work, cells), "cells", total=len(cells))


if __name__ == "__main__":
    main()
