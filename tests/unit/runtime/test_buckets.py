from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import InvalidInput
from elastriton.core.levels import TokenLevel, constant_level
from elastriton.core.plan import ExecutorPlan
from elastriton.core.profile import Artifact, ImageSpec, TextSpec
from elastriton.runtime.buckets import Buckets
from elastriton.runtime.executor import Arrays, graph_buckets, warm_up_examples
from elastriton.runtime.files import TORCH_FOLDER
from elastriton.runtime.torch_encoder import TorchEncoder

TEXT = Buckets((1, 4), (8, 16))


def texts(*lengths: int) -> Arrays:
    """A padded batch of random texts of the tiny models' vocabulary: CLS (2) words SEP (3)."""
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, n in enumerate(lengths):
        ids[row, :n] = [2, *np.random.default_rng(row).integers(4, 17, n - 2), 3]
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize(
    ("max_batch", "batches"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9))]
)
def test_batches_are_powers_of_two_and_the_largest(max_batch: int, batches: tuple[int, ...]) -> None:
    assert Buckets.up_to(max_batch).batches == batches


def test_every_shape_comes_once_and_the_largest_first() -> None:
    assert Buckets.up_to(4, [32, 16]).shapes() == [(4, 32), (2, 32), (1, 32), (4, 16), (2, 16), (1, 16)]
    assert Buckets.up_to(2).shapes() == [(2, 0), (1, 0)]


def test_between_the_sizes_that_are_measured_time_is_flat() -> None:
    buckets = Buckets.up_to(16)
    steps = buckets.steps()
    assert steps == (1, 2, 3, 4, 5, 8, 9, 16)

    def bucket(batch: int) -> int:
        return len(buckets.pad({"pixels": np.zeros((batch, 1), np.uint8)})["pixels"])

    for batch in range(1, 17):
        nearest = [bucket(min(step for step in steps if step >= batch)), bucket(max(s for s in steps if s <= batch))]
        assert nearest == [bucket(batch)] * 2


def test_padding_repeats_the_first_sample_and_masks_the_new_tokens() -> None:
    padded = TEXT.pad(texts(5, 9, 7))
    assert {array.shape for array in padded.values()} == {(4, 16)}
    np.testing.assert_array_equal(padded["attention_mask"].sum(axis=1), [5, 9, 7, 5])
    np.testing.assert_array_equal(padded["input_ids"][3], padded["input_ids"][0])
    images = Buckets((1, 4)).pad({"pixels": np.arange(6, dtype=np.uint8).reshape(3, 2), "prompts": np.ones((3, 1))})
    np.testing.assert_array_equal(images["pixels"], [[0, 1], [2, 3], [4, 5], [0, 1]])
    assert images["prompts"].shape == (4, 1)
    assert images["pixels"].dtype == np.uint8


def test_what_fits_is_not_copied_and_what_fits_nowhere_is_refused() -> None:
    inputs = texts(*[8] * 4)
    assert all(padded is array for padded, array in zip(TEXT.pad(inputs).values(), inputs.values(), strict=True))
    with pytest.raises(InvalidInput, match="the batch has 5 samples, at most 4"):
        TEXT.pad(texts(*[8] * 5))
    with pytest.raises(InvalidInput, match="the longest text has 17 tokens, at most 16"):
        TEXT.pad(texts(17))


@pytest.mark.parametrize("gamma", [-20, 0, 2])
def test_padding_changes_no_text(text_project: Path, tiny_bert: Any, tmp_path: Path, gamma: int) -> None:
    (tmp_path / TORCH_FOLDER).symlink_to(tiny_bert("levels of text", layers=3))
    encoder = TorchEncoder(tmp_path, "text")
    inputs, level = texts(5, 9, 13), constant_level(gamma, 3)
    if gamma > 0:
        inputs["prompts"] = np.random.default_rng(0).normal(size=(3, 3, gamma, 24)).astype(np.float32)
    np.testing.assert_allclose(
        encoder.features(TEXT.pad(inputs), level)[:3], encoder.features(inputs, level), atol=1e-5
    )


@pytest.mark.parametrize("gamma", [-4, 0, 2])
def test_padding_changes_no_image(tiny_vit: Path, tmp_path: Path, gamma: int) -> None:
    (tmp_path / TORCH_FOLDER).symlink_to(tiny_vit)
    encoder, generator = TorchEncoder(tmp_path, "vision"), np.random.default_rng(0)
    inputs: Arrays = {"pixels": generator.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)}
    if gamma > 0:
        inputs["prompts"] = generator.normal(size=(3, 3, gamma, 24)).astype(np.float32)
    level = constant_level(gamma, 3)
    np.testing.assert_allclose(
        encoder.features(Buckets((4,)).pad(inputs), level)[:3], encoder.features(inputs, level), atol=1e-5
    )


def plan(runtime: Any, **changes: Any) -> ExecutorPlan:
    nowhere = Artifact("nowhere", "")
    return ExecutorPlan(changes.pop("kind", "text"), runtime, nowhere, {}, (TokenLevel(0),), 3, 24, 3, 4, **changes)


def test_only_torch_on_cuda_has_buckets_and_warms_up_in_every_one() -> None:
    on_gpu = plan("torch", text=TextSpec(16), lengths=(8, 16))
    assert graph_buckets(on_gpu, "cpu") is None
    assert graph_buckets(plan("onnxruntime", text=TextSpec(16)), "cuda:0") is None
    shapes = [example["input_ids"].shape for example in warm_up_examples(on_gpu, "cuda:0")]
    assert shapes == [(4, 16), (2, 16), (1, 16), (4, 8), (2, 8), (1, 8)]
    assert [example["input_ids"].shape for example in warm_up_examples(on_gpu)] == [(1, 16), (4, 16)]
    images = plan("torch", kind="vision", image=ImageSpec(8, 8, 8, "bicubic"))
    assert [example["pixels"].shape[0] for example in warm_up_examples(images, "cuda:0")] == [4, 2, 1]


def test_a_plan_without_measured_lengths_takes_the_longest() -> None:
    assert graph_buckets(plan("torch", text=TextSpec(16)), "cuda:0") == Buckets((1, 2, 4), (16,))
