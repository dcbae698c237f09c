from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from worker_service import Blocked, Clock, echo, item, scheduler, take, working

from elastriton.core.errors import Internal, InvalidInput, Rejected, Unavailable
from elastriton.core.policy import Decision, LargestBatch
from elastriton.core.queue import Item
from elastriton.runtime.outbox import SENDERS
from elastriton.runtime.worker import Worker


def test_every_item_gets_its_own_result() -> None:
    with working() as (worker, answers):
        worker.submit([item(i) for i in range(10)])
        worker.submit([item(i) for i in range(10, 20)])
        assert take(answers, 20) == {i: f"answer to {i}" for i in range(20)}


def test_what_waits_is_run_in_batches() -> None:
    sizes: list[int] = []
    blocked = Blocked()

    def run(decision: Decision) -> Sequence[Any]:
        sizes.append(len(decision.batch))
        return blocked(decision)

    with working(run) as (worker, answers):
        worker.submit([item("first")])
        assert blocked.running.wait(timeout=10)
        worker.submit([item(i) for i in range(6)])
        blocked.go.set()
        take(answers, 7)
    assert sizes == [1, 4, 2]


def test_no_thread_runs_before_the_first_admitted_item() -> None:
    before = threading.active_count()
    with working() as (worker, answers):
        assert threading.active_count() == before
        with pytest.raises(Rejected):
            worker.submit([item("hopeless", left_s=0.0)])
        assert threading.active_count() == before
        worker.submit([item("a")])
        take(answers, 1)
        assert threading.active_count() == before + 2 + SENDERS
    assert threading.active_count() == before


