"""How far a small regression model's value will be from the large one's, learnt from its features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RIDGE = 0.1


def expected_distance(
    features: NDArray[np.floating[Any]], distance: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float32], np.float32]:
    """Weight [width] and bias of the ridge regression of `distance` [n] on standardised `features` [n, width].

    It needs no labels: the distance is that of two models' values.
    """
    features = features.astype(np.float64)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    z = (features - mean) / scale
    slope = np.linalg.solve(z.T @ z + RIDGE * len(z) * np.eye(z.shape[1]), z.T @ (distance - distance.mean()))
    weight = slope / scale
    return weight.astype(np.float32), np.float32(distance.mean() - mean @ weight)
