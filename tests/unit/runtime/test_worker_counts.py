"""What the worker tells its observer: each item under one outcome, and how long batches took."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from worker_service import Answers, Blocked, Clock, echo, item, scheduler, take, working

from elastriton.core.drift import Drift
from elastriton.core.errors import Internal, Rejected, Unavailable
from elastriton.core.policy import Decision, LargestBatch, Outlook
from elastriton.core.queue import Item
from elastriton.core.scheduler import Ended
from elastriton.runtime.worker import Lost, Worker


def test_an_error_in_the_observer_does_not_end_the_worker() -> None:
    class Observer:
        calls = 0

        def batch(self, ended: Ended, drift: Drift) -> None:
            self.calls += 1
            raise RuntimeError("metrics are down")

        def lost(self, items: Sequence[Item], outcome: Lost, waiting: int) -> None:
            raise RuntimeError("metrics are down")

    observer = Observer()
    with working(observer=observer) as (worker, answers):
        for name in ("a", "b", "c"):
            worker.submit([item(name)])
            assert take(answers, 1) == {name: f"answer to {name}"}
    assert observer.calls == 3


def test_the_observer_hears_of_everything_that_got_an_error_and_how_many_wait() -> None:
    heard: queue.Queue[tuple[list[Any], Lost, int]] = queue.Queue()
    running, go = threading.Event(), threading.Event()

    class Observer:
        def batch(self, ended: Ended, drift: Drift) -> None: ...

        def lost(self, items: Sequence[Item], outcome: Lost, waiting: int) -> None:
            heard.put(([one.payload for one in items], outcome, waiting))

    def failing(decision: Decision) -> Sequence[Any]:
        running.set()
        go.wait(timeout=20)
        raise Internal("the executor is gone")

    with working(failing, observer=Observer()) as (worker, answers):
        worker.submit([item("unlucky")])
        assert running.wait(timeout=10)
        worker.submit([item("waits")])
        with pytest.raises(Rejected):
            worker.submit([item("hopeless", left_s=1e-6)])
        assert heard.get(timeout=10) == (["hopeless"], "rejected", 1)
        go.set()
        assert {type(result) for result in take(answers, 2).values()} == {Internal}
        assert [heard.get(timeout=10)[:2] for _ in range(2)] == [(["unlucky"], "failed"), (["waits"], "failed")]


def test_what_still_waits_at_the_stop_and_what_comes_behind_it_has_failed() -> None:
    counts = Counts()
    running, go = threading.Event(), threading.Event()

    def slow(decision: Decision) -> Sequence[Any]:
        running.set()
        assert go.wait(timeout=20)
        return [None] * len(decision.batch)

    with working(slow, observer=counts) as (worker, answers):
        worker.submit([item("runs")])
        assert running.wait(timeout=10)
        worker.submit([item("waits")])
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        assert counts.take(1) == [("failed", ["waits"])]
        with pytest.raises(Unavailable):
            worker.submit([item("behind")])
        assert counts.take(1) == [("failed", ["behind"])]
        go.set()
        stopping.join(timeout=10)
        assert type(take(answers, 2)["waits"]) is Unavailable


class Counts:
    """An observer that notes what became of items, and their utility."""

    def __init__(self) -> None:
        self.notes: queue.Queue[tuple[str, Any]] = queue.Queue()

    def batch(self, ended: Ended, drift: Drift) -> None:
        self.notes.put(("in time", (ended.size, sum(ended.in_time.values()), ended.utility)))

    def lost(self, items: Sequence[Item], outcome: Lost, waiting: int) -> None:
        self.notes.put((outcome, [one.payload for one in items]))

    def take(self, count: int) -> list[tuple[str, Any]]:
        return [self.notes.get(timeout=10) for _ in range(count)]


def test_a_result_that_is_an_error_costs_its_neighbours_nothing() -> None:
    def run(decision: Decision) -> Sequence[Any]:
        return [Internal("not finite") if one.payload == "bad" else f"fine, {one.payload}" for one in decision.batch]

    counts = Counts()
    with working(run, observer=counts) as (worker, answers):
        worker.submit([item("bad"), item("a"), item("b")])
        results = take(answers, 3)
        assert type(results.pop("bad")) is Internal
        assert results == {"a": "fine, a", "b": "fine, b"}
        assert counts.take(2) == [("failed", ["bad"]), ("in time", (3, 2, 2.0))]


def test_what_has_been_answered_is_not_run_and_what_is_answered_meanwhile_not_counted_in_time() -> None:
    """Another sample of the same request got an error: the client has its answer."""
    blocked, counts = Blocked(), Counts()
    answered: set[Any] = set()
    run: list[Any] = []

    def noted(decision: Decision) -> Sequence[Any]:
        run.extend(one.payload for one in decision.batch)
        return blocked(decision)

    with working(noted, observer=counts, answered=lambda one: one.payload in answered) as (worker, answers):
        worker.submit([item("running"), item("overtaken")])
        assert blocked.running.wait(timeout=10)
        worker.submit([item("moot"), item("patient")])
        answered |= {"moot", "overtaken"}
        blocked.go.set()
        assert take(answers, 3).keys() == {"running", "overtaken", "patient"}
        assert run == ["running", "overtaken", "patient"]
        expected = [
            ("dropped", ["overtaken"]),
            ("in time", (2, 1, 1.0)),
            ("dropped", ["moot"]),
            ("in time", (1, 1, 1.0)),
        ]
        assert counts.take(4) == expected
    assert counts.notes.empty(), "each item is counted once"


def test_what_is_lost_to_a_stuck_executor_has_failed() -> None:
    clock, blocked, counts = Clock(), Blocked(), Counts()
    with working(blocked, clock=clock, observer=counts) as (worker, answers):
        worker.submit([item("running")])
        assert blocked.running.wait(timeout=10)
        worker.submit([item("late", left_s=6.0)])
        clock.now_s = 7.0
        assert counts.take(1) == [("failed", ["late"])]
        with pytest.raises(Unavailable):
            worker.submit([item("new")])
        assert counts.take(1) == [("failed", ["new"])]
        blocked.go.set()
        take(answers, 2)


def test_the_time_that_a_decision_takes_counts_for_its_batch() -> None:
    clock = Clock()
    ended: queue.Queue[Ended] = queue.Queue()

    class Slow(LargestBatch):
        def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
            clock.now_s += 0.25
            return super().decide(waiting, now_s, outlook)

    class Observer:
        def batch(self, one: Ended, drift: Drift) -> None:
            ended.put(one)

        def lost(self, items: Sequence[Item], outcome: Lost, waiting: int) -> None: ...

    slow = scheduler()
    slow.policy = Slow()
    answers: Answers = queue.Queue()
    worker = Worker(
        slow, echo, lambda one, result: answers.put((one.payload, result)), observer=Observer(), clock=clock
    )
    worker.submit([item("one")])
    assert ended.get(timeout=10).took_ms == pytest.approx(250.0)
    worker.stop()
