"""The cascade service: answer what the small model is sure of, re-route the rest. The body of backends/cascade.

    Request ─► tokens ─► small model, one batch for all requests at hand ─┬─ sure ──► answer now
                                                                          └─ unsure ► call(scheduler) ─► blend ─► answer

Every sample is decided alone: one that is sure never waits for a re-routed one, unless both belong to one request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, Protocol

import numpy as np

from elastriton.core.cascade import accepts, blend
from elastriton.core.confidence import softmax
from elastriton.core.errors import Internal, InvalidInput, Rejected, RequestError, Unavailable
from elastriton.core.parameters import parse_options
from elastriton.core.plan import CascadePlan, SmallPlan
from elastriton.runtime.executor import Arrays, Floats, example_inputs, load_plain
from elastriton.runtime.reply import Parts, Request, Watchdog, guard
from elastriton.runtime.scheduling import Call, Parameters, classified
from elastriton.runtime.texts import Encoding, TextTokenizer, pad

_LOG = logging.getLogger(__name__)

ROUTES = 32
"""Calls in flight to the large model: the number that Triton's Python backend allows a process by default."""
MAX_ROUTED = 4096


class CascadeObserver(Protocol):
    """Is told at which level each sample was answered (runtime/metrics.py)."""

    def answered(self, level: int) -> None:
        """A sample has its answer: level 0 is the small model."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One text on its way through the cascade."""

    texts: tuple[bytes, ...]
    small: Encoding | None
    large: Encoding
    deadline_s: float
    utility: float | None
    parts: Parts
    index: int
    request_id: str


class SmallModel:
    """The small model of a cascade, in this process: encodings -> calibrated probabilities."""

    def __init__(self, plan: SmallPlan, folder: Path, task: str) -> None:
        self._executor = load_plain(folder / plan.artifact.path, task, plan.max_batch, plan.threads)
        self._executor.warm_up(lambda batch: example_inputs(None, batch, plan.text.max_length))
        self._plan = plan
        self._task = task

    def probabilities(self, encodings: Sequence[Encoding]) -> Floats:
        """Calibrated probabilities [n, classes] of at most `max_batch` encodings."""
        logits = self._executor.logits(pad(encodings), [self._task] * len(encodings), 0)
        return softmax(logits, self._plan.temperature)


