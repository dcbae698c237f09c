"""bench/gpu.py end to end with tiny models on the CPU: what it writes adds up, its peers compute the same features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import pytest
from gpu_cells import ways
from gpu_models import QUICK, SHAPES, save
from gpu_served import configuration, only
from spread import ratios, spread

from elastriton.core.latency import Cell
from elastriton.core.planner import make_plan
from elastriton.core.profile import Artifact, EncoderProfile, ImageSpec, Machine, Profile, TaskProfile
from elastriton.generator.config import load_config
from elastriton.generator.goals import goals
from elastriton.runtime.buckets import Buckets
from elastriton.runtime.torch_encoder import TorchEncoder


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("bench") / "gpu.json"
    gpu.main(["--quick", "--device", "cpu", "--no-served", "--output", str(output)])
    return json.loads(output.read_text(encoding="utf-8"))


def test_a_quick_run_measures_every_level_in_every_way(quick: Any) -> None:
    assert set(quick) == set(QUICK)
    for name, shape in QUICK.items():
        assert quick[name]["device"] == "cpu"
        assert quick[name]["precision"] == "fp32"
        assert quick[name]["machine"]["packages"]["torch"]
        cells = [(row["way"], row["gamma"], row["batch"], row["tokens"]) for row in quick[name]["rows"]]
        levels = [("eager", gamma) for gamma in shape.gammas] + [("whole", gamma) for gamma in shape.gammas]
        expected = [
            (way, gamma, batch, tokens)
            for way, gamma in [*levels, ("library", 0)]
            for batch in (1, 2)
            for tokens in shape.tokens
        ]
        assert sorted(cells) == sorted(expected)


def test_its_ratios_add_up(quick: Any) -> None:
    for result in quick.values():
        for row in result["rows"]:
            assert row["per_s"] == pytest.approx(1000 * row["batch"] / row["ms"]["median"], rel=1e-2)
            if row["gamma"] == 0:
                assert row["speed_up"] == {"median": 1.0, "low": 1.0, "high": 1.0}
                assert row["flop_ratio"] == 1.0
            else:
                assert (row["flop_ratio"] > 1.0) == (row["gamma"] < 0)
            quotient = row["speed_up"]["median"] / row["flop_ratio"]
            assert row["speed_up_over_flop_ratio"]["median"] == pytest.approx(quotient, rel=2e-3)
            if row["way"] == "library":
                assert row["over_library"]["median"] == 1.0


def test_where_a_level_pays_is_the_first_batch_beyond_its_interval() -> None:
    rows = [
        {"way": "graph", "tokens": 5, "gamma": gamma, "batch": batch, "speed_up": {"low": low}}
        for gamma, lows in ((-4, (0.9, 1.1, 1.2)), (-2, (0.8, 0.9, 1.0)), (0, (1.0, 1.0, 1.0)))
        for batch, low in zip((1, 8, 32), lows, strict=True)
    ]
    found = gpu.pays_from(rows[::-1])
    assert {row["gamma"]: row["batch"] for row in found} == {-4: 8, -2: None}


def test_a_ratio_says_how_many_times_faster() -> None:
    assert ratios([4.0, 6.0], [2.0, 2.0]) == [2.0, 3.0]


def test_an_interval_holds_its_median_and_leaves_out_the_tails() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}
    wide = spread(list(range(101)))
    assert wide["median"] == 50
    assert 35 < wide["low"] < 45
    assert 55 < wide["high"] < 65


@pytest.mark.parametrize("name", QUICK)
def test_the_library_computes_the_same_features_at_the_plain_level(name: str, tmp_path: Path) -> None:
    shape = QUICK[name]
    save(shape, tmp_path, seed=0)
    calls = ways(TorchEncoder(tmp_path, shape.kind, buckets=Buckets((4,), shape.lengths)), shape, 3, shape.tokens[-1])
    np.testing.assert_allclose(calls["library", 0](), calls["eager", 0](), atol=1e-5)
    np.testing.assert_allclose(calls["whole", 0](), calls["eager", 0](), atol=1e-5)


def test_a_run_that_is_no_result_is_not_written_among_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    with pytest.raises(SystemExit):
        gpu.main(["--quick", "--device", "cpu", "--no-served", "--output", str(tmp_path / "gpu.json")])
    assert "are no results" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu"])
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("name", SHAPES)
def test_the_flops_of_the_measured_shapes(name: str) -> None:
    """Multiply-adds as published: ViT-B/16 17.6 G and ViT-L/16 61.6 G; RoBERTa-large 2 FLOPs a weight and token."""
    shape = SHAPES[name]
    level = next(level for level in shape.levels if level.gamma == 0)
    published = {"vit_b16": 2 * 17.58e9, "vit_l16": 2 * 61.6e9, "roberta_large": 2 * 302e6 * 128}[name]
    saved = 1 / shape.depth  # the last block computes CLS alone
    assert shape.flops(level, shape.tokens[0]) == pytest.approx(published * (1 - saved * 0.9), rel=0.05)


def test_the_served_configuration_is_valid_and_a_plan_can_be_held_to_one_level(tmp_path: Path) -> None:
    shape = QUICK["tiny_vit"]
    save(shape, tmp_path, seed=0)
    config = load_config(configuration(shape, "bf16", [2, 1], tmp_path))
    assert config.encoders["encoder"].precision == "bf16"
    cells = tuple(Cell(gamma, 17, batch, 1.0 - gamma, 2.0 - gamma, 15) for gamma in (-4, 0) for batch in (1, 2))
    encoder = EncoderProfile(
        "vision",
        "torch",
        "torch",
        17,
        3,
        24,
        Artifact("encoder", ""),
        shape.levels[:2],
        cells,
        ImageSpec(32, 32, 32, "bicubic"),
        precision="bf16",
    )
    task = TaskProfile("encoder", "classification", ("yes", "no"), Artifact("head", ""), 1, 1.0, 0)
    measured = Profile(1, "", 0, Machine("", 1, 1.0, None, "", {}), {"encoder": encoder}, {"task": task}, {})
    plan = only(make_plan(measured, "", goals(config)), measured, -4)
    [executor], [scheduler] = plan.executors.values(), plan.schedulers.values()
    assert (executor.precision, executor.runtime) == ("bf16", "torch")
    assert [level.gamma for level in executor.levels] == [-4]
    assert {cell.gamma for cell in scheduler.latency} == {-4}
    assert [point.gamma for point in scheduler.tasks["task"].accuracy] == [-4]
    scheduler.outlook()
