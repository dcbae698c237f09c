"""Prometheus metrics of the services, on Triton's own /metrics. Triton's `nv_inference_*` durations do not see deferred
answers: these are the truth.

Every call goes through one lock: two threads inside Triton's metric API abort the whole server (2.51, measured).
"""

from __future__ import annotations

import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from elastriton.core.policy import Decision

_LOCK = threading.Lock()
_MS_BUCKETS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]
_SIZE_BUCKETS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]


class SchedulerMetrics:
    """What the scheduler does: batches, their level and size, how long they took and were expected to take."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._batches = _family("elastriton_batches_total", "Batches run, by token level", "COUNTER")
        self._samples = _family("elastriton_samples_total", "Samples run, by token level", "COUNTER")
        self._size = _histogram("elastriton_batch_size", "Samples per batch", model, _SIZE_BUCKETS)
        self._took = _histogram(
            "elastriton_batch_ms", "Time of a batch through the executor, in ms", model, _MS_BUCKETS
        )
        self._waiting = _labelled(_family("elastriton_waiting", "Samples that wait", "GAUGE"), model=model)
        self._dropped = _labelled(_family("elastriton_dropped_total", "Samples dropped late", "COUNTER"), model=model)
        self._by_gamma: dict[int, tuple[Any, Any]] = {}

    def batch(self, decision: Decision, took_s: float, waiting: int) -> None:
        """Note one batch, after its answers are out."""
        with _LOCK:
            batches, samples = self._counters(decision.gamma)
            batches.increment(1)
            samples.increment(len(decision.batch))
            self._size.observe(float(len(decision.batch)))
            self._took.observe(took_s * 1000.0)
            self._waiting.set(float(waiting))
            self._dropped.increment(len(decision.drop))

    def _counters(self, gamma: int) -> tuple[Any, Any]:
        if gamma not in self._by_gamma:
            labels = {"model": self._model, "gamma": str(gamma)}
            self._by_gamma[gamma] = (self._batches.Metric(labels=labels), self._samples.Metric(labels=labels))
        return self._by_gamma[gamma]


class CascadeMetrics:
    """At which level the cascade answers."""

    def __init__(self, model: str) -> None:
        family = _family("elastriton_cascade_total", "Samples answered, by level of the cascade", "COUNTER")
        with _LOCK:
            self._levels = [family.Metric(labels={"model": model, "level": str(level)}) for level in (0, 1)]

    def answered(self, level: int) -> None:
        """Note one answer."""
        with _LOCK:
            self._levels[level].increment(1)


def _family(name: str, description: str, kind: str) -> Any:
    with _LOCK:
        kinds = pb_utils.MetricFamily
        return kinds(name=name, description=description, kind=getattr(kinds, kind))


def _labelled(family: Any, **labels: str) -> Any:
    with _LOCK:
        return family.Metric(labels=labels)


def _histogram(name: str, description: str, model: str, buckets: list[float]) -> Any:
    family = _family(name, description, "HISTOGRAM")
    with _LOCK:
        return family.Metric(labels={"model": model}, buckets=buckets)
