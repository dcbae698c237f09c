"""Texts at token levels, from the configuration to exported graphs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel, constant_level
from elastriton.core.profile import load_profile
from elastriton.generator.config import load_config
from elastriton.generator.prepare import prepare_encoder
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.models import load_text
from elastriton.runtime.onnx_encoder import OnnxEncoder

LEVELS = {gamma: constant_level(gamma, 3) for gamma in (-20, 0)}


@pytest.fixture(scope="module")
def graphs(text_build: Path) -> OnnxEncoder:
    return OnnxEncoder(text_build / "bert", list(LEVELS), threads=1)


def texts(batch: int, tokens: int) -> Arrays:
    """Random texts of 2 … `tokens` tokens, the first of them as long as it gets."""
    generator = np.random.default_rng(batch * tokens)
    lengths = generator.integers(2, tokens + 1, batch)
    lengths[0] = tokens
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    ids = generator.integers(4, 17, (batch, tokens)) * mask
    ids[:, 0], ids[np.arange(batch), lengths - 1] = 2, 3
    segments = (np.arange(tokens) >= lengths[:, None] // 2) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def test_the_profile_has_every_level(text_build: Path) -> None:
    profile = load_profile(text_build / "profile.json")
    assert {cell.gamma for cell in profile.encoders["bert"].latency} == set(LEVELS)
    assert {point.gamma for point in profile.tasks["intent"].accuracy} == set(LEVELS)
    assert {level.gamma: level for level in profile.encoders["bert"].levels} == LEVELS


@pytest.mark.parametrize("gamma", LEVELS)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 2), (2, 3), (3, 5), (1, 17), (8, 30)])
def test_graphs_equal_torch_for_any_batch_and_length(
    graphs: OnnxEncoder, text_project: Path, gamma: int, batch: int, tokens: int
) -> None:
    inputs = texts(batch, tokens)
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        model = load_config(text_project / "elastriton.yaml").encoders["bert"].model
        expected = load_text(model).encoder(**tensors, level=LEVELS[gamma]).numpy()
    np.testing.assert_allclose(graphs.features(inputs, LEVELS[gamma]), expected, atol=1e-4)


def test_padding_and_the_other_texts_of_a_batch_change_nothing(graphs: OnnxEncoder) -> None:
    changed = 0
    for seed in range(1, 21):
        inputs = texts(10, 10 + seed)
        together = graphs.features(inputs, LEVELS[-20])
        for row, n in enumerate(inputs["attention_mask"].sum(axis=1)):
            alone: Arrays = {name: array[row : row + 1, :n] for name, array in inputs.items()}
            np.testing.assert_allclose(together[row : row + 1], graphs.features(alone, LEVELS[-20]), atol=1e-4)
            changed += int(np.abs(_plain(graphs, alone) - together[row]).max() > 1e-3)
    assert changed > 100


def _plain(graphs: OnnxEncoder, inputs: Arrays) -> Floats:
    return graphs.features(inputs, TokenLevel(0))


def test_another_architecture_is_refused_when_levels_are_configured(text_project: Path, tmp_path: Path) -> None:
    small = {"vocab_size": 30, "dim": 24, "n_layers": 3, "n_heads": 3, "hidden_dim": 48, "num_labels": 3}
    DistilBertForSequenceClassification(DistilBertConfig(**small)).save_pretrained(tmp_path / "model")
    config = json.loads((text_project / "elastriton.yaml").read_text())
    config["encoders"]["bert"]["model"] = "model"
    (tmp_path / "elastriton.yaml").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="DistilBertForSequenceClassification has only level 0"):
        prepare_encoder("bert", load_config(tmp_path / "elastriton.yaml"), tmp_path, tmp_path / "build", print)
