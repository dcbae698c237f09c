"""The scheduling service: requests in, batches to the executor, answers out. The body of backends/elastic_scheduler.

Request ─► items ─► Worker ─► core.Scheduler ─► call(executor, batch, gamma) ─► probabilities ─► Reply
"""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from elastriton.core.confidence import softmax
from elastriton.core.errors import Internal, InvalidInput, Rejected
from elastriton.core.parameters import parse_options
from elastriton.core.plan import SchedulerPlan, TaskPlan
from elastriton.core.policies import POLICIES
from elastriton.core.policy import Decision
from elastriton.core.queue import Item
from elastriton.core.scheduler import Scheduler, by_the_senders_clock
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.reply import Parts, Request, Watchdog, guard
from elastriton.runtime.texts import Encoding, Ids, pad, unpad
from elastriton.runtime.worker import Observer, Worker

Parameters = dict[str, str | int | bool]
Call = Callable[[str, Arrays, Parameters, str], Arrays]
"""(model, inputs, parameters, request id) -> outputs; raises a RequestError. In a stub this is a BLS call."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the scheduler keeps of one sample while it waits."""

    data: Any
    parts: Parts
    index: int
    request_id: str


class SchedulingService:
    """Answers requests for the tasks of one encoder."""

    def __init__(self, plan: SchedulerPlan, call: Call, observer: Observer | None = None) -> None:
        self._plan = plan
        self._call = call
        scheduler = Scheduler(plan.outlook(), POLICIES[plan.policy](), plan.max_queue)
        self._worker = Worker(
            scheduler, self._run, _answer, answered=_answered, executors=plan.executors, observer=observer
        )
        self._watchdog = Watchdog(plan.grace_s)

    def handle(self, request: Request) -> None:
        """Queue a request, or answer it at once with what is wrong with it. Never raises."""
        guard(request.reply, lambda: self._queue(request), self._worker.outbox)

    def stop(self) -> None:
        """Answer everything that is left."""
        self._worker.stop()
        self._watchdog.stop()

    def _queue(self, request: Request) -> None:
        options = parse_options(request.parameters, request.timeout_us)
        task = self._task(request.inputs["TASK"])
        plan = self._plan.tasks[task]
        samples = self._samples(request.inputs)
        parts = Parts(request.reply, len(samples), lambda results: combine(plan, results))
        slo_ms, waited_ms = options.slo_ms or plan.slo_ms, options.waited_ms(time.time() * 1000.0)
        self._watchdog.watch(request.reply, slo_ms / 1000.0)
        now_s = self._worker.clock()
        deadline_s = now_s + (slo_ms - waited_ms) / 1000.0
        utility = options.utility or plan.utility
        items = [
            Item(
                task,
                now_s,
                deadline_s,
                utility,
                length,
                Sample(data, parts, index, request.request_id),
                background=options.background,
            )
            for index, (data, length) in enumerate(samples)
        ]
        try:
            self._worker.submit(items)
        except Rejected as error:
            raise by_the_senders_clock(error, waited_ms, slo_ms) from None

    def _task(self, names: Any) -> str:
        tasks = {name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.ravel()}
        unknown = tasks - self._plan.tasks.keys()
        if unknown or len(tasks) != 1:
            known = ", ".join(sorted(self._plan.tasks))
            raise InvalidInput(f"TASK is {reprlib.repr(sorted(tasks))}; name one task per request, of {known}")
        return tasks.pop()

    def _samples(self, inputs: Arrays) -> list[tuple[Any, int]]:
        """The samples of a request, each with its length in tokens."""
        longest = max(cell.length for cell in self._plan.latency)
        if self._plan.kind == "vision":
            return [(pixels, longest) for pixels in inputs["PIXELS"]]
        ids, mask, segments = (
            inputs[name].astype(np.int64) for name in ("INPUT_IDS", "ATTENTION_MASK", "TOKEN_TYPE_IDS")
        )
        if not ids.shape == mask.shape == segments.shape:
            shapes = f"{list(ids.shape)}, {list(mask.shape)} and {list(segments.shape)}"
            raise InvalidInput(f"INPUT_IDS, ATTENTION_MASK and TOKEN_TYPE_IDS are {shapes}; send them of one shape")
        if not np.array_equal(mask, np.arange(mask.shape[1]) < mask.sum(axis=1, keepdims=True)):
            raise InvalidInput("ATTENTION_MASK must be ones, and then zeros: pad texts behind their end")
        encodings = unpad(ids, mask, segments)
        for encoding in encodings:
            if not 0 < len(encoding) <= longest:
                raise InvalidInput(f"INPUT_IDS has {len(encoding)} tokens; between 1 and {longest} are allowed")
            if self._plan.text is not None:
                _check("INPUT_IDS", encoding.ids, self._plan.text.vocabulary)
                _check("TOKEN_TYPE_IDS", encoding.segments, self._plan.text.segments)
        return [(encoding, len(encoding)) for encoding in encodings]

    def _run(self, decision: Decision) -> Sequence[Any]:
        samples: list[Sample] = [item.payload for item in decision.batch]
        inputs = self._batch([sample.data for sample in samples])
        inputs["TASK"] = np.array([[item.task.encode()] for item in decision.batch], dtype=object)
        outputs = self._call(self._plan.executor, inputs, {"gamma": decision.gamma}, samples[0].request_id)
        logits = outputs.get("LOGITS")
        if logits is None or logits.ndim != 2 or len(logits) != len(samples):
            shape = None if logits is None else logits.shape
            raise Internal(f"{self._plan.executor} answered {len(samples)} samples with LOGITS of shape {shape}")
        plans = [self._plan.tasks[item.task] for item in decision.batch]
        rows = [row[: len(plan.labels) or 1] for plan, row in zip(plans, logits, strict=True)]
        broken = {id(one.parts) for one, row in zip(samples, rows, strict=True) if not np.isfinite(row).all()}
        failure = Internal("the encoder returned logits that are not finite")  # for all samples of a request
        return [
            failure if id(one.parts) in broken else (row, decision.gamma)
            for one, row in zip(samples, rows, strict=True)
        ]

    def _batch(self, data: Sequence[Any]) -> Arrays:
        if self._plan.kind == "vision":
            return {"PIXELS": np.stack(data)}
        encodings: Sequence[Encoding] = data
        return {name.upper(): array for name, array in pad(encodings).items()}


