"""On a CUDA device: what ONNX Runtime and torch give on the CPU, at every level, in every bucket, in any order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import InvalidInput
from elastriton.core.levels import TokenLevel, constant_level
from elastriton.core.plan import Plan
from elastriton.core.profile import Precision
from elastriton.core.records import load
from elastriton.runtime.buckets import Buckets
from elastriton.runtime.executor import Arrays, example_inputs, load_executor, warm_up_examples
from elastriton.runtime.files import TORCH_FOLDER

pytestmark = pytest.mark.gpu

CUDA = "cuda:0"
BOUND = {"fp32": 1e-4, "fp16": 4e-3, "bf16": 3e-2}
"""Of the features' relative error at level 0 against float32 on the CPU."""
Make = Callable[..., Any]


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    """Of the session, so that it comes before what takes long to build."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


@pytest.fixture
def vision(tmp_path: Path, tiny_vit: Path) -> Make:
    """Makes TorchEncoders of the tiny ViT: `vision(device, precision, buckets)`."""
    from elastriton.runtime.torch_encoder import TorchEncoder

    shutil.copytree(tiny_vit, tmp_path / "vision" / TORCH_FOLDER)
    return lambda *more: TorchEncoder(tmp_path / "vision", "vision", *more)


@pytest.fixture
def text(tmp_path: Path, tiny_bert: Any) -> Make:
    """Makes TorchEncoders of a tiny BERT: `text(device, precision, buckets)`."""
    from elastriton.runtime.torch_encoder import TorchEncoder

    shutil.copytree(tiny_bert("on a gpu", layers=3), tmp_path / "text" / TORCH_FOLDER)
    return lambda *more: TorchEncoder(tmp_path / "text", "text", *more)


def images(batch: int, level: TokenLevel, seed: int = 0) -> Arrays:
    generator = np.random.default_rng([seed, batch])
    inputs: Arrays = {"pixels": generator.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)}
    if level.prompts:
        inputs["prompts"] = generator.normal(size=(batch, 3, level.prompts, 24)).astype(np.float32)
    return inputs


def texts(batch: int, longest: int, seed: int = 0) -> Arrays:
    """A padded batch of random texts, the first of them `longest` tokens long."""
    generator = np.random.default_rng([seed, batch, longest])
    ids = np.zeros((batch, longest), np.int64)
    for row, n in enumerate([longest, *generator.integers(3, longest + 1, batch - 1)]):
        ids[row, :n] = [2, *generator.integers(4, 17, n - 2), 3]
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": np.zeros_like(ids)}


def error(features: Any, exact: Any) -> float:
    assert features.shape == exact.shape
    assert features.dtype == np.float32
    return float(np.linalg.norm(features - exact) / np.linalg.norm(exact))


def test_cuda_equals_the_exported_graphs(tmp_path: Path, tiny_build: Path, tiny_vit: Path) -> None:
    folder = tmp_path / "build"
    shutil.copytree(tiny_build, folder)
    shutil.copytree(tiny_vit, folder / "vit" / TORCH_FOLDER)
    plan = load(Plan, folder / "plan.json").executors["vit_executor"]
    here, there = load_executor(plan, folder), load_executor(replace(plan, runtime="torch"), folder, CUDA)
    there.warm_up(warm_up_examples(replace(plan, runtime="torch"), CUDA))
    inputs = example_inputs(plan.image, 5, 0)
    for gamma in here.levels:
        expected = here.logits(inputs, ["colour"] * 5, gamma)
        assert np.nan_to_num(there.logits(inputs, ["colour"] * 5, gamma)) == pytest.approx(
            np.nan_to_num(expected), abs=1e-3
        )


@pytest.mark.parametrize("gamma", [-4, 0, 4])
def test_a_replay_is_right_for_every_size_of_images(vision: Make, gamma: int) -> None:
    level, buckets = constant_level(gamma, 3), Buckets.up_to(6)
    exact, graphs = vision(), vision(CUDA, "fp32", buckets)
    for seed in (0, 1):  # captures, then replays with other data
        for batch in (6, 5, 4, 3, 2, 1):
            inputs = images(batch, level, seed)
            assert error(graphs.features(inputs, level), exact.features(inputs, level)) < BOUND["fp32"]
    with pytest.raises(InvalidInput, match="at most 6"):
        graphs.features(images(7, level), level)


@pytest.mark.parametrize("gamma", [-20, 0])
def test_a_replay_is_right_for_every_size_and_length_of_texts(text: Make, gamma: int) -> None:
    level, buckets = constant_level(gamma, 3), Buckets.up_to(4, [8, 16])
    exact, graphs = text(), text(CUDA, "fp32", buckets)
    for seed in (0, 1):
        for batch in (4, 3, 2, 1):
            for longest in (16, 11, 8, 5):
                inputs = texts(batch, longest, seed)
                assert error(graphs.features(inputs, level), exact.features(inputs, level)) < BOUND["fp32"]


def test_levels_that_alternate_do_not_disturb_each_other(vision: Make) -> None:
    exact, graphs = vision(), vision(CUDA, "fp32", Buckets((1, 4)))
    for turn in range(6):
        for gamma, batch in ((-4, 3), (0, 4), (4, 1), (-4, 1), (0, 2)):
            level = constant_level(gamma, 3)
            inputs = images(batch, level, turn)
            assert error(graphs.features(inputs, level), exact.features(inputs, level)) < BOUND["fp32"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("graphs", [False, True])
def test_the_plain_level_is_within_the_precision_s_bound(
    vision: Make, text: Make, precision: Precision, graphs: bool
) -> None:
    level = constant_level(0, 3)
    pictures, sentences = images(5, level), texts(5, 13)
    seen = vision(CUDA, precision, Buckets.up_to(8) if graphs else None)
    assert error(seen.features(pictures, level), vision().features(pictures, level)) < BOUND[precision]
    read = text(CUDA, precision, Buckets.up_to(8, [16]) if graphs else None)
    assert error(read.features(sentences, level), text().features(sentences, level)) < BOUND[precision]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_graph_gives_what_the_same_kernels_give_eagerly(vision: Make, text: Make, precision: Precision) -> None:
    """At merging levels too, where half precision may tip a near-tie and no CPU can tell the result."""
    for level in (constant_level(gamma, 3) for gamma in (-4, 0, 4)):
        inputs = images(4, level)
        exact = vision(CUDA, precision).features(inputs, level)
        np.testing.assert_array_equal(vision(CUDA, precision, Buckets((4,))).features(inputs, level), exact)
    for level in (constant_level(gamma, 3) for gamma in (-20, 0)):
        inputs = texts(4, 16)
        exact = text(CUDA, precision).features(inputs, level)
        np.testing.assert_array_equal(text(CUDA, precision, Buckets((4,), (16,))).features(inputs, level), exact)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_size_bias_stays_in_fused_attention(vision: Make, text: Make, precision: Precision) -> None:
    """SDPA raises where the only allowed kernel cannot take the bias; no number of keys here is a multiple of 8.

    And it is the kernel that SDPA takes of itself: cuDNN's would plan for every shape anew.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from elastriton.runtime.torch_encoder import DTYPES

    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
        level = constant_level(-2, 3)
        assert np.isfinite(vision(CUDA, precision).features(images(3, level), level)).all()
        level = constant_level(-20, 3)
        assert np.isfinite(text(CUDA, precision).features(texts(3, 13), level)).all()
    heads = torch.zeros(3, 3, 13, 8, device=CUDA, dtype=DTYPES[precision])
    bias = torch.zeros(3, 1, 1, 13, device=CUDA, dtype=DTYPES[precision])
    chosen = torch._fused_sdp_choice(heads, heads, heads, bias)
    assert chosen == SDPBackend.EFFICIENT_ATTENTION.value


def test_all_graphs_share_one_pool(vision: Make) -> None:
    """Eight levels' graphs take little more than one's: the same memory is used again."""
    import torch

    def reserved_by(gammas: tuple[int, ...]) -> int:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        encoder = vision(CUDA, "fp16", Buckets.up_to(64))
        for batch in (64, 32, 16, 8, 4, 2, 1):
            for level in (constant_level(gamma, 3) for gamma in gammas):
                encoder.features(images(batch, level), level)
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved() - before

    reserved_by((0,))  # libraries keep workspaces of the first run
    segment = 2 * 1024**2  # what torch takes from the device at a time
    assert reserved_by((-7, -6, -5, -4, -3, -2, -1, 0)) < 2 * reserved_by((0,)) + 2 * segment
