"""On a CUDA device, eager torch gives what ONNX Runtime gives on the CPU, at every level."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from elastriton.core.plan import Plan
from elastriton.core.records import load
from elastriton.runtime.executor import example_inputs, load_executor

pytestmark = pytest.mark.gpu


def test_cuda_equals_the_exported_graphs(tmp_path: Path, tiny_build: Path, tiny_vit: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    folder = tmp_path / "build"
    shutil.copytree(tiny_build, folder)
    shutil.copytree(tiny_vit, folder / "vit" / "torch")
    plan = load(Plan, folder / "plan.json").executors["vit_executor"]
    here, there = load_executor(plan, folder), load_executor(replace(plan, runtime="torch"), folder, "cuda:0")
    inputs = example_inputs(plan.image, 5, 0)
    for gamma in here.levels:
        expected = here.logits(inputs, ["colour"] * 5, gamma)
        assert np.nan_to_num(there.logits(inputs, ["colour"] * 5, gamma)) == pytest.approx(
            np.nan_to_num(expected), abs=1e-3
        )
