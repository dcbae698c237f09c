"""Metrics of a task by name, and intervals for those that carry no promise.

Correlations are not means of a bounded loss per item, so no test of `guarantee` fits them: they get an interval only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.number[Any]]
Metric = Callable[[Values, Values], float]


def accuracy(predictions: Values, truth: Values) -> float:
    """The share of right classes."""
    return float((predictions == truth).mean())


def matthews(predictions: Values, truth: Values) -> float:
    """Matthews' correlation of classes, for two or more of them (Gorodkin, 2004); 0 where either side is constant."""
    classes, codes = np.unique(np.concatenate([predictions, truth]), return_inverse=True)
    ours, theirs = np.eye(len(classes))[codes].reshape(2, len(truth), len(classes))
    ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    scale = np.sqrt((ours * ours).sum() * (theirs * theirs).sum())
    return float((ours * theirs).sum() / scale) if scale > 0.0 else 0.0


def pearson(predictions: Values, truth: Values) -> float:
    """Pearson's correlation of scores; 0 where either side is constant."""
    return 0.0 if _constant(predictions, truth) else float(stats.pearsonr(predictions, truth).statistic)


def spearman(predictions: Values, truth: Values) -> float:
    """Spearman's correlation of ranks; 0 where either side is constant."""
    return 0.0 if _constant(predictions, truth) else float(stats.spearmanr(predictions, truth).statistic)


def mae(predictions: Values, truth: Values) -> float:
    """The mean absolute error, in units of the scores: the one metric here of which less is better."""
    return float(np.abs(predictions - truth).mean())


METRICS: dict[str, Metric] = {metric.__name__: metric for metric in (accuracy, matthews, pearson, spearman, mae)}
"""Each takes predictions [n] and truth [n], classes or scores."""


def bootstrap_interval(
    metric: Metric, predictions: Values, truth: Values, seed: int, repeats: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of a metric (Efron, 1979), items resampled in pairs. It promises nothing."""
    generator = np.random.default_rng(seed)
    n = len(truth)
    drawn = (generator.integers(0, n, size=n) for _ in range(repeats))
    values = [metric(predictions[items], truth[items]) for items in drawn]
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _constant(*sides: Values) -> bool:
    return any(bool((side == side[0]).all()) for side in sides)
