from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elastriton.core.errors import InvalidInput
from elastriton.core.levels import TokenLevel
from elastriton.core.plan import Plan
from elastriton.core.profile import load_profile
from elastriton.core.records import load
from elastriton.runtime.executor import Arrays, ElasticExecutor, Floats, example_inputs, load_executor
from elastriton.runtime.heads import TaskHead, load_head
from elastriton.runtime.onnx_encoder import OnnxEncoder

GAMMAS = (-4, -2, 0, 2, 4)


class SpyEncoder:
    """Features are the inputs' own rows; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def features(self, inputs: Arrays, level: TokenLevel) -> Floats:
        self.asked.append((level.gamma, len(inputs["pixels"])))
        if level.prompts:
            assert inputs["prompts"].shape == (len(inputs["pixels"]), 1, level.prompts, 3)
        return inputs["pixels"].astype(np.float32)


def head(task: str, classes: int, prompts: int = 0) -> TaskHead:
    generator = np.random.default_rng(classes)
    weight, bias = generator.normal(size=(classes, 3)), generator.normal(size=classes)
    deep = generator.normal(size=(1, prompts, 3)).astype(np.float32) if prompts else None
    return TaskHead(task, weight.astype(np.float32), bias.astype(np.float32), deep)


HEADS = {"two": head("two", 2), "four": head("four", 4, prompts=5)}
LEVELS = (TokenLevel(0), TokenLevel(2, prompts=2))


def spied() -> tuple[SpyEncoder, ElasticExecutor]:
    encoder = SpyEncoder()
    return encoder, ElasticExecutor(encoder, HEADS, LEVELS, max_batch=4)


def rows(n: int) -> Arrays:
    return {"pixels": np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)}


def test_each_row_gets_its_own_task_s_head_and_minus_infinity_beyond_its_classes() -> None:
    inputs = rows(3)
    logits = spied()[1].logits(inputs, ["two", "four", "two"], 0)
    assert logits.shape == (3, 4)
    assert np.isneginf(logits[[0, 2], 2:]).all()
    for row, task in enumerate(["two", "four", "two"]):
        expected = HEADS[task].weight @ inputs["pixels"][row] + HEADS[task].bias
        np.testing.assert_allclose(logits[row, : len(expected)], expected, rtol=1e-5)


def test_what_the_encoder_cannot_run_is_refused_before_it_is_asked() -> None:
    encoder, executor = spied()
    with pytest.raises(InvalidInput, match=r"level 7 is unknown; this encoder has \[0, 2\]"):
        executor.logits(rows(1), ["two"], 7)
    with pytest.raises(InvalidInput, match="batch has 5 samples, at most 4"):
        executor.logits(rows(5), ["two"] * 5, 0)
    with pytest.raises(InvalidInput, match="task 'three' is unknown; this encoder serves four, two"):
        executor.logits(rows(2), ["two", "three"], 0)
    with pytest.raises(InvalidInput, match="task 'two' has too few trained prompts for level 2"):
        executor.logits(rows(2), ["four", "two"], 2)
    assert encoder.asked == []


def test_warming_up_runs_every_level_alone_and_in_a_full_batch_with_a_task_that_can() -> None:
    encoder, executor = spied()
    executor.warm_up([rows(1), rows(4)])
    assert encoder.asked == [(0, 1), (2, 1), (0, 4), (2, 4)]
    without_prompts = ElasticExecutor(encoder, {"two": HEADS["two"]}, LEVELS, max_batch=4)
    encoder.asked.clear()
    without_prompts.warm_up([rows(1), rows(4)])
    assert encoder.asked == [(0, 1), (0, 4)]


@pytest.fixture(scope="module")
def vision(tiny_build: Path) -> ElasticExecutor:
    profile = load_profile(tiny_build / "profile.json")
    heads = {task: load_head(tiny_build / profile.tasks[task].head.path, task) for task in ("colour", "warm")}
    return ElasticExecutor(OnnxEncoder(tiny_build / "vit", GAMMAS, 1), heads, profile.encoders["vit"].levels, 8)


@pytest.mark.parametrize("gamma", [-4, -2, 0])
def test_mixed_tasks_in_one_real_batch_equal_each_alone(vision: ElasticExecutor, gamma: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    tasks = ["colour", "warm", "warm", "colour", "colour", "warm"]
    together = vision.logits({"pixels": pixels}, tasks, gamma)
    for row, task in enumerate(tasks):
        alone = vision.logits({"pixels": pixels[row : row + 1]}, [task], gamma)
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)
        assert np.isfinite(together[row]).sum() == len(vision.heads[task].bias)


def test_a_real_task_without_prompts_is_refused_at_prompted_levels_only(vision: ElasticExecutor) -> None:
    inputs: Arrays = {"pixels": np.zeros((2, 32, 32, 3), np.uint8)}
    assert vision.logits(inputs, ["colour", "colour"], 4).shape == (2, 3)
    with pytest.raises(InvalidInput, match="'warm' has too few trained prompts"):
        vision.logits(inputs, ["colour", "warm"], 4)


def test_the_executors_of_a_plan_load_and_run(tiny_build: Path) -> None:
    plan = load(Plan, tiny_build / "plan.json")
    for executor_plan in plan.executors.values():
        executor = load_executor(executor_plan, tiny_build)
        assert executor.classes == executor_plan.classes
        inputs = example_inputs(executor_plan.image, 2, 8)
        task = next(iter(executor_plan.heads))
        assert executor.logits(clipped(inputs), [task] * 2, 0).shape == (2, executor_plan.classes)


def clipped(inputs: Arrays) -> Arrays:
    """Token ids within the tiny vocabulary."""
    return {name: np.minimum(array, 16) if name == "input_ids" else array for name, array in inputs.items()}


def test_example_inputs_have_the_shapes_and_types_of_real_ones(tiny_build: Path) -> None:
    image = load_profile(tiny_build / "profile.json").encoders["vit"].image
    pixels = example_inputs(image, 2, 99)["pixels"]
    assert (pixels.shape, str(pixels.dtype)) == ((2, 32, 32, 3), "uint8")
    texts = example_inputs(None, 3, 7)
    assert texts.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert all((array.shape, str(array.dtype)) == ((3, 7), "int64") for array in texts.values())
