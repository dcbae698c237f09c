"""Accept a small model's answer or escalate: the decisions of the cascade, one item at a time (Tabi, EuroSys'23)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastriton.core.confidence import FloatArray


def accepts(confidence: FloatArray, threshold: float) -> NDArray[np.bool_]:
    """Which items [n] are answered early."""
    return np.asarray(confidence >= threshold)


def blend(small: FloatArray, large: FloatArray, small_weight: float | FloatArray) -> NDArray[np.floating[Any]]:
    """The answer of re-routed items: the weighted mean of both levels' calibrated probabilities (or values)."""
    return np.asarray(small_weight * small + (1.0 - small_weight) * large)
