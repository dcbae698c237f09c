from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from few_threads import refuse

from elastriton.core.errors import Internal, InvalidInput, Rejected, RequestError, Unavailable
from elastriton.runtime.executor import Arrays
from elastriton.runtime.reply import Parts, Reply, Watchdog, guard


def reply() -> tuple[list[Arrays | RequestError], Reply]:
    outcomes: list[Arrays | RequestError] = []
    return outcomes, Reply(outcomes.append)


def at_once(work: Callable[[int], object], count: int = 32) -> None:
    """Run `work` in many threads that start together."""
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait(timeout=10)
        work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in threads)


def total(results: Sequence[int]) -> Arrays:
    return {"TOTAL": np.array([sum(results)])}


def test_a_reply_is_delivered_exactly_once_whoever_tries() -> None:
    for _ in range(20):
        outcomes, owed = reply()
        won: list[bool] = []
        at_once(lambda number, owed=owed, won=won: won.append(owed.send(Rejected(str(number)))))  # type: ignore[misc]
        assert len(outcomes) == 1
        assert sorted(won) == [False] * 31 + [True]


def test_callbacks_run_once_after_the_answer() -> None:
    outcomes, owed = reply()
    seen: list[int] = []
    owed.when_done(lambda: seen.append(len(outcomes)))
    assert (owed.done, seen) == (False, [])
    owed.send({})
    owed.send({})
    assert (owed.done, seen) == (True, [1])


def test_parts_answer_when_the_last_sample_has_its_result() -> None:
    outcomes, owed = reply()
    parts = Parts(owed, 3, total)
    parts.put(2, 100)
    parts.put(0, 1)
    assert outcomes == []
    parts.put(1, 10)
    (outcome,) = outcomes
    assert isinstance(outcome, dict)
    assert outcome["TOTAL"].tolist() == [111]


def test_parts_are_combined_in_the_order_of_the_samples_from_many_threads() -> None:
    outcomes, owed = reply()
    parts = Parts(owed, 32, lambda results: {"ALL": np.array(results)})
    at_once(lambda number: parts.put(number, number))
    (outcome,) = outcomes
    assert isinstance(outcome, dict)
    assert outcome["ALL"].tolist() == list(range(32))


def test_one_failed_sample_is_the_answer_to_the_whole_request() -> None:
    outcomes, owed = reply()
    parts = Parts(owed, 3, total)
    parts.put(0, 1)
    parts.put(1, Rejected("late"))
    parts.put(2, Rejected("later"))
    assert [str(outcome) for outcome in outcomes] == ["late"]


def test_results_that_cannot_be_combined_are_an_internal_error() -> None:
    outcomes, owed = reply()
    Parts(owed, 1, total).put(0, "text")
    assert type(outcomes[0]) is Internal
    assert "TypeError" in str(outcomes[0])


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [(InvalidInput("bad"), InvalidInput, "bad"), (KeyError("TASK"), Internal, "KeyError: 'TASK'")],
)
def test_guard_answers_with_what_the_work_raises(error: Exception, kind: type, text: str) -> None:
    def work() -> None:
        raise error

    outcomes, owed = reply()
    guard(owed, work)
    assert type(outcomes[0]) is kind
    assert str(outcomes[0]) == text


def test_guard_leaves_work_that_succeeds_alone() -> None:
    outcomes, owed = reply()
    guard(owed, lambda: None)
    assert outcomes == []


@contextmanager
def watchdog(limit_s: float, clock: Callable[[], float] = lambda: 0.0) -> Iterator[Watchdog]:
    dog = Watchdog(limit_s, clock)
    yield dog
    dog.stop()


def test_only_what_is_open_for_longer_than_the_limit_is_overdue() -> None:
    now = [0.0]
    (_, first), (_, second) = reply(), reply()
    with watchdog(60.0, lambda: now[0]) as dog:
        dog.watch(first)
        now[0] = 10.0
        dog.watch(second)
        assert dog.overdue(60.0) == []
        assert dog.overdue(60.1) == [first]
        assert dog.overdue(70.1) == [first, second]
        first.send({})
        assert dog.overdue(70.1) == [second]


def test_a_request_with_a_late_deadline_is_given_its_time() -> None:
    now = [0.0]
    (_, soon), (_, late) = reply(), reply()
    with watchdog(60.0, lambda: now[0]) as dog:
        dog.watch(soon, slo_s=0.2)
        dog.watch(late, slo_s=600.0)
        assert dog.overdue(60.1) == []
        assert dog.overdue(60.3) == [soon]
        assert dog.overdue(660.1) == [soon, late]


def test_the_watchdog_answers_what_nobody_answered(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    answered = threading.Event()
    outcomes: list[Any] = []
    now = [0.0]
    owed = Reply(lambda outcome: (outcomes.append(outcome), answered.set()))  # type: ignore[arg-type, func-returns-value]
    with watchdog(0.04, lambda: now[0]) as dog:
        dog.watch(owed)
        now[0] = 1.0
        assert answered.wait(timeout=10)
        assert dog.overdue(1.0) == []
    assert type(outcomes[0]) is Unavailable
    assert "no answer 0.04 s after the deadline" in str(outcomes[0])
    assert "1 requests are 0.04 s behind their deadline" in caplog.text
    assert "in _tell" in capfd.readouterr().err, "where the threads are"


@pytest.mark.parametrize("broken", ["the traceback", "an answer"])
def test_nothing_ends_the_watchdog(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("there is no terminal")

    if broken == "the traceback":
        monkeypatch.setattr("faulthandler.dump_traceback", fail)
    now, answered = [0.0], threading.Semaphore(0)
    with watchdog(0.04, lambda: now[0]) as dog:
        for _ in range(2):
            if broken == "an answer":
                dog.watch(Reply(fail))
            dog.watch(Reply(lambda outcome: answered.release()))
            now[0] += 1.0
            assert answered.acquire(timeout=10)
        assert dog.overdue(now[0]) == []


def test_a_watchdog_whose_thread_cannot_be_started_says_so_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answered = [0.0], threading.Event()
    with watchdog(0.04, lambda: now[0]) as dog:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(Unavailable, match="can't start new thread"):
                dog.watch(reply()[1])
        dog.watch(Reply(lambda outcome: answered.set()))
        now[0] = 1.0
        assert answered.wait(timeout=10)


def test_the_watchdog_answers_everything_at_its_end_and_ends_its_thread() -> None:
    before = threading.active_count()
    dog = Watchdog(60.0)
    pairs = [reply() for _ in range(3)]
    for _, owed in pairs:
        dog.watch(owed)
    pairs[0][1].send({})
    assert threading.active_count() == before + 1
    dog.stop()
    assert threading.active_count() == before
    assert pairs[0][0] == [{}]
    assert [type(outcome) for outcomes, _ in pairs[1:] for outcome in outcomes] == [Unavailable, Unavailable]


def test_a_watchdog_that_never_watched_has_no_thread() -> None:
    before = threading.active_count()
    dog = Watchdog(60.0)
    assert threading.active_count() == before
    dog.stop()
