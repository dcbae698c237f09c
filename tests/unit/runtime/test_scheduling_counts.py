"""What the scheduling service counts: answers that somebody got."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scheduling_service import VISION, answer, echo, error, images, send, serving

from elastriton.core.drift import Drift
from elastriton.core.policies import POLICIES
from elastriton.core.policy import Decision, LargestBatch, Outlook
from elastriton.core.queue import Item
from elastriton.core.scheduler import Ended
from elastriton.runtime.executor import Arrays
from elastriton.runtime.scheduling import Parameters
from elastriton.runtime.worker import Lost


class Counts:
    """An observer that counts samples by what became of them."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.utility = 0.0

    def batch(self, ended: Ended, drift: Drift) -> None:
        self.outcomes.update(in_time=sum(ended.in_time.values()), late=sum(ended.late.values()))
        self.utility += ended.utility

    def lost(self, items: Sequence[Item], outcome: Lost, waiting: int) -> None:
        self.outcomes[outcome] += len(items)


class Executor:
    """Its logits are not finite for samples that begin with 66; it waits for `go`, and before 88 for `then`."""

    def __init__(self) -> None:
        self.running, self.go, self.then = (threading.Event() for _ in range(3))
        self.asked: list[int] = []

    def __call__(self, model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        self.running.set()
        assert self.go.wait(timeout=20)
        outputs = echo(model, inputs, parameters, request_id)
        firsts = inputs["PIXELS"][:, 0, 0, 0].tolist()
        self.asked += firsts
        if 88 in firsts:
            assert self.then.wait(timeout=20)
        outputs["LOGITS"][[first == 66 for first in firsts]] = np.nan
        return outputs


def test_logits_that_are_not_finite_cost_their_own_request_alone() -> None:
    executor, counts = Executor(), Counts()
    with serving(executor, observer=counts) as service:
        first = send(service, images("two", [1, 2, 0]))
        assert executor.running.wait(timeout=10)
        bad = send(service, images("three", [9, 1, 2], [66, 1, 2]))
        good = send(service, images("two", [1, 2, 0]))  # in one batch with the bad ones
        executor.go.set()
        assert "not finite" in str(error(bad))
        assert answer(good)["LABEL"].tolist() == answer(first)["LABEL"].tolist() == [[b"yes"]]
    assert executor.asked == [1, 9, 66, 1]
    assert +counts.outcomes == {"in_time": 2, "failed": 2}
    assert counts.utility == pytest.approx(2 * 0.9)


def test_classes_of_another_task_may_be_anything() -> None:
    """An executor of several tasks pads the classes that a task does not have."""
    with serving() as service:
        assert answer(send(service, images("two", [1, 2, 3])))["LABEL"].tolist() == [[b"yes"]]


def test_what_is_left_of_a_request_that_has_its_error_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, counts = Executor(), Counts()

    class OneByOne(LargestBatch):
        """By deadline; but behind the sample that fails comes the one whose batch lasts until its error is out."""

        def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
            return Decision((waiting[-1 if executor.asked[-1:] == [66] else 0],))

    monkeypatch.setitem(POLICIES, "one by one", OneByOne)
    with serving(executor, replace(VISION, policy="one by one"), counts) as service:
        first = send(service, images("two", [1, 2, 0]))
        assert executor.running.wait(timeout=10)
        bad = send(service, images("three", [9, 1, 2], [66, 1, 2], [10, 1, 2], [11, 1, 2]))
        last = send(service, images("three", [88, 1, 2]))
        executor.go.set()
        assert "not finite" in str(error(bad))
        executor.then.set()
        for outcomes in (first, last):
            answer(outcomes)
    assert executor.asked == [1, 9, 66, 88]
    assert +counts.outcomes == {"in_time": 3, "failed": 1, "dropped": 2}
