"""How much a policy's simulated utility depends on what is measured badly: the machine outside of the encoder.

    python bench/live_sensitivity.py        # behind bench/live.py, on its build; a minute

The runs of live.json again, simulated with requests that take more of the machine (`host_ms` and `late_ms`), and with
batches that take longer: utility ÷ that of the simulation as it is, over all runs of a policy. A policy that loses much
has to be predicted badly on a machine whose spare time nobody knows to a tenth.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from foretold import again, pooled
from rich.console import Console
from rich.table import Table
from setting import from_plan
from traces import available

from elastriton.generator.config import load_config
from elastriton.generator.goals import plan_for

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build/live"
WORSE = {  # factors on host_ms, and on the encoder's time
    "host_ms × 1.1": (1.1, 1.0),
    "host_ms × 1.2": (1.2, 1.0),
    "batches × 1.1": (1.0, 1.1),
    "batches × 1.2": (1.0, 1.2),
}


def main() -> None:
    """Simulate, print."""
    plan = plan_for(load_config(BUILD / "elastriton.yaml"), BUILD)
    [scheduler] = plan.schedulers.values()
    sources = available()[0]
    records = json.loads((ROOT / "bench/results/live.json").read_text(encoding="utf-8"))
    setting = pooled(from_plan(scheduler), records)
    totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, (host, batches) in {"": (1.0, 1.0), **WORSE}.items():
        worse = replace(
            setting,
            host_ms=host * setting.host_ms,
            late_ms=host * setting.late_ms,
            slower=batches * setting.slower,
        )
        for record in records:
            totals[record["policy"]][name] += again(worse, sources, record).utility
    table = Table("policy", *WORSE, title="simulated utility ÷ simulated utility as it is")
    for served, found in totals.items():
        table.add_row(served, *(f"{found[name] / found['']:.3f}" for name in WORSE))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
