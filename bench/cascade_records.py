"""From answers to the records of cascades.json."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cascade_tasks import SETTINGS, training_items
from exits import TIER_LAYER, choose_entropy, exits_of
from numpy.typing import NDArray

from elastriton.client import Answer
from elastriton.core.latency import LatencyTable
from elastriton.core.profile import EncoderProfile
from elastriton.core.promise import CascadeChoice
from elastriton.generator.cached import Cached
from elastriton.generator.config import CascadeConfig
from elastriton.generator.data import Labelled
from elastriton.generator.lora import whole_model
from elastriton.generator.metrics import METRICS, bootstrap_interval
from elastriton.generator.search import losses, spread

USD_PER_CORE_HOUR, CORES = 0.04, 2


@dataclass
class Asked:
    """What a policy answered: one text at a time, and at load; of each round at load its texts and seconds."""

    sequential: list[Answer] = field(default_factory=list)
    at_load: list[Answer] = field(default_factory=list)
    rounds_s: list[tuple[int, float]] = field(default_factory=list)


def record(task: str, policy: str, asked: Asked, test: Labelled, choice: CascadeChoice) -> dict[str, Any]:
    """The record of a served policy. Rounds come in the order of the texts."""
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
        "words_pruned": choice.promise.words_pruned if choice.promise else None,
        **_quantiles(latency_ms),
        "by_level": {str(level): found for level, found in by_level.items() if found["mean_ms"] is not None},
        "at_load": _quantiles(at_load_ms),
        "throughput": throughput,
        "usd_per_million": 1e6 * USD_PER_CORE_HOUR * CORES / 3600 / throughput,
        "certified": choice.promise is not None,
        "served": True,
    }


def infaas(records: Sequence[dict[str, Any]], cached: Cached, config: CascadeConfig) -> dict[str, Any]:
    """The one model that is cheapest within max_drop on labelled data (INFaaS, ATC'21): a policy that was served."""
    names = ("tiny-only", "small-only")[-len(cached.small) :]
    span = spread(cached.truth)
    lost = [float(losses(answers.logits, cached.truth, span).mean()) for answers in (*cached.small, cached.large)]
    kept = (name for name, one in zip(names, lost, strict=False) if one - lost[-1] <= (config.max_drop or 0.0))
    name = next(kept, "large-only")
    return next(one for one in records if one["policy"] == name) | {"policy": "infaas", "same_as": name}


def computed(
    task: str,
    served: Mapping[str, dict[str, Any]],
    small: Sequence[str | None],
    encoder: EncoderProfile,
    calibration: Labelled,
    test: Labelled,
    config: CascadeConfig,
    model: str,
) -> list[dict[str, Any]]:
    """The records of entropy exits and of agreement, for texts and classes. `small` are the small model's labels."""
    if task == "stsb" or SETTINGS[task].kind == "vision":
        return []
    texts, labels = training_items(task, 0)
    order = random.Random(0).sample(range(len(texts)), len(texts))
    with whole_model(model) as folder:
        exits = exits_of(
            folder, [texts[i] for i in order], [labels[i] for i in order], [*calibration.texts, *test.texts]
        )
    truth = np.array([exits.labels.index(label) for label in (*calibration.labels, *test.labels)])
    n, depth = len(calibration), len(exits.logits)
    seen, new = (replace(exits, logits=part) for part in np.split(exits.logits, [n], axis=1))
    layers = new.leave_at(choose_entropy(seen, truth[:n], config.max_drop or 0.0))
    encoder_ms = LatencyTable(encoder.latency).typical_ms(0, 1, _typical_length(calibration, encoder))
    outside_ms = max(0.0, served["large-only"]["mean_ms"] - encoder_ms)
    deebert_ms = outside_ms + encoder_ms * (layers + 1) / depth
    agreed = new.logits[TIER_LAYER - 1].argmax(-1) == [exits.labels.index(str(label)) for label in small]
    tier_ms = served["small-only"]["mean_ms"] + encoder_ms * np.where(agreed, TIER_LAYER / depth, 1.0)
    agreement_ms = tier_ms + np.where(agreed, 0.0, outside_ms)
    both = np.where(agreed, new.logits[TIER_LAYER - 1].argmax(-1), new.logits[-1].argmax(-1))
    return [
        _computed(task, "deebert", new.answers(layers), truth[n:], deebert_ms, layers < depth - 1),
        _computed(task, "agreement", both, truth[n:], agreement_ms, agreed),
    ]


def _typical_length(data: Labelled, encoder: EncoderProfile) -> int:
    """The measured length next above 1.5 tokens per word of the median text."""
    words = float(np.median([sum(len(part.split()) for part in parts) for parts in data.texts]))
    table = LatencyTable(encoder.latency)
    return next((n for n in table.lengths if n >= 1.5 * words), table.lengths[-1])


def _computed(
    task: str, policy: str, values: NDArray[Any], truth: NDArray[Any], latency_ms: NDArray[np.float64], early: Any
) -> dict[str, Any]:
    return {
        "task": task,
        "policy": policy,
        **_judged(task, values, truth),
        "early_return": float(np.mean(early)),
        **_quantiles(latency_ms),
        "throughput": None,
        "served": False,
    }


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
