"""Texts at token levels, from the configuration to exported graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel, constant_level
from elastriton.core.profile import Profile
from elastriton.generator.config import Config, load_config
from elastriton.generator.prepare import prepare_encoder
from elastriton.generator.profiler import profile
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.models import load_text
from elastriton.runtime.onnx_encoder import OnnxEncoder

INTENTS = ("greet", "leave", "order")
LEVELS = {gamma: constant_level(gamma, 3) for gamma in (-20, 0)}


def configured(folder: Path, model: Path) -> Config:
    """A project with one task on a text encoder that has a merging level."""
    folder.mkdir()
    encoder = {
        "kind": "text",
        "model": str(model),
        "levels": [*LEVELS],
        "max_length": 30,
        "lengths": [30],
        "batches": [4],
    }
    items = [[f"hello {'please ' * i}", INTENTS[i % 3]] for i in range(20)]
    (folder / "intents.json").write_text(json.dumps({"items": items}))
    task = {"encoder": "bert", "slo_ms": 100, "data": {"path": "intents.json"}}
    config = {"version": 1, "encoders": {"bert": encoder}, "tasks": {"intent": task}}
    (folder / "elastriton.yaml").write_text(json.dumps(config))
    return load_config(folder / "elastriton.yaml")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Any) -> Path:
    """A BERT of 3 layers that tells its tokens apart: random weights as they come are all but constant."""
    folder: Path = tiny_bert("levels of text", layers=3)
    own = load_text(str(folder)).encoder.model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in own.bert.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    own.classifier = torch.nn.Linear(24, 3)
    own.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, Profile]:
    project, build = tmp_path_factory.mktemp("text") / "project", tmp_path_factory.mktemp("build")
    return build, profile(configured(project, model), project, build, budget_s=0.0, advance=lambda step: None)


@pytest.fixture(scope="module")
def graphs(measured: tuple[Path, Profile]) -> OnnxEncoder:
    return OnnxEncoder(measured[0] / "bert", list(LEVELS), threads=1)


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


def test_the_profile_has_every_level(measured: tuple[Path, Profile]) -> None:
    _, result = measured
    assert {cell.gamma for cell in result.encoders["bert"].latency} == set(LEVELS)
    assert {point.gamma for point in result.tasks["intent"].accuracy} == set(LEVELS)
    assert {level.gamma: level for level in result.encoders["bert"].levels} == LEVELS


@pytest.mark.parametrize("gamma", LEVELS)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 2), (2, 3), (3, 5), (1, 17), (8, 30)])
def test_graphs_equal_torch_for_any_batch_and_length(
    graphs: OnnxEncoder, model: Path, gamma: int, batch: int, tokens: int
) -> None:
    inputs = texts(batch, tokens)
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        expected = load_text(str(model)).encoder(**tensors, level=LEVELS[gamma]).numpy()
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


def test_another_architecture_is_refused_when_levels_are_configured(tmp_path: Path) -> None:
    config = DistilBertConfig(
        vocab_size=30, dim=24, n_layers=3, n_heads=3, hidden_dim=48, id2label=dict(enumerate(INTENTS))
    )
    DistilBertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    project = configured(tmp_path / "project", tmp_path / "model")
    with pytest.raises(ConfigError, match="DistilBertForSequenceClassification has only level 0"):
        prepare_encoder("bert", project, tmp_path / "project", tmp_path)
