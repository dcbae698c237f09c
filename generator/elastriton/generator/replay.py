"""`elastriton replay`: arrivals of a trace against a served repository, every answer judged by its true label.

loads.py ─► arrivals ─► one request each at its time, whatever the server does (open loop) ─► Sent ─► Summary
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Literal

import numpy as np

from elastriton.client import Answer, AsyncClient, ClientError, InvalidInputError, RejectedError
from elastriton.client.transport import Transport
from elastriton.core.errors import ConfigError
from elastriton.generator.config import Config
from elastriton.generator.data import load_data
from elastriton.generator.loads import Load
from elastriton.generator.punctual import punctual

MIN_SLO_MS = 0.001

Outcome = Literal["answered", "rejected", "failed"]


@dataclass(frozen=True)
class Sample:
    """A labelled sample of a task, with the deadline and the utility that its request carries."""

    task: str
    image: bytes | None
    text: str | tuple[str, str] | None
    label: str
    slo_ms: float
    utility: float


@dataclass(frozen=True)
class Sent:
    """What became of one request. Times are in ms and count from its arrival; the client sent it `lag_ms` later."""

    task: str
    at_s: float
    lag_ms: float
    latency_ms: float
    outcome: Outcome
    gamma: int | None
    right: bool
    on_time: bool
    utility: float


@dataclass(frozen=True)
class Summary:
    """One replay in figures. Utility counts right answers in time; `accuracy` is the share of these that are right."""

    requests: int
    utility: float
    on_time: float
    accuracy: float
    p50_ms: float
    p99_ms: float
    dropped: float
    failed: int
    lag_p99_ms: float
    gammas: dict[int, int]


def labelled_samples(config: Config, base: Path, tasks: Sequence[str] = ()) -> dict[str, list[Sample]]:
    """The samples of each task (all classifications with data, or those named) that `elastriton profile` has not seen.

    Raises ConfigError where a task is unknown, has no data, is a regression, or the profile has used all of its data.
    """
    samples: dict[str, list[Sample]] = {}
    classify = [name for name, task in config.tasks.items() if task.data and task.objective == "classification"]
    for name in tasks or classify:
        task = config.tasks.get(name)
        if task is None or task.data is None:
            raise ConfigError(f"task {name!r} has no data to replay; the configuration has {', '.join(config.tasks)}")
        if task.objective == "regression":
            raise ConfigError(f"task {name} is a regression: its answers are neither right nor wrong; name other tasks")
        data = load_data(base / task.data.path).part(task.data.samples)
        if not len(data):
            raise ConfigError(f"the profile uses all of {task.data.path}; lower `samples` of task {name}, or add data")
        samples[name] = [
            Sample(name, image, text, label, task.slo_ms, task.utility)
            for image, text, label in zip_longest(data.images, data.sent_texts, data.labels)
        ]
    if not samples:
        raise ConfigError("no task of the configuration has data to replay")
    return samples


def draw(samples: Mapping[str, Sequence[Sample]], n: int, seed: int) -> list[Sample]:
    """`n` samples, their tasks drawn evenly; each task's samples come in an order of the seed, all before one again."""
    rng = np.random.default_rng([seed, 1])
    names = list(samples)
    chosen = [names[index] for index in rng.integers(len(names), size=n)]
    order = {name: cycle(rng.permutation(len(own)).tolist()) for name, own in samples.items()}
    return [samples[name][next(order[name])] for name in chosen]


async def replay(
    server: str | Transport,
    load: Load,
    samples: Sequence[Sample],
    *,
    timeout_s: float = 30.0,
    same_clock: bool | None = None,
) -> list[Sent]:
    """Send `samples[i]` at `load.arrivals_s[i]`, and wait for every answer. Raises ConfigError where no server answers.

    Deadlines count from the arrival: what is sent late has so much less time, and this process is `punctual` meanwhile.
    `same_clock` is the client's.
    The first requests of a connection are slow: one sample of each task is asked before the clock starts.
    """
    try:
        opened = AsyncClient(server, timeout_s=timeout_s, max_in_flight=len(samples) + 1, same_clock=same_clock)
    except InvalidInputError as error:
        raise ConfigError(f"the url of the server: {error}") from None
    async with opened as client:
        first = {sample.task: sample for sample in samples}
        for sample in first.values():
            answer = await _answer(client, sample)
            if not isinstance(answer, Answer | RejectedError):
                raise ConfigError(f"task {sample.task} cannot be replayed: {type(answer).__name__}: {answer}")
        with punctual():
            start_s = time.perf_counter() + 0.1
            asks = []
            for at_s, sample in zip(load.arrivals_s.tolist(), samples, strict=True):
                await asyncio.sleep(max(0.0, start_s + at_s - time.perf_counter()))
                asks.append(asyncio.create_task(_ask(client, sample, at_s, start_s)))
            return await asyncio.gather(*asks)


async def _ask(client: AsyncClient, sample: Sample, at_s: float, start_s: float) -> Sent:
    lag_ms = (time.perf_counter() - start_s - at_s) * 1000.0
    answer = await _answer(client, replace(sample, slo_ms=max(MIN_SLO_MS, sample.slo_ms - lag_ms)))
    latency_ms = (time.perf_counter() - start_s - at_s) * 1000.0
    if not isinstance(answer, Answer):
        outcome: Outcome = "rejected" if isinstance(answer, RejectedError) else "failed"
        return Sent(sample.task, at_s, lag_ms, latency_ms, outcome, None, False, False, 0.0)
    right, on_time = answer.label == sample.label, latency_ms <= sample.slo_ms
    worth = sample.utility if right and on_time else 0.0
    return Sent(sample.task, at_s, lag_ms, latency_ms, "answered", answer.gamma, right, on_time, worth)


async def _answer(client: AsyncClient, sample: Sample) -> Answer | ClientError:
    [answer] = await client.classify(
        sample.task,
        images=None if sample.image is None else [sample.image],
        texts=None if sample.text is None else [sample.text],
        slo_ms=sample.slo_ms,
        utility=sample.utility,
        return_errors=True,
    )
    return answer


def summarise(sent: Sequence[Sent]) -> Summary:
    """The figures of a replay."""
    answered = [one for one in sent if one.outcome == "answered"]
    in_time = [one for one in answered if one.on_time]
    latencies_ms = [one.latency_ms for one in answered] or [0.0]
    return Summary(
        requests=len(sent),
        utility=sum(one.utility for one in sent),
        on_time=len(in_time) / len(sent),
        accuracy=sum(one.right for one in in_time) / max(1, len(in_time)),
        p50_ms=float(np.percentile(latencies_ms, 50)),
        p99_ms=float(np.percentile(latencies_ms, 99)),
        dropped=sum(one.outcome == "rejected" for one in sent) / len(sent),
        failed=sum(one.outcome == "failed" for one in sent),
        lag_p99_ms=float(np.percentile([one.lag_ms for one in sent], 99)),
        gammas=dict(sorted(Counter(one.gamma for one in answered if one.gamma is not None).items())),
    )
