"""Calibrated confidence: temperature scaling (Guo et al., arXiv 1706.04599) and the score an early return rests on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]


def softmax(logits: FloatArray, temperature: float = 1.0) -> NDArray[np.float32]:
    """Probabilities [..., classes] of logits [..., classes]; a class with logit -inf gets probability 0."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float32)


def confidence(probabilities: FloatArray) -> NDArray[np.float32]:
    """The largest probability of each row: [n, classes] -> [n]."""
    return np.asarray(probabilities.max(axis=-1), dtype=np.float32)


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """The temperature that minimises the negative log-likelihood of `labels` [n] under `logits` [n, classes].

    The loss is convex in the inverse temperature b, so its derivative, the mean of E_p[z] - z_label under
    p = softmax(b z), has one zero: bisection on log b within [e^-5, e^5].
    """
    z = logits.astype(np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    target = z[np.arange(len(labels)), labels].mean()
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
