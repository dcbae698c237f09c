"""Encoders in half precision, on the CPU: near float32 at the plain level, and in fused attention at every one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from elastriton.core.levels import constant_level
from elastriton.core.profile import Precision
from elastriton.runtime.executor import Arrays
from elastriton.runtime.files import TORCH_FOLDER
from elastriton.runtime.torch_encoder import DTYPES, TorchEncoder, default_precision

HALVES: tuple[Precision, ...] = ("fp16", "bf16")
BOUND = {"fp16": 2e-3, "bf16": 2e-2}
"""Of the features' relative error at level 0: a few roundings (0.05 and 0.4 %) in each of three layers."""


@pytest.fixture(params=["vision", "text"])
def case(request: pytest.FixtureRequest, tiny_vit: Path, tiny_bert: Any, tmp_path: Path) -> tuple[Any, Arrays]:
    """A kind of encoder whose model lies in `tmp_path`, and a batch of three for it."""
    source = tiny_vit if request.param == "vision" else tiny_bert("in halves", layers=3)
    (tmp_path / TORCH_FOLDER).symlink_to(source)
    if request.param == "vision":
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        return "vision", {"pixels": pixels}
    ids = np.array([[2, *range(4, 16), 3], [2, *range(5, 14), 3, 0, 0, 0], [2, *range(6, 16), 4, 4, 3]])
    return "text", {"input_ids": ids, "attention_mask": (ids > 0).astype(int), "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("precision", HALVES)
def test_the_plain_level_is_near_float32(case: tuple[Any, Arrays], tmp_path: Path, precision: Precision) -> None:
    kind, inputs = case
    level = constant_level(0, 3)
    exact = TorchEncoder(tmp_path, kind).features(inputs, level)
    features = TorchEncoder(tmp_path, kind, precision=precision).features(inputs, level)
    assert features.dtype == np.float32
    error = np.linalg.norm(features - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < BOUND[precision]  # not exact either: it really ran in half precision


@pytest.mark.parametrize("precision", HALVES)
def test_the_size_bias_goes_into_fused_attention_in_the_queries_own_type(
    case: tuple[Any, Arrays], tmp_path: Path, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, inputs = case
    fused, biases = F.scaled_dot_product_attention, []

    def watched(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **more: Any) -> Tensor:
        assert q.dtype == k.dtype == v.dtype == DTYPES[precision]
        if attn_mask is not None:
            assert attn_mask.dtype == q.dtype
            assert attn_mask.shape == (len(q), 1, 1, k.shape[2])
            assert attn_mask.stride(-1) == 1
            biases.append(attn_mask)
        return fused(q, k, v, attn_mask=attn_mask, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    encoder = TorchEncoder(tmp_path, kind, precision=precision)
    assert np.isfinite(encoder.features(inputs, constant_level(-20 if kind == "text" else -3, 3))).all()
    assert len(biases) == (3 if kind == "text" else 2)  # texts always have a mask, images once something has merged
    assert max(float(bias.max()) for bias in biases) >= torch.tensor(2.0).log().item() * 0.99


@pytest.mark.parametrize("precision", HALVES)
def test_prompts_come_in_the_encoder_s_precision(tiny_vit: Path, tmp_path: Path, precision: Precision) -> None:
    (tmp_path / TORCH_FOLDER).symlink_to(tiny_vit)
    generator = np.random.default_rng(0)
    prompts = generator.normal(size=(2, 3, 4, 24)).astype(np.float32)
    pixels = generator.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    exact, half = (
        TorchEncoder(tmp_path, "vision", precision=kind).features(
            {"pixels": pixels, "prompts": prompts}, constant_level(4, 3)
        )
        for kind in ("fp32", precision)
    )
    assert np.linalg.norm(half - exact) < BOUND[precision] * np.linalg.norm(exact)


def test_the_default_is_half_precision_on_a_gpu_alone() -> None:
    assert default_precision("cpu") == "fp32"
    assert default_precision("cuda:0") == "fp16"
