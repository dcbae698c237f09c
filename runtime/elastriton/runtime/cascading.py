"""The cascade service: answer what a small model is sure of, re-route the rest. The body of backends/cascade.

    Request ─► sample ─► small model, one batch for all samples at hand ─┬─ sure ──► answer now (─► audit, now and then)
                                                                         └─ unsure ► the next small model, or
                            blend ◄─ call(scheduler) ◄─ the large model's reading ◄─ shortened text

Every sample is decided alone: one that is sure never waits for a re-routed one, unless both belong to one request. The
call carries the time that is left, so that the scheduler chooses the large model's token level by it; where it leaves
none, the small model's answer stands, and the response says so (FALLBACK). The next small model takes together all who
wait for it; who finds no room, or has no time left when it is their turn, gets the answer that there is, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from elastriton.core.cascade import accepts, blend
from elastriton.core.errors import UNLOADED, Internal, InvalidInput, Rejected, RequestError, Unavailable
from elastriton.core.parameters import parse_options
from elastriton.core.plan import CascadePlan
from elastriton.runtime.auditing import AuditObserver, Auditor
from elastriton.runtime.backlog import Backlog
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.large import LargeModel
from elastriton.runtime.preparing import Row, Texts
from elastriton.runtime.reply import Parts, Request, Watchdog, guard
from elastriton.runtime.routes import Routes
from elastriton.runtime.scheduling import Call, classified
from elastriton.runtime.small import Opinion, SmallModel
from elastriton.runtime.texts import TooLong, decoded
from elastriton.runtime.words import shorten

_LOG = logging.getLogger(__name__)

ROUTES = 48
"""Calls in flight to the large model: what the scheduler can plan for. `elastriton serve` has 64 threads for them."""
MAX_ROUTED = 4096
"""Samples that may wait for the large model, and for each small one behind the first."""


class CascadeObserver(AuditObserver, Protocol):
    """Is told what becomes of each sample (runtime/metrics.py)."""

    def answered(self, level: int, *, fallback: bool, in_time: bool) -> None:
        """A sample has its answer: level 0 is the first small model; a fallback stands in for the large model's."""
        ...

    def lost(self, outcome: Literal["rejected", "failed", "dropped"]) -> None:
        """A sample has an error for an answer, and not for a mistake of its client's; dropped: that of another one."""
        ...

    def shortened(self, words: int, kept: int) -> None:
        """A text of `words` words was re-routed with `kept` of them."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample on its way through the cascade: as it came, and as the next model reads it."""

    row: Row
    reading: Any
    deadline_s: float
    utility: float | None
    parts: Parts
    index: int
    request_id: str
    opinion: Opinion | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one sample: probabilities [classes] (a regression: [value]), and where it comes from."""

    values: Floats
    level: int
    gamma: int
    fallback: bool = False


class CascadeService:
    """Answers the requests of one task."""

    def __init__(self, plan: CascadePlan, folder: Path, call: Call, observer: CascadeObserver | None = None) -> None:
        self._plan = plan
        self._observer = observer
        self._input = "IMAGE" if plan.kind == "vision" else "TEXT"
        self._large = LargeModel(plan, folder, call)
        self._small = [SmallModel(plan, level, folder) for level in range(len(plan.small))]
        self._routes = Routes(self._ask_large, ROUTES, MAX_ROUTED)
        self._backlogs = [  # of the small models behind the first: not behind calls to the large model
            Backlog(partial(self._decide, level), MAX_ROUTED, f"small {level}") for level in range(1, len(plan.small))
        ]
        self._watchdog = Watchdog(plan.grace_s)
        self._auditor = Auditor(plan.audit, self._second_opinion, observer) if plan.audit else None

    def handle(self, requests: Sequence[Request]) -> None:
        """Answer a group of requests, or see to it that they will be. Never raises."""
        samples: list[Sample] = []
        for request in requests:
            guard(request.reply, partial(self._take_in, request, samples))
        distrusts = self._auditor is not None and self._auditor.distrusts
        self._decide(len(self._small) if distrusts else 0, samples)

    def stop(self) -> None:
        """Answer everything that is left."""
        left = self._routes.stop()
        for backlog in self._backlogs:
            left += backlog.stop()
        for sample in left:
            self._fail(sample, Unavailable(UNLOADED))
        self._watchdog.stop()
        for backlog in self._backlogs:
            backlog.join()
        if self._auditor is not None:
            self._auditor.stop()

    def _take_in(self, request: Request, samples: list[Sample]) -> None:
        """Add a request's samples to `samples`, all or none."""
        options = parse_options(request.parameters, request.timeout_us)
        slo_ms = options.slo_ms or self._plan.slo_ms
        self._watchdog.watch(request.reply, slo_ms / 1000.0)
        left_ms = slo_ms - options.waited_ms(time.time() * 1000.0)
        deadline_s = time.monotonic() + left_ms / 1000.0
        rows = [tuple(row) for row in request.inputs[self._input]]
        if not rows:
            raise InvalidInput(f"{self._input} is empty; send at least one sample")
        parts = Parts(request.reply, len(rows), self._combine)
        samples += [
            Sample(row, self._first_reading(row), deadline_s, options.utility, parts, index, request.request_id)
            for index, row in enumerate(rows)
        ]

    def _first_reading(self, row: Row) -> Any:
        """The row as the first model reads it; None where only the large model can. Raises InvalidInput."""
        if not self._small:
            return self._large.preparation.read(row)
        try:
            return self._small[0].preparation.read(row)
        except TooLong:
            self._large.preparation.read(row)
            return None

    def _decide(self, level: int, samples: Sequence[Sample]) -> None:
        """Answer the samples that small model `level` is sure of, and pass the others on. Never raises."""
        try:
            self._divide(level, samples)
        except Exception as error:  # Triton would answer them all once more
            for sample in samples:
                self._fail(sample, Internal(f"{type(error).__name__}: {error}"))

    def _divide(self, level: int, samples: Sequence[Sample]) -> None:
        if level == len(self._small):
            for sample in samples:
                self._route(sample)
            return
        model = self._small[level]
        if level > 0:
            samples = [self._reread(sample, level) for sample in self._in_time(level, samples)]
        self._pass_on(level + 1, [one for one in samples if one.reading is None])
        readable = sorted((one for one in samples if one.reading is not None), key=lambda one: len(one.reading))
        while readable:
            batch, readable = readable[: model.max_batch], readable[model.max_batch :]
            self._pass_on(level + 1, self._answer_sure(model, batch))
            if level > 0:
                readable = self._in_time(level, readable)

    def _pass_on(self, level: int, samples: Sequence[Sample]) -> None:
        """Have model `level` decide: at once where it is the large one, a small one when it has time."""
        if not samples:
            return
        if level == len(self._small):
            self._decide(level, samples)
            return
        try:
            left = self._backlogs[level - 1].put(samples)
        except Unavailable as error:
            for sample in samples:
                self._fail(sample, error)
            return
        for sample in left:
            self._fall_back(sample, Rejected(f"the queue is full: {MAX_ROUTED} samples await small model {level}"))

    def _in_time(self, level: int, samples: Sequence[Sample]) -> list[Sample]:
        """The samples that small model `level` may still answer in time; for the others it is too late to be asked."""
        samples = [sample for sample in samples if not self._is_moot(sample)]
        now_s = time.monotonic()
        for sample in samples:
            if sample.deadline_s <= now_s:
                late = f"the deadline passed before small model {level} could be asked; raise slo_ms"
                self._fall_back(sample, Rejected(late))
        return [sample for sample in samples if sample.deadline_s > now_s]

    def _answer_sure(self, model: SmallModel, batch: Sequence[Sample]) -> list[Sample]:
        """Answer what the model is sure of; the others come back with its opinion, if it has one."""
        try:
            opinions = model.opinions([sample.reading for sample in batch])
        except Exception as error:
            for sample in batch:
                self._fail(sample, Internal(f"small model {model.level} failed: {error!r}"))
            return []
        sure = accepts(np.array([opinion.confidence for opinion in opinions]), model.plan.threshold)
        unsure = []
        for sample, opinion, final in zip(batch, opinions, sure, strict=True):
            if not opinion.is_finite:
                unsure.append(sample)
                continue
            if not final:
                unsure.append(replace(sample, opinion=opinion))
                continue
            self._put(sample, Result(opinion.values, model.level, 0))
            if self._auditor is not None:
                self._auditor.offer(sample, opinion.values)
        return unsure

    def _reread(self, sample: Sample, level: int) -> Sample:
        try:
            return replace(sample, reading=self._small[level].preparation.read(sample.row))
        except Exception:  # whatever is wrong with it, the large model's reading will say so
            return replace(sample, reading=None)

    def _route(self, sample: Sample) -> None:
        try:
            if not self._routes.put(sample):
                self._fall_back(sample, Rejected(f"the queue is full: {MAX_ROUTED} samples await the large model"))
        except Unavailable as error:
            self._fail(sample, error)

    def _ask_large(self, sample: Sample) -> None:
        if self._is_moot(sample):
            return
        try:
            self._put(sample, self._large_answer(sample))
        except (Rejected, TooLong) as error:
            self._fall_back(sample, error)
        except RequestError as error:
            self._fail(sample, error)
        except Exception as error:
            self._fail(sample, Internal(f"{type(error).__name__}: {error}"))

    def _fall_back(self, sample: Sample, error: Rejected | TooLong) -> None:
        """A larger model has no time for it, or cannot read it: an unsure answer is better than none."""
        if sample.opinion is None:
            self._fail(sample, error)
        else:
            self._put(sample, Result(sample.opinion.values, sample.opinion.level, 0, fallback=True))

    def _large_answer(self, sample: Sample) -> Result:
        left_ms = (sample.deadline_s - time.monotonic()) * 1000.0
        if left_ms <= 0:
            raise Rejected("the deadline passed before the large model could be asked; raise slo_ms")
        opinion = self._last_opinion(sample)
        reading = self._reading(sample, opinion) if self._small else sample.reading
        values, gamma = self._large.ask(reading, left_ms, sample.utility, sample.request_id)
        if opinion is not None:
            values = blend(opinion.values, values, self._plan.small_weight)
        return Result(values, max(1, len(self._small)), gamma)

    def _last_opinion(self, sample: Sample) -> Opinion | None:
        """The last small model's, whom weight and pruning were fitted to; None where it could not read the sample."""
        opinion = sample.opinion
        return opinion if opinion is not None and opinion.level == len(self._small) - 1 else None

    def _reading(self, sample: Sample, opinion: Opinion | None) -> Any:
        """The row as the large model reads it: shortened, or as it came where that has become longer in its tokens."""
        row = self._shortened(sample, opinion)
        try:
            return self._large.preparation.read(row)
        except TooLong:
            if row == sample.row:
                raise
            return self._large.preparation.read(sample.row)

    def _shortened(self, sample: Sample, opinion: Opinion | None) -> Row:
        rule = self._plan.pruning
        if rule is None or opinion is None or opinion.attention is None:
            return sample.row
        preparation = self._small[opinion.level].preparation
        if not isinstance(preparation, Texts):
            return sample.row
        texts = [decoded(text) for text in sample.row]
        short = shorten(texts, preparation.tokenizer.spans(texts), opinion.attention, rule)
        self._note(lambda observer: observer.shortened(short.words, short.kept))
        return short.texts

    def _second_opinion(self, row: Row, slo_ms: float, utility: float) -> Floats:
        """What the large model says of a sample that has its answer.

        Raises Rejected where it says so at another level than the plain one, which the promise compares with.
        """
        values, gamma = self._large.ask(self._large.preparation.read(row), slo_ms, utility, "", background=True)
        if gamma != 0:
            raise Rejected(f"it answered at level {gamma}, and not at 0")
        return values

    def _is_moot(self, sample: Sample) -> bool:
        """Whether its request has got an error already: another sample's, or the watchdog's."""
        if moot := sample.parts.reply.done:
            self._note(lambda observer: observer.lost("dropped"))
        return moot

    def _put(self, sample: Sample, result: Result) -> None:
        if self._is_moot(sample):
            return
        sample.parts.put(sample.index, result)
        in_time = time.monotonic() <= sample.deadline_s
        self._note(lambda observer: observer.answered(result.level, fallback=result.fallback, in_time=in_time))

    def _fail(self, sample: Sample, error: RequestError) -> None:
        sample.parts.put(sample.index, error)
        if not isinstance(error, InvalidInput):
            self._note(lambda observer: observer.lost("rejected" if isinstance(error, Rejected) else "failed"))

    def _note(self, what: Callable[[CascadeObserver], None]) -> None:
        """Tell the observer; what counts answers must not spoil them."""
        if self._observer:
            try:
                what(self._observer)
            except Exception:
                _LOG.exception("an answer could not be counted")

    def _combine(self, results: Sequence[Result]) -> Arrays:
        outputs: Arrays = {
            "LEVEL": np.array([[result.level] for result in results], dtype=np.int32),
            "GAMMA": np.array([[result.gamma] for result in results], dtype=np.int32),
            "FALLBACK": np.array([[result.fallback] for result in results], dtype=np.bool_),
        }
        values = np.stack([result.values for result in results]).astype(np.float32)
        if self._plan.objective == "regression":
            return outputs | {"SCORE": values}
        return outputs | classified(values, self._plan.labels)
