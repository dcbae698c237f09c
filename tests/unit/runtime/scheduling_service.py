"""A scheduling service in this process, asked without a server; the executor behind it is a stand-in."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from elastriton.core.errors import RequestError
from elastriton.core.latency import Cell
from elastriton.core.plan import LevelAccuracy, SchedulerPlan, TaskPlan
from elastriton.runtime.executor import Arrays
from elastriton.runtime.reply import Reply, Request
from elastriton.runtime.scheduling import Call, Parameters, SchedulingService
from elastriton.runtime.worker import Observer

Outcome = dict[str, Any] | RequestError


def task(*labels: str, temperature: float = 1.0) -> TaskPlan:
    accuracy = (LevelAccuracy(-2, 0.5), LevelAccuracy(0, 0.9))
    return TaskPlan("classification" if labels else "regression", labels, 60_000.0, 1.0, temperature, accuracy)


CELLS = tuple(Cell(gamma, 8, batch, 1.0, 1.0, 1) for gamma in (-2, 0) for batch in (1, 4))
TASKS = {"two": task("no", "yes"), "three": task("a", "b", "c", temperature=2.0), "score": task()}
VISION = SchedulerPlan("executor", "vision", "largest-batch", TASKS, CELLS, 4, 16, 0.0)
TEXT = replace(VISION, kind="text")


def echo(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
    """Logits are the first pixels (or token ids) of each sample; the executor pads classes with -inf."""
    rows = inputs["PIXELS"][:, 0, 0] if "PIXELS" in inputs else inputs["INPUT_IDS"][:, :3]
    logits = np.asarray(rows, np.float32)[:, :3].copy()
    logits[[name == b"two" for name in inputs["TASK"][:, 0]], 2] = -np.inf
    return {"LOGITS": logits}


@contextmanager
def serving(
    call: Call = echo, plan: SchedulerPlan = VISION, observer: Observer | None = None
) -> Iterator[SchedulingService]:
    service = SchedulingService(plan, call, observer)
    yield service
    service.stop()


def send(service: SchedulingService, inputs: Arrays, **parameters: Any) -> queue.Queue[Outcome]:
    outcomes: queue.Queue[Outcome] = queue.Queue()
    service.handle(Request(inputs, json.dumps(parameters), 0, "id-7", Reply(outcomes.put)))
    return outcomes


def answer(outcomes: queue.Queue[Outcome]) -> dict[str, Any]:
    outcome = outcomes.get(timeout=10)
    assert isinstance(outcome, dict), outcome
    return outcome


def error(outcomes: queue.Queue[Outcome]) -> RequestError:
    outcome = outcomes.get(timeout=10)
    assert isinstance(outcome, RequestError), outcome
    return outcome


def images(name: str, *firsts: Sequence[int]) -> Arrays:
    pixels = np.zeros((len(firsts), 2, 2, 3), np.uint8)
    pixels[:, 0, 0] = firsts
    return {"TASK": np.array([[name.encode()]] * len(firsts), dtype=object), "PIXELS": pixels}
