"""Calibrated confidence: temperature scaling (Guo et al., arXiv 1706.04599) and the score an early return rests on."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
Score = Literal["max", "margin", "pnorm", "uncertainty"]

POWERS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def softmax(logits: FloatArray, temperature: float = 1.0) -> NDArray[np.float32]:
    """Probabilities [..., classes] of logits [..., classes]; a class with logit -inf gets probability 0."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float32)


def confidence(
    logits: FloatArray, score: Score = "max", temperature: float = 1.0, power: float = 2.0
) -> NDArray[np.float32]:
    """How sure a model is of each row of its logits [n, classes] -> [n]; larger is surer.

    "max" is the largest calibrated probability, "margin" its distance to the second largest, "pnorm" the largest
    centred logit over the p-norm of all (Cattelan & Silva, arXiv 2305.15508; p is `power`). "uncertainty" is that of a
    regression: the logits [n, 2] are the value and its expected error.
    """
    if score == "uncertainty":
        return np.asarray(-logits[:, 1], dtype=np.float32)
    if score == "pnorm":
        centred = logits.astype(np.float64) - logits.mean(axis=-1, keepdims=True)
        norm = (np.abs(centred) ** power).sum(axis=-1) ** (1.0 / power)
        return np.asarray(centred.max(axis=-1) / np.maximum(norm, 1e-12), dtype=np.float32)
    probabilities = softmax(logits, temperature)
    if score == "max":
        return np.asarray(probabilities.max(axis=-1), dtype=np.float32)
    second, first = np.sort(probabilities, axis=-1)[:, -2:].T
    return np.asarray(first - second, dtype=np.float32)


def aurc(scores: FloatArray, losses: FloatArray) -> float:
    """The area under the risk-coverage curve: the mean over k of the mean loss [n] of the k surest; lower is better."""
    ordered = losses[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ordered) / np.arange(1, len(ordered) + 1)).mean())


def fit_power(logits: FloatArray, labels: IntArray) -> float:
    """The p of the "pnorm" score with the least AURC on `labels` [n] (the same paper's grid, shortened)."""
    wrong = (logits.argmax(axis=-1) != labels).astype(np.float64)
    return min(POWERS, key=lambda power: aurc(confidence(logits, "pnorm", power=power), wrong))


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """The temperature that minimises the negative log-likelihood of `labels` [n] under `logits` [n, classes].

    Of n samples none may be wrong, which would make every answer certain: 1 / (n + 1) of each label is spread over all
    classes (as Platt's targets are, 1999). The loss is convex in the inverse temperature b, so its derivative, the mean
    of E_p[z] - E_label[z] under p = softmax(b z), has one zero: bisection on log b within [e^-5, e^5].
    """
    z = logits.astype(np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    n = len(labels)
    target = (n * z[np.arange(n), labels].mean() + z.mean()) / (n + 1)
    low, high = -5.0, 5.0
    for _ in range(50):
        middle = (low + high) / 2
        weights = np.exp(math.exp(middle) * z)
        expected = ((weights * z).sum(axis=-1) / weights.sum(axis=-1)).mean()
        if expected < target:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)
