"""What word pruning takes from real texts, and what that costs and saves: every scale on every labelled sample.

    python bench/cascade_models.py sst2 qnli rte       # first: data and models
    python bench/pruning.py                            # some minutes a task; writes bench/results/pruning.json
    python bench/pruning.py --task sst2 --floor 1      # down to one word a text; results are kept side by side

The small model's attention prunes each text, and the large model reads what is left (`elastriton profile` with many
scales and a bound that stops none). Figures are over all labelled samples, as if all were re-routed: the share of words
that go, tokens before and after, the large model's accuracy with the paired difference to whole texts and its 95 %
interval, and its time alone at batch 1 by the measured latency of its lengths.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from cascade_tasks import ROOT, write_project
from rich.console import Console

from elastriton.core.latency import LatencyTable
from elastriton.core.profile import load_profile
from elastriton.generator.cached import load_cached
from elastriton.generator.config import load_config
from elastriton.generator.machine import this_machine
from elastriton.generator.profiler import profile
from elastriton.generator.search import item_ms
from elastriton.generator.show import steps

SCALES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4)

console = Console(width=140)


def main() -> None:
    """Profile every task with all scales and write a record per task and scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/cascades")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/pruning.json")
    parser.add_argument("--task", nargs="*", default=("sst2", "qnli", "rte"))
    parser.add_argument("--scales", nargs="*", type=float, default=SCALES)
    parser.add_argument("--floor", type=int, default=4, help="words that stay of every text")
    arguments = parser.parse_args()
    output: Path = arguments.output
    records: list[dict[str, Any]] = json.loads(output.read_text())["records"] if output.exists() else []
    for task in arguments.task:
        found = by_scale(task, arguments.build, arguments.scales, arguments.floor)
        records = [one for one in records if (one["task"], one["floor"]) != (task, arguments.floor)] + found
        for one in found:
            console.print(
                f"{task:6} scale {one['scale']:.1f}  words cut {one['words_cut']:6.1%}  tokens {one['tokens']:5.1f} of "
                f"{one['tokens_whole']:5.1f}  accuracy {one['accuracy']:.4f} ({one['difference']:+.4f})  "
                f"time {one['time_ratio']:.2f}"
            )
        result = {"machine": asdict(this_machine()), "records": records}
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def by_scale(task: str, build: Path, scales: Sequence[float], floor: int) -> list[dict[str, Any]]:
    """A record per scale."""
    path = write_project(task, build, "pruned", scales, 0.99, floor)
    output = path.parent / "build"
    output.mkdir(exist_ok=True)
    with steps(f"profile of {task}") as advance:
        profile(load_config(path), path.parent, output, budget_s=0.1, advance=advance)
    measured = load_profile(output / "profile.json")
    cascade = measured.tasks[task].cascade
    assert cascade is not None
    cached = load_cached(output / cascade.cached.path)
    table = LatencyTable(measured.encoders[measured.tasks[task].encoder].latency)
    small = max(number for number, _ in cached.pruned)
    whole = cached.large.logits.argmax(-1) == cached.truth
    records = []
    for (number, rule), answers in sorted(cached.pruned.items()):
        if number != small:
            continue
        right = answers.logits.argmax(-1) == cached.truth
        difference = right.astype(float) - whole
        margin = 1.96 * float(difference.std()) / np.sqrt(len(cached))
        records.append(
            {
                "task": task,
                "floor": floor,
                "scale": cascade.rules[rule].scale,
                "words_cut": float(cached.words_cut[number, rule].mean()),
                "tokens_whole": float(cached.large.tokens.mean()),
                "tokens": float(answers.tokens.mean()),
                "accuracy": float(right.mean()),
                "difference": float(difference.mean()),
                "difference_interval": [float(difference.mean()) - margin, float(difference.mean()) + margin],
                "time_ratio": float(item_ms(table, answers.tokens).mean() / item_ms(table, cached.large.tokens).mean()),
                "n": len(cached),
            }
        )
    return records


if __name__ == "__main__":
    main()
