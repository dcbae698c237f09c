"""An encoder that never rests, in a process of its own: what its neighbours on the machine cost it.

Batches are small, so that many of them fit into the time of a neighbour.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from overhead import TASK

from elastriton.core.plan import ExecutorPlan
from elastriton.runtime.executor import load_executor

BATCH = 8
SETTLE_S = 0.3
QUIET_S = 1.5

Pixels = NDArray[np.uint8]
Span = tuple[float, float]
"""From when to when, by perf_counter, which all processes share."""


class Restless:
    """The process, as its parent sees it."""

    def __init__(self, switch: Connection) -> None:
        self._switch = switch

    def beside(self, neighbour: Callable[[], Span]) -> tuple[float, Span]:
        """The encoder's speed while a neighbour works ÷ its speed a moment before; and when that was."""
        self._switch.send("on")
        try:
            time.sleep(SETTLE_S)
            quiet = (time.perf_counter(), time.perf_counter() + QUIET_S)
            time.sleep(QUIET_S)
            loud = neighbour()
        finally:
            self._switch.send("off")
            batches: list[Span] = self._switch.recv()
        return per_s(batches, loud) / per_s(batches, quiet), loud


@contextmanager
def restless(plan: ExecutorPlan, build: Path, pixels: Pixels, gamma: int) -> Iterator[Restless]:
    """Start an encoder that encodes `pixels` at a level again and again, whenever `beside` is called."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_encode, args=(plan, build, pixels, gamma, theirs), daemon=True)
    process.start()
    ours.recv()
    try:
        yield Restless(ours)
    finally:
        ours.send("end")
        process.join()


def per_s(batches: Sequence[Span], during: Span) -> float:
    """Batches per second; one that is only partly within the span counts for that part."""
    parts = (
        max(0.0, min(ended_s, during[1]) - max(started_s, during[0])) / (ended_s - started_s)
        for started_s, ended_s in batches
    )
    return sum(parts) / (during[1] - during[0])


def _encode(plan: ExecutorPlan, build: Path, pixels: Pixels, gamma: int, switch: Connection) -> None:
    """The process: encodes between `on` and `off`, and then sends the start and the end of every batch."""
    executor = load_executor(plan, build)
    executor.logits({"pixels": pixels}, [TASK] * len(pixels), gamma)
    switch.send("ready")
    while switch.recv() == "on":
        spans: list[Span] = []
        while not switch.poll():
            start_s = time.perf_counter()
            executor.logits({"pixels": pixels}, [TASK] * len(pixels), gamma)
            spans.append((start_s, time.perf_counter()))
        switch.recv()
        switch.send(spans)
