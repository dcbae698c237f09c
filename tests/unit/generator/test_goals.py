from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import ConfigError
from elastriton.core.records import dumps
from elastriton.generator.cached import load_cached
from elastriton.generator.config import Config, load_config
from elastriton.generator.goals import plan_for, planned


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


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        ("encoders.vit.levels", [-4, 0], "encoder vit"),
        ("encoders.bert.instances", 2, "encoder bert"),
        ("tasks.colour.data.samples", 10, "task colour"),
        ("tasks.warm.labels", ["warm", "cold"], "task warm"),
        ("tasks.intent.cascade.floor", 2, "task intent"),
        ("tasks.intent.cascade", None, "task intent"),
        ("seed", 1, "seed"),
    ],
)
def test_what_was_not_measured_so_is_not_planned(
    tiny_project: Path, tiny_build: Path, where: str, value: Any, named: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{named}: not configured as profiled; run `elastriton profile` again"):
        plan_for(changed(tiny_project, where, value), tiny_build)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("tasks.colour.slo_ms", 77),
        ("tasks.warm.utility", 2),
        ("tasks.intent.cascade.max_drop", 0.5),
        ("policy", "otas"),
    ],
)
def test_goals_may_change_behind_the_profile(tiny_project: Path, tiny_build: Path, where: str, value: Any) -> None:
    plan_for(changed(tiny_project, where, value), tiny_build)


def test_a_plan_of_an_older_profile_is_not_generated(tiny_project: Path, tiny_build: Path, tmp_path: Path) -> None:
    plan = plan_for(load_config(tiny_project / "elastriton.yaml"), tiny_build)
    (tmp_path / "plan.json").write_text(dumps(plan))
    with pytest.raises(ConfigError, match=r"profile\.json does not exist"):
        planned(tmp_path)
    shutil.copy(tiny_build / "profile.json", tmp_path)
    assert planned(tmp_path) == plan
    (tmp_path / "profile.json").write_text((tiny_build / "profile.json").read_text() + " ")
    with pytest.raises(ConfigError, match=r"plan\.json is of another profile; run `elastriton plan` again"):
        planned(tmp_path)


def changed(project: Path, where: str, value: Any) -> Config:
    """The project's configuration with one value changed."""
    config = json.loads((project / "elastriton.yaml").read_text())
    *path, last = where.split(".")
    part = config
    for key in path:
        part = part[key]
    part[last] = value
    return Config.model_validate(config)
