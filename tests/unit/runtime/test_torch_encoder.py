from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel
from elastriton.core.profile import load_profile
from elastriton.runtime.executor import Arrays
from elastriton.runtime.files import TORCH_FOLDER
from elastriton.runtime.onnx_encoder import OnnxEncoder
from elastriton.runtime.torch_encoder import TorchEncoder


@pytest.mark.parametrize("gamma", [-4, 0, 4])
def test_vision_in_torch_equals_onnx(tiny_build: Path, tiny_vit: Path, tmp_path: Path, gamma: int) -> None:
    shutil.copytree(tiny_vit, tmp_path / TORCH_FOLDER)
    levels = {level.gamma: level for level in load_profile(tiny_build / "profile.json").encoders["vit"].levels}
    generator = np.random.default_rng(0)
    inputs: Arrays = {"pixels": generator.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)}
    if gamma > 0:
        inputs["prompts"] = generator.normal(size=(3, 3, gamma, 24)).astype(np.float32)
    features = TorchEncoder(tmp_path, "vision").features(inputs, levels[gamma])
    assert features.dtype == np.float32
    expected = OnnxEncoder(tiny_build / "vit", [gamma], threads=1).features(inputs, levels[gamma])
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_text_in_torch_equals_onnx(tiny_build: Path, tiny_bert: Any, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert("in torch", layers=3), tmp_path / TORCH_FOLDER)
    ids = np.array([[2, 4, 9, 3], [2, 5, 3, 0]])
    inputs: Arrays = {
        "input_ids": ids,
        "attention_mask": (ids > 0).astype(np.int64),
        "token_type_ids": np.zeros_like(ids),
    }
    features = TorchEncoder(tmp_path, "text").features(inputs, TokenLevel(0))
    expected = OnnxEncoder(tiny_build / "bert", [0], threads=1).features(inputs, TokenLevel(0))
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_an_artifact_without_a_model_is_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TorchEncoder(tmp_path, "vision")
