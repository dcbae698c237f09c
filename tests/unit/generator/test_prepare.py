"""Heads and prompts of tasks, as their files hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from elastriton.core.errors import ConfigError
from elastriton.generator.config import TaskConfig
from elastriton.generator.prepare import task_head
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
