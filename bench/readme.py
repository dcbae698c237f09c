"""Write the README's measured tables from bench/results/*.json, so that no figure is typed by hand.

elastriton demo --json bench/results/demo.json && python bench/overhead.py && python bench/readme.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "bench/results"


def main() -> None:
    """Replace every marked section."""
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """The README with its marked sections rendered from the results."""
    demo = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))
    overhead = json.loads((RESULTS / "overhead.json").read_text(encoding="utf-8"))
    text = _put(text, "machine", f"{demo['machine']['cores']} cores of an {demo['machine']['cpu']}", inline=True)
    text = _put(text, "demo", demo_table(demo))
    return _put(text, "overhead", overhead_table(overhead))


def demo_table(demo: dict[str, Any]) -> str:
    """One row per task and phase, and the time of each step."""
    rows = [
        "| task | phase | in flight | answered | rejected | accuracy | p50 ms | p99 ms | samples by level γ |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name, task in demo["tasks"].items():
        for phase in ("http", "grpc", "burst"):
            one = task[phase]
            gammas = ", ".join(f"{gamma}: {count}" for gamma, count in one["gammas"].items())
            counts = f"{one['in_flight']} | {one['n']} | {one['rejected']} | {one['accuracy']:.1%}"
            rows.append(f"| {name} | {phase} | {counts} | {one['p50_ms']:.1f} | {one['p99_ms']:.1f} | {gammas} |")
        if "early_return_rate" in task:
            notes.append(f"The small model answered {task['early_return_rate']:.0%} of {name}.")
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in demo["steps_s"].items())
    return "\n".join([*rows, "", *notes, f"Seconds: {steps}. Triton {demo['triton_version']}."])


def overhead_table(overhead: dict[str, Any]) -> str:
    """Throughput of both sides, and their ratio."""
    names = {
        "bare": "bare executor, given pixels",
        "bare_with_decoding": "bare executor, decoding JPEGs",
        "triton": "through Triton, client included",
    }
    rows = ["| | images/s, median (lowest … highest) |", "|---|---|"]
    for key, name in names.items():
        rows.append(f"| {name} | {_spread(overhead['samples_per_s'][key], 0)} |")
    rows.append(f"| **through Triton ÷ bare** | **{_spread(overhead['triton_over_bare'], 2)}** |")
    return "\n".join(rows)


def _spread(values: dict[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} ({values['low']:.{digits}f} … {values['high']:.{digits}f})"


def _put(text: str, mark: str, content: str, *, inline: bool = False) -> str:
    body = content if inline else f"\n{content}\n"
    pattern = rf"(<!-- {mark} -->).*?(<!-- /{mark} -->)"
    return re.sub(pattern, lambda found: found[1] + body + found[2], text, flags=re.DOTALL)


if __name__ == "__main__":
    main()
