"""Prometheus metrics of the services, on Triton's own /metrics. Triton's `nv_inference_*` durations do not see deferred
answers: these are the truth, a moment later (book.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import triton_python_backend_utils as pb_utils

from elastriton.core.drift import Drift
from elastriton.core.queue import Item
from elastriton.core.scheduler import Ended
from elastriton.runtime.book import TELLING, Book, Series
from elastriton.runtime.worker import Lost

_MS_BUCKETS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]
_SIZE_BUCKETS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]


class SchedulerMetrics:
    """What the scheduler does: batches, how long they took and were to take, what was in time, and what it is worth."""

    def __init__(self, model: str, gammas: Iterable[int], tasks: Iterable[str]) -> None:
        by_level = {gamma: {"model": model, "gamma": str(gamma)} for gamma in gammas}
        batches = _Family("COUNTER", "elastriton_batches_total", "Batches run, by token level")
        samples = _Family("COUNTER", "elastriton_samples_total", "Samples run, by token level")
        self._batches = {gamma: batches.metric(labels) for gamma, labels in by_level.items()}
        self._samples = {gamma: samples.metric(labels) for gamma, labels in by_level.items()}
        sizes = _Family("HISTOGRAM", "elastriton_batch_size", "Samples per batch")
        times = _Family("HISTOGRAM", "elastriton_batch_ms", "Time of a batch from its decision to its results, in ms")
        predicted = _Family("HISTOGRAM", "elastriton_batch_predicted_ms", "The p99 that was predicted for it, in ms")
        self._size = sizes.metric({"model": model}, _SIZE_BUCKETS)
        self._took = times.metric({"model": model}, _MS_BUCKETS)
        self._predicted = predicted.metric({"model": model}, _MS_BUCKETS)
        self._waiting = _Family("GAUGE", "elastriton_waiting", "Samples that wait").metric({"model": model})
        drift = _Family("GAUGE", "elastriton_latency_drift", "Factor on the profile's latency, learnt online")
        self._typical = drift.metric({"model": model, "quantile": "0.5"})
        self._safe = drift.metric({"model": model, "quantile": "0.99"})
        utility = _Family("COUNTER", "elastriton_utility_total", "Expected utility of the answers in time")
        self._utility = utility.metric({"model": model})
        self._outcomes = _outcomes(model, tasks)
        self._book = Book()
        self.close = self._book.close

    def batch(self, ended: Ended, drift: Drift) -> None:
        """Note one batch."""
        note = self._book
        note.add(self._batches[ended.gamma])
        note.add(self._samples[ended.gamma], ended.size)
        note.observe(self._size, float(ended.size))
        note.observe(self._took, ended.took_ms)
        note.observe(self._predicted, ended.predicted_ms)
        note.set(self._waiting, float(ended.waiting))
        note.set(self._typical, drift.typical)
        note.set(self._safe, drift.safe)
        note.add(self._utility, ended.utility)
        for outcome, counts in (("in_time", ended.in_time), ("late", ended.late)):
            for task, count in counts.items():
                note.add(self._outcomes[task, outcome], count)

    def lost(self, items: Sequence[Item], outcome: Lost, waiting: int) -> None:
        """Note items that got an error; nobody waits for those in the background."""
        self._book.set(self._waiting, float(waiting))
        for task, count in Counter(item.task for item in items if not item.background).items():
            self._book.add(self._outcomes[task, outcome], count)


class DecoderMetrics:
    """What a decoder turns away, or loses, before the scheduler can."""

    def __init__(self, model: str, task: str) -> None:
        self._task, self._outcomes = task, _outcomes(model, [task])
        self._book = Book()
        self.close = self._book.close

    def lost(self, samples: int, outcome: Lost) -> None:
        """Note the samples of one request that was late, or met a failure of ours."""
        self._book.add(self._outcomes[self._task, outcome], samples)


class CascadeMetrics:
    """What becomes of samples, at which level the cascade answers, what it cuts from texts, and what audits find."""

    def __init__(self, model: str, task: str, levels: int) -> None:
        """`levels` counts the small models and the large one."""
        self._task, self._outcomes = task, _outcomes(model, [task])
        by_model = {"model": model}
        answers = _Family("COUNTER", "elastriton_cascade_total", "Samples answered, by level of the cascade")
        self._levels = [answers.metric(by_model | {"level": str(level)}) for level in range(max(2, levels))]
        fallbacks = _Family(
            "COUNTER", "elastriton_cascade_fallback_total", "Unsure answers that stand in for a larger model's"
        )
        self._fallbacks = fallbacks.metric(by_model)
        words = _Family("COUNTER", "elastriton_cascade_words_total", "Words of re-routed texts")
        self._kept, self._cut = (words.metric(by_model | {"pruning": what}) for what in ("kept", "cut"))
        audits = _Family("COUNTER", "elastriton_cascade_audits_total", "Early answers audited by the large model")
        self._audits = {what: audits.metric(by_model | {"agrees": str(what).lower()}) for what in (True, False)}
        alarm = _Family("GAUGE", "elastriton_cascade_alarm", "1 once early answers are wrong more often than certified")
        self._alarm = alarm.metric(by_model)
        with TELLING:
            self._alarm.metric.set(0.0)  # the server keeps the value of a model that is loaded again
        self._book = Book()
        self.close = self._book.close

    def answered(self, level: int, *, fallback: bool, in_time: bool) -> None:
        """Note one answer."""
        self._book.add(self._levels[level])
        self._book.add(self._outcomes[self._task, "in_time" if in_time else "late"])
        if fallback:
            self._book.add(self._fallbacks)

    def lost(self, outcome: Lost) -> None:
        """Note one sample that got an error."""
        self._book.add(self._outcomes[self._task, outcome])

    def shortened(self, words: int, kept: int) -> None:
        """Note one text that was pruned."""
        self._book.add(self._kept, kept)
        self._book.add(self._cut, words - kept)

    def audited(self, agrees: bool, alarm: bool) -> None:
        """Note one audit."""
        self._book.add(self._audits[agrees])
        self._book.set(self._alarm, float(alarm))


class _Family:
    """A metric family of Triton's."""

    def __init__(self, kind: str, name: str, description: str) -> None:
        families = pb_utils.MetricFamily
        with TELLING:
            self._family = families(name=name, description=description, kind=getattr(families, kind))

    def metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Series:
        """One series of the family; histograms have buckets."""
        with TELLING:
            if buckets is None:
                return Series(self._family.Metric(labels=labels), self._family)
            return Series(self._family.Metric(labels=labels, buckets=buckets), self._family)


def _outcomes(model: str, tasks: Iterable[str]) -> dict[tuple[str, str], Series]:
    """A counter for each task and what may become of its samples, by both."""
    family = _Family("COUNTER", "elastriton_outcomes_total", "Valid samples by what became of them")
    return {
        (task, outcome): family.metric({"model": model, "task": task, "outcome": outcome})
        for task in tasks
        for outcome in ("in_time", "late", "dropped", "rejected", "failed")
    }
