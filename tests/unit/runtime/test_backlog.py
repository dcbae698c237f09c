from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import pytest
from few_threads import refuse

from elastriton.core.errors import Unavailable
from elastriton.runtime.backlog import Backlog


class Busy:
    """Work that goes on when it is told to."""

    def __init__(self) -> None:
        self.begun: queue.Queue[list[int]] = queue.Queue()
        self.go = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> None:
        self.begun.put(list(items))
        assert self.go.acquire(timeout=20)


def test_what_comes_while_the_work_is_busy_is_done_together() -> None:
    busy = Busy()
    backlog = Backlog(busy, 100, "test")
    for items in ([1, 2], [3], [], [4, 5]):
        assert backlog.put(items) == []
        if 1 in items:
            assert busy.begun.get(timeout=10) == [1, 2]
    busy.go.release(2)
    assert busy.begun.get(timeout=10) == [3, 4, 5]
    backlog.stop()
    assert busy.begun.empty()


def test_what_finds_no_room_comes_back() -> None:
    busy = Busy()
    backlog = Backlog(busy, 2, "test")
    backlog.put([1])
    assert busy.begun.get(timeout=10) == [1]
    assert backlog.put([2]) == []
    assert backlog.put([3, 4, 5]) == [4, 5]
    assert backlog.put([6]) == [6]
    busy.go.release(2)
    assert busy.begun.get(timeout=10) == [2, 3]
    assert backlog.put([7]) == []
    busy.go.release()
    backlog.stop()


def test_behind_the_stop_nothing_is_done_or_taken() -> None:
    busy = Busy()
    backlog = Backlog(busy, 100, "test")
    backlog.put([1])
    assert busy.begun.get(timeout=10) == [1]
    backlog.put([2])
    assert backlog.stop() == [2]
    busy.go.release()
    backlog.join()
    assert backlog._thread is not None
    assert not backlog._thread.is_alive()
    with pytest.raises(Unavailable, match="is being unloaded"):
        backlog.put([3])
    assert backlog.stop() == []
    assert busy.begun.empty()
    unused = Backlog(busy, 100, "never used")
    assert unused.stop() == []
    unused.join()


def test_an_error_in_the_work_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    done: queue.Queue[list[int]] = queue.Queue()

    def work(items: Sequence[int]) -> None:
        done.put(list(items))
        raise ValueError("broken")

    backlog = Backlog(work, 100, "test")
    for number in range(3):
        backlog.put([number])
        assert done.get(timeout=10) == [number]
    backlog.stop()
    assert "ValueError: broken" in caplog.text


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy()
    backlog = Backlog(busy, 100, "test")
    with monkeypatch.context() as few:
        few.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Unavailable, match="can't start new thread"):
            backlog.put([1])
    assert backlog.put([2]) == []
    assert busy.begun.get(timeout=10) == [2], "who was told so does not wait"
    busy.go.release()
    backlog.stop()
