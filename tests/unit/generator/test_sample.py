"""model_repository/ is what the generator renders today for the demo's committed plan."""

from __future__ import annotations

import runpy
from pathlib import Path

from elastriton.core.records import dumps
from elastriton.generator.repository import texts

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "model_repository"


def test_the_sample_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "examples/render_sample.py"))
    plan = script["sample_plan"]()
    whole = script["PLAN"].read_text(encoding="utf-8") == dumps(plan)
    assert whole, "the plan lacks fields that a new one has: copy that of `make demo` here"
    there = {
        path.relative_to(SAMPLE).as_posix(): path.read_text(encoding="utf-8")
        for path in SAMPLE.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert there == texts(plan), "render it again: python examples/render_sample.py"
