"""The measurements of a profile: latency over level x length x batch, the logits behind accuracies, decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell
from elastriton.core.profile import ImageSpec
from elastriton.core.statistics import percentile_ms
from elastriton.runtime.executor import Arrays, ElasticExecutor, Floats, example_inputs
from elastriton.runtime.images import decode_image

WARM_UPS = 2
MIN_RUNS = 15
MAX_RUNS = 200
DECODED = 200

Advance = Callable[[str], None]
"""Told after every step of a long measurement, with what is being measured."""


def latency(
    executor: ElasticExecutor,
    task: str,
    image: ImageSpec | None,
    lengths: Sequence[int],
    batches: Sequence[int],
    *,
    budget_s: float,
    advance: Advance,
) -> tuple[Cell, ...]:
    """Time every level at every length and batch size: at least 15 runs a cell, more while `budget_s` a cell lasts.

    The levels of one batch size take turns, run by run, so that a slow moment of the machine hits them alike.
    """
    gammas = sorted(executor.levels)
    cells = []
    for length in lengths:
        for batch in batches:
            inputs = example_inputs(image, batch, length)
            timed = _take_turns(executor, task, inputs, batch, gammas, budget_s * len(gammas))
            for gamma, samples_s in timed.items():
                p50_ms, p99_ms = percentile_ms(samples_s, 50), percentile_ms(samples_s, 99)
                cells.append(Cell(gamma, length, batch, round(p50_ms, 3), round(p99_ms, 3), len(samples_s)))
            advance(f"latency of {batch} x {length} tokens")
    return tuple(cells)


def _take_turns(
    executor: ElasticExecutor, task: str, inputs: Arrays, batch: int, gammas: Sequence[int], budget_s: float
) -> dict[int, list[float]]:
    timed: dict[int, list[float]] = {gamma: [] for gamma in gammas}
    started_s = time.perf_counter()
    for turn in range(WARM_UPS + MAX_RUNS):
        for gamma in gammas:
            before_s = time.perf_counter()
            executor.logits(inputs, [task] * batch, gamma)
            if turn >= WARM_UPS:
                timed[gamma].append(time.perf_counter() - before_s)
        if turn >= WARM_UPS + MIN_RUNS - 1 and time.perf_counter() - started_s > budget_s:
            break
    return timed


def all_logits(
    executor: ElasticExecutor, task: str, gamma: int, order: Sequence[int], collate: Callable[[Sequence[int]], Arrays]
) -> Floats:
    """The logits [n, classes] of samples 0 … n-1, run in full batches in `order`; `collate` makes a batch of some."""
    rows: dict[int, Floats] = {}
    for start in range(0, len(order), executor.max_batch):
        indices = order[start : start + executor.max_batch]
        logits = executor.logits(collate(indices), [task] * len(indices), gamma)
        rows.update(zip(indices, logits, strict=True))
    return np.stack([rows[index] for index in range(len(order))])[:, : len(executor.heads[task].bias)]


def check_finite(logits: Floats, what: str) -> None:
    """Raise ConfigError where a model's logits [n, classes] are no numbers: as answers they would pass for class 0."""
    wrong = ~np.isfinite(logits).all(axis=-1)
    if wrong.any():
        raise ConfigError(
            f"{what}: the logits of {wrong.sum()} of the {len(logits)} samples are not finite, e.g. "
            f"{logits[wrong][0][:3].tolist()}; are its weights, head or prompts damaged, or its precision too low?"
        )


def decoding_ms(images: Sequence[bytes], spec: ImageSpec) -> float:
    """What decoding an image takes of one core, on the mean over the first 200."""
    images = tuple(images[:DECODED])
    started_s = time.perf_counter()
    for image in images:
        decode_image(image, spec)
    return round(1000.0 * (time.perf_counter() - started_s) / len(images), 3)
