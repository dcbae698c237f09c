"""Accept the small model's answer or escalate: the decision of the cascade, one item at a time (Tabi, EuroSys'23)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastriton.core.confidence import FloatArray, IntArray, confidence


@dataclass(frozen=True, slots=True)
class Operating:
    """One point of the trade-off on held-out data: what a threshold returns early, and what accuracy it gives."""

    threshold: float
    early_return: float
    accuracy: float


def accepts(probabilities: FloatArray, threshold: float) -> NDArray[np.bool_]:
    """Which rows of calibrated `probabilities` [n, classes] are answered by the small model."""
    return np.asarray(confidence(probabilities) >= threshold)


def blend(small: FloatArray, large: FloatArray, small_weight: float) -> NDArray[np.float32]:
    """The answer of a re-routed item: the weighted mean of both levels' calibrated probabilities [classes]."""
    return (small_weight * small + (1.0 - small_weight) * large).astype(np.float32)


def sweep(small: FloatArray, large: FloatArray, labels: IntArray, thresholds: Sequence[float]) -> tuple[Operating, ...]:
    """The operating point of every threshold, from cached calibrated probabilities [n, classes] of both levels."""
    small_right = small.argmax(-1) == labels
    large_right = large.argmax(-1) == labels
    points = []
    for threshold in thresholds:
        early = accepts(small, threshold)
        right = np.where(early, small_right, large_right)
        points.append(Operating(threshold, float(early.mean()), float(right.mean())))
    return tuple(points)


def choose(points: Sequence[Operating], max_drop: float) -> Operating:
    """The point that returns most early among those whose accuracy is within `max_drop` of never returning early.

    This is Tabi's empirical choice: it describes the calibration data and promises nothing about other data.
    """
    safest = max(points, key=lambda point: point.threshold)
    allowed = [point for point in points if point.accuracy >= safest.accuracy - max_drop]
    return max(allowed, key=lambda point: (point.early_return, point.threshold))
