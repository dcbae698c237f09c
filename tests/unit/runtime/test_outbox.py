from __future__ import annotations

import threading

import pytest
from few_threads import refuse

from elastriton.runtime.outbox import SENDERS, Outbox


def test_jobs_run_on_threads_that_start_with_the_first() -> None:
    before = threading.active_count()
    outbox, ran = Outbox(), threading.Event()
    assert threading.active_count() == before
    outbox.put(ran.set)
    assert threading.active_count() == before + SENDERS
    assert ran.wait(timeout=10)
    outbox.close()
    assert threading.active_count() == before


def test_a_job_that_waits_holds_up_no_other() -> None:
    outbox, go, ran = Outbox(), threading.Event(), threading.Event()
    for _ in range(SENDERS - 1):
        outbox.put(lambda: go.wait(timeout=20))
    outbox.put(ran.set)
    assert ran.wait(timeout=10)
    go.set()
    outbox.close()


def test_closing_runs_what_is_left_and_later_jobs_run_at_once() -> None:
    outbox, go = Outbox(), threading.Event()
    done: list[int] = []
    for _ in range(SENDERS):
        outbox.put(lambda: go.wait(timeout=20))
    for number in range(50):
        outbox.put(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == []
    go.set()
    outbox.close()
    assert sorted(done) == list(range(50))
    outbox.put(lambda: done.append(50))
    assert done[-1] == 50


def test_where_no_thread_can_be_started_jobs_run_here_and_the_next_one_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = threading.active_count()
    outbox = Outbox()
    ran: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            outbox.put(lambda: ran.append(threading.current_thread().name))
    assert ran == ["MainThread"] * 3
    assert caplog.text.count("0 of 4 threads send answers: can't start new thread") == 1
    outbox.put(lambda: ran.append(threading.current_thread().name))
    assert threading.active_count() == before + SENDERS
    outbox.close()
    assert ran[3:] == ["answers"]


def test_a_few_threads_are_better_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    outbox, ran = Outbox(), threading.Event()
    start = threading.Thread.start
    with monkeypatch.context() as patch:
        patch.setattr(
            threading.Thread, "start", lambda one: refuse(one) if threading.active_count() > before else start(one)
        )
        outbox.put(ran.set)
        assert ran.wait(timeout=10)
        assert threading.active_count() == before + 1
    outbox.close()
    assert threading.active_count() == before


def test_a_failing_job_is_logged_and_its_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox()
    for _ in range(2 * SENDERS):
        outbox.put(lambda: 1 // 0)
    ran = threading.Event()
    outbox.put(ran.set)
    assert ran.wait(timeout=10)
    outbox.close()
    assert caplog.text.count("ZeroDivisionError") == 2 * SENDERS
