"""The README's measured tables are those of bench/results."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_figure_is_typed_by_hand() -> None:
    filled = runpy.run_path(str(ROOT / "bench/readme.py"))["filled"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(text) == text, "run python bench/readme.py"
