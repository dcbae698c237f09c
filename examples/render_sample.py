"""Render model_repository/, the sample: every text file that `elastriton generate` writes for the demo's profile.

    python examples/render_sample.py         (the profile is the one that a real `make demo` left in examples/demo)

Graphs and weights are left out: the sample is for reading. tests/unit/generator/test_sample.py renders it again.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from elastriton.core.plan import Plan
from elastriton.core.planner import make_plan
from elastriton.core.profile import load_profile
from elastriton.generator.config import load_config
from elastriton.generator.goals import goals
from elastriton.generator.repository import texts

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "examples/demo/profile.json"
SAMPLE = ROOT / "model_repository"


def sample_plan() -> Plan:
    """The plan of the committed profile."""
    settings = load_config(ROOT / "examples/demo/elastriton.yaml")
    return make_plan(load_profile(PROFILE), hashlib.sha256(PROFILE.read_bytes()).hexdigest(), goals(settings))


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