def combine(plan: TaskPlan, results: Sequence[tuple[Floats, int]]) -> Arrays:
    """The output tensors of one request from the (logits of its own classes, gamma) of its samples."""
    gamma = np.array([[gamma] for _, gamma in results], dtype=np.int32)
    logits = np.stack([row for row, _ in results])
    if plan.objective == "regression":
        return {"SCORE": logits.astype(np.float32), "GAMMA": gamma}
    return {**classified(softmax(logits, plan.temperature), plan.labels), "GAMMA": gamma}


def classified(probabilities: Floats, labels: Sequence[str]) -> Arrays:
    """LABEL [n, 1] and PROBABILITIES [n, classes] of calibrated probabilities [n, classes]."""
    label = np.array([[labels[best].encode()] for best in probabilities.argmax(axis=-1)], dtype=object)
    return {"LABEL": label, "PROBABILITIES": probabilities}


def _check(name: str, ids: Ids, rows: int | None) -> None:
    """Raise InvalidInput for an id that the model has no row for: it would cost the whole batch its answer."""
    if rows is not None and len(wrong := ids[(ids < 0) | (ids >= rows)]):
        raise InvalidInput(f"{name} has {wrong[0]}; send ids from 0 to {rows - 1}, as the model's own tokenizer does")


def _answer(item: Item, result: Any) -> None:
    sample: Sample = item.payload
    sample.parts.put(sample.index, result)


def _answered(item: Item) -> bool:
    sample: Sample = item.payload
    return sample.parts.reply.done
