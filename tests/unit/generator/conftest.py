from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from elastriton.core.latency import Cell
from elastriton.core.levels import TokenLevel
from elastriton.core.profile import Artifact, CascadeProfile, EncoderProfile, SmallProfile, TaskProfile
from elastriton.core.pruning import Pruning
from elastriton.generator.cached import Answers, Cached

NOWHERE = Artifact("x", "0")
CLASSES = 3


class Synthetic(NamedTuple):
    """A task's cached answers, made up, and a profile that fits them."""

    cached: Cached
    task: TaskProfile
    encoder: EncoderProfile


def cells(ms: float) -> tuple[Cell, ...]:
    return tuple(Cell(0, length, batch, ms * length / 16, ms, 1) for length in (8, 16) for batch in (1, 8))


def classes(n: int, small: int, rules: int, generator: np.random.Generator) -> tuple[Any, Any, list[Any], Any]:
    """The harder a sample, the less sure and the more often wrong; the large model is wrong on a tenth."""
    difficulty = generator.uniform(size=n)
    truth = generator.integers(0, CLASSES, n)

    def says(wrong: Any, margin: Any) -> Any:
        label = np.where(
            generator.uniform(size=n) < wrong, (truth + generator.integers(1, CLASSES, n)) % CLASSES, truth
        )
        logits = margin[:, None] * np.eye(CLASSES)[label] + generator.normal(scale=0.2, size=(n, CLASSES))
        return logits.astype(np.float32)

    large = says(0.2 * difficulty, np.full(n, 2.5))
    smalls = [says((0.7 - 0.2 * i) * difficulty, 4.0 - 3.0 * difficulty) for i in range(small)]
    pruned = {(i, j): says((0.2 + 0.1 * j) * difficulty, np.full(n, 2.0)) for i in range(small) for j in range(rules)}
    return truth, large, smalls, pruned


def scores(n: int, small: int, rules: int, generator: np.random.Generator) -> tuple[Any, Any, list[Any], Any]:
    """Values from 0 to 5; the second logit of a small model is the error that it expects."""
    truth = generator.uniform(0.0, 5.0, n).astype(np.float32)
    error = generator.uniform(0.0, 2.0, n)

    def off(by: Any) -> Any:
        return (truth + by * generator.normal(size=n)).astype(np.float32)[:, None]

    smalls = [np.concatenate([off(error), error[:, None].astype(np.float32)], axis=1) for _ in range(small)]
    pruned = {(i, j): off(0.3 + 0.1 * j) for i in range(small) for j in range(rules)}
    return truth, off(0.2), smalls, pruned


@pytest.fixture(scope="session")
def synthetic() -> Callable[..., Synthetic]:
    """`synthetic(n, seed, small=1, rules=0, regression=False, small_ms=1.0)`: independent samples, 30 % to fit with."""

    def make(
        n: int, seed: int, *, small: int = 1, rules: int = 0, regression: bool = False, small_ms: float = 1.0
    ) -> Synthetic:
        generator = np.random.default_rng(seed)
        truth, large, smalls, pruned = (scores if regression else classes)(n, small, rules, generator)
        tokens = generator.integers(4, 17, n)
        cached = Cached(
            truth=truth,
            items=tuple(hashlib.sha256(f"{seed} {i}".encode()).hexdigest() for i in range(n)),
            large=Answers(large, tokens),
            small=tuple(Answers(logits, tokens) for logits in smalls),
            pruned={key: Answers(logits, np.maximum(4, tokens - 4)) for key, logits in pruned.items()},
            words_cut={key: np.full(n, 0.25, np.float32) for key in pruned},
        )
        models = tuple(SmallProfile(NOWHERE, f"{i}", cells(small_ms + i), 1.0, 2.0, None, 0.1) for i in range(small))
        profile = CascadeProfile(models, tuple(Pruning(scale=0.5 * (j + 1)) for j in range(rules)), NOWHERE)
        objective: Any = "regression" if regression else "classification"
        labels = () if regression else tuple("abc")
        task = TaskProfile("e", objective, labels, NOWHERE, 1, 1.0, round(0.3 * n), (), profile)
        encoder = EncoderProfile("text", "onnxruntime", "m", 16, 3, 24, NOWHERE, (TokenLevel(0),), cells(10.0))
        return Synthetic(cached, task, encoder)

    return make
