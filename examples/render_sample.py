"""Render model_repository/, the sample: every text file that `elastriton generate` writes for the demo's plan.

    python examples/render_sample.py         (the plan is the one that a real `make demo` left in build/demo)

Graphs and weights are left out: the sample is for reading. tests/unit/generator/test_sample.py renders it again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from elastriton.core.plan import Plan
from elastriton.core.records import load
from elastriton.generator.repository import texts

ROOT = Path(__file__).parents[1]
PLAN = ROOT / "examples/demo/plan.json"
SAMPLE = ROOT / "model_repository"


def sample_plan() -> Plan:
    """The committed plan."""
    return load(Plan, PLAN)


def main() -> None:
    """Replace the sample."""
    for folder in SAMPLE.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    for path, text in texts(sample_plan()).items():
        (SAMPLE / path).parent.mkdir(parents=True, exist_ok=True)
        (SAMPLE / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
