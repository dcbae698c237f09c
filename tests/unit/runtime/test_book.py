from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from few_threads import refuse

from elastriton.runtime import book as module
from elastriton.runtime.book import Book, Series

LIMIT_S = 30.0


class Metric:
    """What Triton has been told."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.told: list[tuple[str, float]] = []
        self._fault = fault

    def increment(self, value: float) -> None:
        self._tell("increment", value)

    def set(self, value: float) -> None:
        self._tell("set", value)

    def observe(self, value: float) -> None:
        self._tell("observe", value)

    def _tell(self, what: str, value: float) -> None:
        if self._fault:
            raise self._fault
        self.told.append((what, value))


def series(fault: Exception | None = None) -> tuple[Metric, Series]:
    metric = Metric(fault)
    return metric, Series(metric, None)


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """One that flushes when it is told to."""
    monkeypatch.setattr(module, "FLUSH_S", 3600.0)
    book = Book()
    yield book
    book.close()


def test_what_is_noted_goes_out_together(book: Book) -> None:
    (count, counter), (level, gauge), (sizes, histogram) = series(), series(), series()
    for value in (1.0, 2.0, 4.0):
        book.add(counter, value)
        book.set(gauge, value)
        book.observe(histogram, value)
    assert count.told == level.told == sizes.told == []
    book.flush()
    assert count.told == [("increment", 7.0)]
    assert level.told == [("set", 4.0)]
    assert sizes.told == [("observe", 1.0), ("observe", 2.0), ("observe", 4.0)]
    book.flush()
    assert (len(count.told), len(level.told), len(sizes.told)) == (1, 1, 3), "nothing is told twice"


def test_an_update_that_fails_costs_no_other(book: Book) -> None:
    (_, broken), (count, counter) = series(RuntimeError("the server has gone")), series()
    book.add(broken)
    book.add(counter)
    book.flush()
    assert count.told == [("increment", 1.0)]


def test_triton_is_told_before_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.01)
    book, (count, counter) = Book(), series()
    for expected in (1, 2):
        book.add(counter)
        deadline_s = time.monotonic() + LIMIT_S
        while len(count.told) < expected and time.monotonic() < deadline_s:
            time.sleep(0.005)
        assert len(count.told) == expected
    book.close()


def test_nothing_is_lost_between_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.001)
    book, (count, counter) = Book(), series()

    def note() -> None:
        for _ in range(2000):
            book.add(counter)

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    book.close()
    assert sum(value for _, value in count.told) == 8000.0


def test_to_note_is_to_wait_for_nobody_while_triton_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer waits for metrics: services note from the threads that answer."""
    monkeypatch.setattr(module, "FLUSH_S", 0.0)
    book, stuck, go = Book(), threading.Event(), threading.Event()

    class Stuck(Metric):
        def _tell(self, what: str, value: float) -> None:
            stuck.set()
            go.wait(timeout=LIMIT_S)
            super()._tell(what, value)

    metric = Stuck()
    counter = Series(metric, None)
    book.add(counter)
    assert stuck.wait(timeout=LIMIT_S)
    noting = threading.Thread(target=lambda: book.add(counter, 100.0))
    noting.start()
    noting.join(timeout=LIMIT_S / 3)
    waits = noting.is_alive()
    go.set()
    book.close()
    assert not waits
    assert sum(value for _, value in metric.told) == 101.0


def test_a_closed_book_has_told_all_and_tells_at_once(book: Book) -> None:
    count, counter = series()
    book.add(counter)
    book.close()
    assert count.told == [("increment", 1.0)]
    book.add(counter, 2.0)
    assert count.told[1:] == [("increment", 2.0)]


def test_without_a_thread_triton_is_told_at_once(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", refuse)
    count, counter = series()
    book.add(counter)
    assert count.told == [("increment", 1.0)]


def test_closing_tells_what_the_thread_has_not(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may have looked for the last time just before the last note."""
    ended = threading.Thread(target=lambda: None)
    ended.start()
    monkeypatch.setattr(module, "started", lambda *_: ended)
    count, counter = series()
    book.add(counter)
    assert count.told == []
    book.close()
    assert count.told == [("increment", 1.0)]
