"""What belongs to one task on a shared encoder: its linear head and its prompts, in one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from elastriton.core.errors import ConfigError, InvalidInput
from elastriton.runtime.files import HEAD_FILE

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TaskHead:
    """`weight` [classes, width], `bias` [classes], and `prompts` [layers, n, width] of which any prefix works."""

    task: str
    weight: Floats
    bias: Floats
    prompts: Floats | None = None

    def prompt_count(self) -> int:
        """How many prompts have been trained."""
        return 0 if self.prompts is None else int(self.prompts.shape[1])

    def has_prompts(self, count: int) -> bool:
        """Whether the task can run at a level of `count` prompts."""
        return count <= self.prompt_count()

    def prompts_for(self, count: int) -> Floats:
        """The first `count` prompts of every layer. Raises InvalidInput where the task has fewer."""
        if self.prompts is None or not self.has_prompts(count):
            raise InvalidInput(f"task {self.task!r} has too few trained prompts for level {count}; tune it first")
        return self.prompts[:, :count]


def save_head(folder: Path, head: TaskHead) -> None:
    """Write a head to `folder`."""
    tensors = {"weight": head.weight, "bias": head.bias}
    if head.prompts is not None:
        tensors["prompts"] = head.prompts
    save_file({name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}, folder / HEAD_FILE)


def load_head(folder: Path, task: str) -> TaskHead:
    """Read the head of `task` from `folder`. Raises ConfigError where the shapes do not fit together."""
    tensors = load_file(folder / HEAD_FILE)
    weight, bias, prompts = tensors["weight"], tensors["bias"], tensors.get("prompts")
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ConfigError(f"{folder}: the head's weight {weight.shape} and bias {bias.shape} do not fit together")
    if prompts is not None and (prompts.ndim != 3 or prompts.shape[2] != weight.shape[1]):
        raise ConfigError(f"{folder}: prompts are {prompts.shape}; they must be [layers, n, {weight.shape[1]}]")
    return TaskHead(task, weight, bias, prompts)
