"""Heads and prompts of tasks, as their files hold them."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from elastriton.core.errors import ConfigError
from elastriton.generator.config import Config, TaskConfig
from elastriton.generator.prepare import prepare_encoder, prepare_small, save_tokenizer, task_head
from elastriton.runtime.models import Head

OWN = Head(np.zeros((2, 4), np.float32), np.zeros(2, np.float32), ("cat", "dog"))


def task(**more: object) -> TaskConfig:
    return TaskConfig.model_validate({"encoder": "vit", "slo_ms": 100, **more})


def test_a_head_of_its_own_goes_before_the_model_s(tmp_path: Path) -> None:
    save_file({"weight": np.ones((3, 4), np.float64), "bias": np.ones(3)}, tmp_path / "head.safetensors")
    head, labels = task_head("t", task(head="head.safetensors", labels=["a", "b", "c"]), OWN, tmp_path)
    assert (head.weight.shape, labels) == ((3, 4), ("a", "b", "c"))
    assert head.weight.dtype == np.float32
    head, labels = task_head("t", task(), OWN, tmp_path)
    assert (head.weight.shape, labels) == ((2, 4), ("cat", "dog"))


@pytest.mark.parametrize("key", ["head", "prompts"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"no tensors", "cannot be read"), ("another", "has no tensor")],
)
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, key: str, content: bytes | str | None, message: str
) -> None:
    file = tmp_path / "it.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file({content: np.zeros(3, np.float32)}, file)
    with pytest.raises(ConfigError, match=rf"task t: {key}.*it\.safetensors {message}"):
        task_head("t", task(**{key: file.name}), OWN, tmp_path)


def test_a_head_with_one_output_is_no_classification(tmp_path: Path) -> None:
    score = Head(np.zeros((1, 4), np.float32), np.zeros(1, np.float32), ("LABEL_0",))
    with pytest.raises(ConfigError, match=r"task t: the head has 1 output\(s\); is this an `objective: regression`"):
        task_head("t", task(), score, tmp_path)
    assert task_head("t", task(objective="regression"), score, tmp_path)[1] == ()


def test_labels_of_a_model_are_all_different(tmp_path: Path) -> None:
    """Of two classes with one label only the second would ever be right."""
    cranes = Head(np.zeros((3, 4), np.float32), np.zeros(3, np.float32), ("crane", "cat", "crane"))
    with pytest.raises(
        ConfigError, match="task t: the model's labels name 'crane' twice; give the task `labels` of its"
    ):
        task_head("t", task(), cranes, tmp_path)
    assert task_head("t", task(labels=["bird", "cat", "machine"]), cranes, tmp_path)[1] == ("bird", "cat", "machine")


def test_a_level_that_no_layer_can_merge_is_refused(tmp_path: Path, tiny_vit: Path) -> None:
    """Of 17 tokens, CLS stays and half of the others may go; less is left for the layers behind."""
    for gamma, error in (
        (-8, None),
        (-9, "level -9, but of the model's 17 tokens a layer can merge 8 at most; use levels"),
    ):
        encoder = {"kind": "vision", "model": str(tiny_vit), "levels": [gamma, 0], "batches": [1]}
        config = Config.model_validate({"version": 1, "encoders": {"vit": encoder}, "tasks": {"t": task()}})
        expected = pytest.raises(ConfigError, match=error) if error else nullcontext()
        with expected:
            prepare_encoder("vit", config, tmp_path, tmp_path, lambda step: None)


def test_a_model_without_a_trained_head_needs_the_file_of_one(tmp_path: Path, tiny_bert: Any) -> None:
    with pytest.raises(
        ConfigError, match="task t: the model has no trained head of its own; fine-tune it, or give the"
    ):
        task_head("t", task(), None, tmp_path)
    shutil.copytree(tiny_bert("to be beheaded"), tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        del weights[name]
    save_file(weights, tmp_path / "model/model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"small model \./model of task t has no trained head of its own"):
        prepare_small("t", 0, "./model", "text", {("greet", "leave", "order")}, tmp_path, tmp_path)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, tiny_bert: Any) -> None:
    """Transformers makes one without words for it, in silence."""
    source = tiny_bert("with a tokenizer")
    save_tokenizer(str(source), tmp_path / "saved")
    shutil.copytree(source, tmp_path / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / file).unlink()
    with pytest.raises(ConfigError, match="has no tokenizer; save it beside the model"):
        save_tokenizer(str(tmp_path / "model"), tmp_path / "saved")
    (tmp_path / "model/tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"the tokenizer of model .* cannot be loaded"):
        save_tokenizer(str(tmp_path / "model"), tmp_path / "saved")


def test_a_small_model_has_the_labels_of_the_task_in_its_words_or_the_large_model_s(
    tmp_path: Path, tiny_bert: Any
) -> None:
    small, own = str(tiny_bert("small of two")), ("greet", "leave", "order")
    prepare_small("t", 0, small, "text", {("hello", "bye", "tea"), own}, tmp_path, tmp_path)
    for alike in ({("hello", "bye", "tea")}, {("leave", "greet", "order")}, {()}):
        with pytest.raises(ConfigError, match="other labels than the large one, or another order: greet, leave, order"):
            prepare_small("t", 0, small, "text", alike, tmp_path, tmp_path)