@pytest.mark.parametrize("allowed", [0, 1])
def test_threads_that_cannot_be_started_are_tried_again_with_the_next_item(
    allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process may have no more of them; before, one of two may have been started."""
    before = threading.active_count()
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if threading.active_count() >= before + allowed:
            raise RuntimeError("can't start new thread")
        start(thread)

    with working() as (worker, answers):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", limited)
            with pytest.raises(Unavailable, match=r"can't start new thread: raise the server's limit"):
                worker.submit([item("unlucky")])
        worker.submit([item("next")])
        assert take(answers, 1) == {"next": "answer to next"}
        assert threading.active_count() == before + 2 + SENDERS
    assert answers.empty(), "who was refused waits no more"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [(ValueError("broken"), Internal, "ValueError: broken"), (InvalidInput("bad"), InvalidInput, "bad")],
)
def test_an_error_in_run_answers_the_whole_batch_and_the_worker_goes_on(
    error: Exception, kind: type, text: str
) -> None:
    failing = [True]

    def run(decision: Decision) -> Sequence[Any]:
        if failing[0]:
            raise error
        return echo(decision)

    with working(run) as (worker, answers):
        worker.submit([item(i) for i in range(3)])
        results = take(answers, 3)
        assert [(type(result), str(result)) for result in results.values()] == [(kind, text)] * 3
        failing[0] = False
        worker.submit([item("next")])
        assert take(answers, 1) == {"next": "answer to next"}


def test_answers_on_their_way_do_not_keep_the_executor_waiting() -> None:
    running = threading.Semaphore(0)
    sending, go = threading.Event(), threading.Event()
    answered: list[Any] = []

    def run(decision: Decision) -> Sequence[Any]:
        running.release()
        return echo(decision)

    def answer(item: Item, result: Any) -> None:
        sending.set()
        assert go.wait(timeout=10)
        answered.append(result)

    worker = Worker(scheduler(), run, answer, clock=Clock())
    worker.submit([item("a")])
    assert sending.wait(timeout=10)
    worker.submit([item("b")])
    assert running.acquire(timeout=10)
    assert running.acquire(timeout=10), "the second batch runs while the first answer is being sent"
    go.set()
    worker.stop()
    assert sorted(answered) == ["answer to a", "answer to b"], "a stop lets no answer be lost"


def test_items_whose_deadline_passes_are_rejected_while_the_executor_is_busy() -> None:
    clock, blocked = Clock(), Blocked()
    with working(blocked, clock=clock) as (worker, answers):
        worker.submit([item("running")])
        assert blocked.running.wait(timeout=10)
        worker.submit([item("late", left_s=2.0), item("patient", left_s=500.0)])
        clock.now_s = 3.0
        name, result = answers.get(timeout=10)
        assert (name, type(result)) == ("late", Rejected)
        assert "every executor was busy" in str(result)
        blocked.go.set()
        assert take(answers, 2).keys() == {"running", "patient"}


def test_while_no_executor_comes_back_nobody_is_told_that_they_are_busy() -> None:
    """A server that answers nobody must not look well: rejections are no failure to a health check."""
    clock, blocked = Clock(), Blocked()
    with working(blocked, clock=clock) as (worker, answers):
        worker.submit([item("running")])
        assert blocked.running.wait(timeout=10)
        worker.submit([item("late", left_s=6.0), item("patient", left_s=500.0)])
        clock.now_s = 7.0
        name, result = answers.get(timeout=10)
        assert (name, type(result)) == ("late", Unavailable)
        with pytest.raises(Unavailable, match="no executor has answered for 7 s"):
            worker.submit([item("new")])
        blocked.go.set()
        assert take(answers, 2).keys() == {"running", "patient"}
        worker.submit([item("after")])
        assert take(answers, 1) == {"after": "answer to after"}


def test_only_an_earlier_deadline_wakes_the_thread_that_rejects_what_is_late() -> None:
    blocked = Blocked()
    with working(blocked) as (worker, _):
        looks: queue.Queue[float] = queue.Queue()
        expire = worker._scheduler.expire

        def noted(now_s: float) -> list[Item]:
            looks.put(now_s)
            return expire(now_s)

        worker._scheduler.expire = noted  # type: ignore[method-assign]
        worker.submit([item("running")])
        assert blocked.running.wait(timeout=10)
        looks.get(timeout=10)  # by itself it looks once a second
        for number in range(18):
            worker.submit([item(number, left_s=500.0)])
            time.sleep(0.01)
        blocked.go.set()
        assert looks.qsize() <= 9


def test_an_item_that_became_hopeless_is_dropped_and_the_others_are_run() -> None:
    clock, blocked = Clock(), Blocked()
    with working(blocked, clock=clock) as (worker, answers):
        worker.submit([item("running")])
        assert blocked.running.wait(timeout=10)
        worker.submit([item("hopeless", left_s=5.0), item("patient", left_s=500.0)])
        clock.now_s = 4.9995
        blocked.go.set()
        results = take(answers, 3)
        assert type(results["hopeless"]) is Rejected
        assert results["patient"] == "answer to patient"


def test_stop_answers_what_waits_and_lets_the_running_batch_end() -> None:
    blocked = Blocked()
    with working(blocked) as (worker, answers):
        worker.submit([item("running")])
        assert blocked.running.wait(timeout=10)
        worker.submit([item("waiting", left_s=500.0)])
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        name, result = answers.get(timeout=10)
        assert (name, type(result)) == ("waiting", Unavailable)
        with pytest.raises(Unavailable, match="unloaded"):
            worker.submit([item("too late")])
        blocked.go.set()
        assert take(answers, 1) == {"running": "answer to running"}
        stopping.join(timeout=10)
        assert not stopping.is_alive()


def test_a_policy_that_fails_is_not_asked_all_the_time_and_costs_only_who_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, decide = threading.Event(), LargestBatch.decide

    def failing(policy: LargestBatch, *arguments: Any) -> Decision:
        if broken.is_set():
            raise ZeroDivisionError("no rate")
        return decide(policy, *arguments)

    monkeypatch.setattr(LargestBatch, "decide", failing)
    with working(clock=time.monotonic) as (worker, answers):
        broken.set()
        now_s = time.monotonic()
        worker.submit([replace(item("unlucky"), arrival_s=now_s, deadline_s=now_s + 0.5)])
        name, result = answers.get(timeout=10)
        assert (name, type(result)) == ("unlucky", Rejected)
        assert 1 <= len(caplog.records) <= 20
        broken.clear()
        worker.submit([replace(item("next"), arrival_s=now_s, deadline_s=now_s + 60.0)])
        assert take(answers, 1) == {"next": "answer to next"}


def test_as_many_batches_run_at_once_as_there_are_executors() -> None:
    together = threading.Barrier(2)

    def run(decision: Decision) -> Sequence[Any]:
        together.wait(timeout=10)
        return echo(decision)

    with working(run, executors=2) as (worker, answers):
        worker.submit([item(i) for i in range(5)])
        assert take(answers, 5) == {i: f"answer to {i}" for i in range(5)}
