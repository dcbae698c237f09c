"""What a model of the cascade bench is worth on its pool: accuracy or correlations, each with a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from elastriton.core.statistics import wilson_interval

Array = NDArray[Any]

DRAWS = 1000


def figures(logits: NDArray[Any], truth: NDArray[Any]) -> dict[str, Any]:
    """Of logits [items, classes] and class numbers: accuracy, and Matthews' correlation where there are two classes.

    Of scores [items, 1] and true scores, which are floats: Pearson's and Spearman's correlation.
    """
    if truth.dtype.kind == "f":
        scores = logits[:, 0]
        return {
            "pearson": _bootstrap(_correlation, scores, truth),
            "spearman": _bootstrap(_rank_correlation, scores, truth),
            "total": len(truth),
        }
    predicted = logits.argmax(1)
    correct = int((predicted == truth).sum())
    low, high = wilson_interval(correct, len(truth))
    accuracy = [round(value, 4) for value in (correct / len(truth), low, high)]
    found: dict[str, Any] = {"accuracy": accuracy, "correct": correct, "total": len(truth)}
    return found | ({"matthews": _bootstrap(_correlation, predicted, truth)} if logits.shape[1] == 2 else {})


def _correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _rank_correlation(a: Array, b: Array) -> float:
    return _correlation(scipy.stats.rankdata(a), scipy.stats.rankdata(b))


def _bootstrap(statistic: Callable[[Array, Array], float], a: Array, b: Array) -> list[float]:
    drawn = np.random.default_rng(0).integers(len(a), size=(DRAWS, len(a)))
    low, high = np.percentile([statistic(a[rows], b[rows]) for rows in drawn], [2.5, 97.5])
    return [round(float(value), 4) for value in (statistic(a, b), low, high)]
