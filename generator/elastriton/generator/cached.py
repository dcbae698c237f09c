"""What every model of a cascade says of every labelled sample: each ran once, and any plan can be judged from it.

<artifacts>/<task>_cascade/cached.safetensors    written by `profile`, read by `plan` (generator/goals.py)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from elastriton.core.confidence import IntArray
from elastriton.runtime.executor import Floats

FILE = "cached.safetensors"


@dataclass(frozen=True)
class Answers:
    """One model's logits [n, classes], NaN for what it cannot read, and how many tokens it read [n] (images: 0)."""

    logits: Floats
    tokens: IntArray


@dataclass(frozen=True)
class Cached:
    """`truth` [n] are class numbers, or the values of a regression; `items` are the SHA-256 of the samples, in hex.

    `pruned[i, j]` are the large model's answers to texts that were pruned by rule j after small model i, and
    `words_cut[i, j]` [n] the share of the words that went.
    """

    truth: NDArray[Any]
    items: tuple[str, ...]
    large: Answers
    small: tuple[Answers, ...]
    pruned: dict[tuple[int, int], Answers] = field(default_factory=dict)
    words_cut: dict[tuple[int, int], Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.truth)


def save_cached(cached: Cached, folder: Path) -> None:
    """Write all of it to one file in `folder`."""
    tensors: dict[str, NDArray[Any]] = {"truth": cached.truth}
    tensors["items"] = np.array([list(bytes.fromhex(item)) for item in cached.items], dtype=np.uint8)
    named = {"large": cached.large} | {f"small.{i}": answers for i, answers in enumerate(cached.small)}
    named |= {f"pruned.{i}.{j}": answers for (i, j), answers in cached.pruned.items()}
    for name, answers in named.items():
        tensors[f"{name}.logits"], tensors[f"{name}.tokens"] = answers.logits, answers.tokens
    tensors |= {f"words_cut.{i}.{j}": share for (i, j), share in cached.words_cut.items()}
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / FILE)


def load_cached(folder: Path) -> Cached:
    """Read it back."""
    tensors = load_file(folder / FILE)

    def answers(name: str) -> Answers:
        return Answers(tensors[f"{name}.logits"], tensors[f"{name}.tokens"])

    pairs = [tuple(map(int, name.split(".")[1:])) for name in tensors if name.startswith("words_cut.")]
    small = sum(name.startswith("small.") and name.endswith(".logits") for name in tensors)
    return Cached(
        truth=tensors["truth"],
        items=tuple(bytes(row).hex() for row in tensors["items"]),
        large=answers("large"),
        small=tuple(answers(f"small.{i}") for i in range(small)),
        pruned={(i, j): answers(f"pruned.{i}.{j}") for i, j in pairs},
        words_cut={(i, j): tensors[f"words_cut.{i}.{j}"] for i, j in pairs},
    )
