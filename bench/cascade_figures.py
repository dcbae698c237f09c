"""What a model of the cascade bench is worth on its pool: accuracy or correlations, each with a 95 % interval."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from elastriton.core.statistics import wilson_interval
from elastriton.generator.metrics import METRICS, bootstrap_interval

Array = NDArray[Any]


def figures(logits: NDArray[Any], truth: NDArray[Any]) -> dict[str, Any]:
    """Of logits [items, classes] and class numbers: accuracy, and Matthews' correlation where there are two classes.

    Of scores [items, 1] and true scores, which are floats: Pearson's and Spearman's correlation.
    """
    if truth.dtype.kind == "f":
        scores = logits[:, 0]
        return {
            **{name: _bootstrap(name, scores, truth) for name in ("pearson", "spearman")},
            "total": len(truth),
        }
    predicted = logits.argmax(1)
    correct = int((predicted == truth).sum())
    low, high = wilson_interval(correct, len(truth))
    accuracy = [round(value, 4) for value in (correct / len(truth), low, high)]
    found: dict[str, Any] = {"accuracy": accuracy, "correct": correct, "total": len(truth)}
    return found | ({"matthews": _bootstrap("matthews", predicted, truth)} if logits.shape[1] == 2 else {})


def _bootstrap(name: str, predictions: Array, truth: Array) -> list[float]:
    metric = METRICS[name]
    low, high = bootstrap_interval(metric, predictions, truth, 0)
    return [round(value, 4) for value in (metric(predictions, truth), low, high)]
