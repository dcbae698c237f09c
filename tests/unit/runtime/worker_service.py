"""A worker over a table of one level that takes 1 ms, for the tests of worker.py."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.policy import Decision, LargestBatch, Outlook
from elastriton.core.queue import Item
from elastriton.core.scheduler import Scheduler
from elastriton.runtime.worker import Run, Worker

Answers = queue.Queue[tuple[Any, Any]]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def item(name: Any, left_s: float = 1000.0) -> Item:
    return Item("t", 0.0, left_s, 1.0, 1, name)


def echo(decision: Decision) -> Sequence[Any]:
    return [f"answer to {item.payload}" for item in decision.batch]


def scheduler() -> Scheduler:
    table = LatencyTable([Cell(0, 1, batch, 1.0, 1.0, 1) for batch in (1, 4)])
    return Scheduler(Outlook(table, {"t": {0: 1.0}}, 4), LargestBatch(), max_queue=20)


@contextmanager
def working(run: Run = echo, **options: Any) -> Iterator[tuple[Worker, Answers]]:
    answers: Answers = queue.Queue()
    options = {"clock": Clock(), **options}
    worker = Worker(scheduler(), run, lambda one, result: answers.put((one.payload, result)), **options)
    yield worker, answers
    worker.stop()


def take(answers: Answers, count: int) -> dict[Any, Any]:
    return dict(answers.get(timeout=10) for _ in range(count))


class Blocked:
    """A run that waits for `go`; `running` is set once it has been entered."""

    def __init__(self) -> None:
        self.go, self.running = threading.Event(), threading.Event()

    def __call__(self, decision: Decision) -> Sequence[Any]:
        self.running.set()
        assert self.go.wait(timeout=20)
        return echo(decision)
