from __future__ import annotations

import queue
import threading

import pytest
from few_threads import refuse

from elastriton.core.errors import Unavailable
from elastriton.runtime.routes import Routes


class Busy:
    """Calls that go on when they are told to."""

    def __init__(self) -> None:
        self.begun: queue.Queue[int] = queue.Queue()
        self.go = threading.Semaphore(0)

    def __call__(self, item: int) -> None:
        self.begun.put(item)
        assert self.go.acquire(timeout=20)

    def take(self, count: int) -> list[int]:
        return [self.begun.get(timeout=10) for _ in range(count)]


def test_as_many_are_asked_for_at_once_as_there_are_threads_and_the_others_wait_their_turn() -> None:
    busy = Busy()
    routes = Routes(busy, 2, 100)
    assert all(routes.put(item) for item in range(5))
    assert sorted(busy.take(2)) == [0, 1]
    assert busy.begun.empty()
    for following in (2, 3, 4):
        busy.go.release()
        assert busy.take(1) == [following]
    busy.go.release(2)
    assert routes.stop() == []


def test_threads_start_as_they_are_needed() -> None:
    busy = Busy()
    routes = Routes(busy, 8, 100)
    for item in range(3):
        routes.put(item)
        assert busy.take(1) == [item]
    assert len(routes._threads) == 3
    busy.go.release(3)
    routes.stop()


def test_who_finds_no_room_does_not_wait() -> None:
    busy = Busy()
    routes = Routes(busy, 1, 2)
    assert routes.put(0)
    assert busy.take(1) == [0]
    assert routes.put(1)
    assert not routes.put(2)
    busy.go.release()
    assert busy.take(1) == [1]
    assert routes.put(3)
    busy.go.release(2)
    assert busy.take(1) == [3]
    routes.stop()


def test_an_error_does_not_end_a_thread(caplog: pytest.LogCaptureFixture) -> None:
    asked: queue.Queue[int] = queue.Queue()

    def fail(item: int) -> None:
        asked.put(item)
        raise ValueError("broken")

    routes = Routes(fail, 1, 1)
    for item in range(3):
        while not routes.put(item):
            pass
        assert asked.get(timeout=10) == item
    routes.stop()
    assert "ValueError: broken" in caplog.text


def test_without_any_thread_it_says_so_and_with_one_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy()
    routes = Routes(busy, 2, 100)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Unavailable, match="can't start new thread"):
            routes.put(0)
    assert routes.put(1)
    assert busy.take(1) == [1]
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert routes.put(2)
    busy.go.release(2)
    assert busy.take(1) == [2]
    assert routes.stop() == []


def test_behind_the_stop_nothing_is_asked_for_or_taken() -> None:
    busy = Busy()
    routes = Routes(busy, 1, 100)
    routes.put(1)
    assert busy.take(1) == [1]
    routes.put(2)
    assert routes.stop() == [2]
    with pytest.raises(Unavailable, match="is being unloaded"):
        routes.put(3)
    busy.go.release()
    routes._threads[0].join(timeout=10)
    assert not routes._threads[0].is_alive()
    assert busy.begun.empty()
