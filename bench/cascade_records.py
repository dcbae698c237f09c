"""From answers to the records of cascades.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cascade_tasks import SETTINGS
from numpy.typing import NDArray

from elastriton.client import Answer
from elastriton.core.promise import CascadeChoice
from elastriton.core.pruning import Pruning
from elastriton.generator.cached import Cached
from elastriton.generator.config import CascadeConfig
from elastriton.generator.data import Labelled
from elastriton.generator.metrics import METRICS, bootstrap_interval
from elastriton.generator.search import losses, spread

USD_PER_CORE_HOUR, CORES = 0.04, 2


@dataclass
class Asked:
    """What a policy answered: one text at a time, and at load; of each round at load its texts and seconds."""

    sequential: list[Answer] = field(default_factory=list)
    at_load: list[Answer] = field(default_factory=list)
    rounds_s: list[tuple[int, float]] = field(default_factory=list)


def record(
    task: str,
    policy: str,
    asked: Asked,
    test: Labelled,
    choice: CascadeChoice,
    rules: Sequence[Pruning],
    cached: Cached,
) -> dict[str, Any]:
    """The record of a served policy. Rounds come in the order of the samples."""
    values: NDArray[Any]
    if task == "stsb":
        values = np.array([answer.score for answer in asked.at_load])
        truth: NDArray[Any] = np.array([float(label) for label in test.labels])
    else:
        names = sorted(set(test.labels) | {str(answer.label) for answer in asked.at_load})
        values = np.array([names.index(str(answer.label)) for answer in asked.at_load])
        truth = np.array([names.index(label) for label in test.labels])
    latency_ms = np.array([answer.latency_ms for answer in asked.sequential])
    at_load_ms = np.array([answer.latency_ms for answer in asked.at_load])
    large = max(1, len(choice.small))
    early = np.array([answer.level in range(large) for answer in asked.at_load])
    by_level = {
        level: _quantiles(latency_ms[[answer.level == level for answer in asked.sequential]])
        for level in range(large + 1)
    }
    throughput = float(np.median([count / seconds for count, seconds in asked.rounds_s]))
    return {
        "task": task,
        "policy": policy,
        **_judged(task, values, truth),
        "early_return": float(early.mean()),
        "words_pruned": _words_pruned(choice, rules, cached),
        **_quantiles(latency_ms),
        "by_level": {str(level): found for level, found in by_level.items() if found["mean_ms"] is not None},
        "at_load": _quantiles(at_load_ms),
        "throughput": throughput,
        "usd_per_million": 1e6 * USD_PER_CORE_HOUR * CORES / 3600 / throughput,
        "certified": choice.promise is not None,
    }


def _words_pruned(choice: CascadeChoice, rules: Sequence[Pruning], cached: Cached) -> float | None:
    """Of re-routed texts where something was certified, else of all labelled ones."""
    if choice.promise is not None:
        return choice.promise.words_pruned
    if choice.pruning is None:
        return None
    return float(cached.words_cut[choice.small[-1][0], rules.index(choice.pruning)].mean())


def infaas(records: Sequence[dict[str, Any]], cached: Cached, config: CascadeConfig) -> dict[str, Any]:
    """The one model that is cheapest within max_drop on labelled data (INFaaS, ATC'21): a policy that was served."""
    names = ("tiny-only", "small-only")[-len(cached.small) :]
    span = spread(cached.truth)
    lost = [float(losses(answers.logits, cached.truth, span).mean()) for answers in (*cached.small, cached.large)]
    kept = (name for name, one in zip(names, lost, strict=False) if one - lost[-1] <= (config.max_drop or 0.0))
    name = next(kept, "large-only")
    return next(one for one in records if one["policy"] == name) | {"policy": "infaas", "same_as": name}


def parallel(small: Asked, large: Asked) -> dict[str, float | None]:
    """Cocktail's latency had both models a machine of their own: of each text the slower one's answer."""
    pairs = zip(small.sequential, large.sequential, strict=True)
    return _quantiles(np.array([max(one.latency_ms, other.latency_ms) for one, other in pairs]))


def _judged(task: str, values: NDArray[Any], truth: NDArray[Any]) -> dict[str, Any]:
    name = SETTINGS[task].metric
    interval = bootstrap_interval(METRICS[name], values, truth, 0)
    return {
        "metric": name,
        "accuracy": float(METRICS[name](values, truth)),
        "accuracy_interval": interval,
        "n": len(truth),
    }


def _quantiles(values_ms: NDArray[np.float64]) -> dict[str, float | None]:
    if len(values_ms) == 0:
        return dict.fromkeys(("mean_ms", "p50_ms", "p95_ms", "p99_ms"))
    p50_ms, p95_ms, p99_ms = np.percentile(values_ms, (50, 95, 99)).tolist()
    return {"mean_ms": float(values_ms.mean()), "p50_ms": p50_ms, "p95_ms": p95_ms, "p99_ms": p99_ms}
