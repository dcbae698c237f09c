from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from elastriton.core.errors import ConfigError
from elastriton.generator.cached import load_cached
from elastriton.generator.config import load_config
from elastriton.generator.goals import plan_for


def test_a_measured_project_is_planned_with_its_cascades(tiny_project: Path, tiny_build: Path) -> None:
    plan = plan_for(load_config(tiny_project / "elastriton.yaml"), tiny_build)
    for task in ("intent", "similarity"):
        assert any(note.startswith(f"{task}: ") for note in plan.notes)
    cached = load_cached(tiny_build / "intent_cascade")
    assert (len(cached), len(cached.small), set(cached.pruned)) == (30, 1, {(0, 0)})
    np.testing.assert_array_equal(cached.words_cut[0, 0], 0.5)


def test_answers_that_are_not_those_that_were_profiled_are_refused(
    tiny_project: Path, tiny_build: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "build"
    shutil.copytree(tiny_build, copy)
    (copy / "intent_cascade" / "more").write_text("")
    with pytest.raises(ConfigError, match="is not what was profiled"):
        plan_for(load_config(tiny_project / "elastriton.yaml"), copy)