class CascadeService:
    """Answers the requests of one text task."""

    def __init__(self, plan: CascadePlan, folder: Path, call: Call, observer: CascadeObserver | None = None) -> None:
        self._plan = plan
        self._call = call
        self._observer = observer
        self._large = TextTokenizer(folder / plan.tokenizer.path, plan.text.max_length, plan.inputs)
        self._small: SmallModel | None = None
        if plan.small is not None:
            self._small = SmallModel(plan.small, folder, plan.task)
            self._tokenizer = TextTokenizer(folder / plan.small.artifact.path, plan.small.text.max_length, plan.inputs)
        self._routes = ThreadPoolExecutor(ROUTES, thread_name_prefix="route")
        self._room = BoundedSemaphore(MAX_ROUTED)
        self._watchdog = Watchdog(plan.answer_within_s)

    def handle(self, requests: Sequence[Request]) -> None:
        """Answer a group of requests, or see to it that they will be. Never raises."""
        samples: list[Sample] = []
        for request in requests:
            self._watchdog.watch(request.reply)
            guard(request.reply, lambda request=request: samples.extend(self._samples(request)))  # type: ignore[misc]
        if self._small is None:
            for sample in samples:
                self._route(sample, None)
            return
        samples.sort(key=lambda sample: len(sample.small or ()))
        for batch in _chunks(samples, self._plan.small.max_batch if self._plan.small else 1):
            self._decide(self._small, batch)

    def stop(self) -> None:
        """Answer everything that is left."""
        self._routes.shutdown(wait=False, cancel_futures=True)
        self._watchdog.stop()

    def _samples(self, request: Request) -> list[Sample]:
        options = parse_options(request.parameters, request.timeout_us)
        deadline_s = time.monotonic() + (options.slo_ms or self._plan.slo_ms) / 1000.0
        rows = [tuple(row) for row in request.inputs["TEXT"]]
        if not rows:
            raise InvalidInput("TEXT is empty; send at least one sample")
        parts = Parts(request.reply, len(rows), self._combine)
        return [
            Sample(
                texts=row,
                small=self._tokenizer.encode(row, self._plan.max_bytes) if self._small else None,
                large=self._large.encode(row, self._plan.max_bytes),
                deadline_s=deadline_s,
                utility=options.utility,
                parts=parts,
                index=index,
                request_id=request.request_id,
            )
            for index, row in enumerate(rows)
        ]

    def _decide(self, small: SmallModel, batch: Sequence[Sample]) -> None:
        try:
            probabilities = small.probabilities([sample.small for sample in batch if sample.small is not None])
            sure = accepts(probabilities, self._plan.small.threshold if self._plan.small else 1.0)
        except Exception as error:
            for sample in batch:
                sample.parts.put(sample.index, Internal(f"the small model failed: {type(error).__name__}: {error}"))
            return
        for sample, row, final in zip(batch, probabilities, sure, strict=True):
            if final:
                self._put(sample, {"probabilities": row, "level": 0, "gamma": 0})
            else:
                self._route(sample, row)

    def _route(self, sample: Sample, small: Floats | None) -> None:
        if not self._room.acquire(blocking=False):
            sample.parts.put(sample.index, Rejected(f"the queue is full: {MAX_ROUTED} samples await the large model"))
            return
        try:
            self._routes.submit(self._ask_large, sample, small)
        except RuntimeError:
            sample.parts.put(sample.index, Unavailable("the model is being unloaded; retry on another replica"))

    def _ask_large(self, sample: Sample, small: Floats | None) -> None:
        try:
            self._put(sample, self._large_answer(sample, small))
        except RequestError as error:
            sample.parts.put(sample.index, error)
        except Exception as error:
            sample.parts.put(sample.index, Internal(f"{type(error).__name__}: {error}"))
        finally:
            self._room.release()

    def _large_answer(self, sample: Sample, small: Floats | None) -> dict[str, Any]:
        left_ms = (sample.deadline_s - time.monotonic()) * 1000.0
        if left_ms <= 0:
            raise Rejected("the deadline cannot be met: it passed before the large model could be asked; raise slo_ms")
        inputs: Arrays = {name.upper(): array for name, array in pad([sample.large]).items()}
        inputs["TASK"] = np.array([[self._plan.task.encode()]], dtype=object)
        parameters: Parameters = {"slo_ms": f"{left_ms:.3f}"}  # text: calls between models carry no floats
        if sample.utility is not None:
            parameters["utility"] = repr(sample.utility)
        outputs = self._call(self._plan.scheduler, inputs, parameters, sample.request_id)
        answer: dict[str, Any] = {"level": 1, "gamma": int(outputs["GAMMA"][0, 0])}
        if self._plan.objective == "regression":
            return answer | {"score": float(outputs["SCORE"][0, 0])}
        large = np.asarray(outputs["PROBABILITIES"][0], dtype=np.float32)
        weight = self._plan.small_weight if small is not None else 0.0
        return answer | {"probabilities": large if small is None else blend(small, large, weight)}

    def _put(self, sample: Sample, result: dict[str, Any]) -> None:
        sample.parts.put(sample.index, result)
        if self._observer:
            try:
                self._observer.answered(result["level"])
            except Exception:  # the answer is out; what counts it must not spoil the next one
                _LOG.exception("an answer could not be counted")

    def _combine(self, results: Sequence[dict[str, Any]]) -> Arrays:
        outputs: Arrays = {
            "LEVEL": np.array([[result["level"]] for result in results], dtype=np.int32),
            "GAMMA": np.array([[result["gamma"]] for result in results], dtype=np.int32),
        }
        if self._plan.objective == "regression":
            return outputs | {"SCORE": np.array([[result["score"]] for result in results], dtype=np.float32)}
        probabilities = np.stack([result["probabilities"] for result in results])
        return outputs | classified(probabilities, self._plan.labels)


def _chunks(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
