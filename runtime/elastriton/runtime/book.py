"""The book: what services count, kept here and told to Triton together.

    metrics.py ── add, set, observe ──► Book ──► every FLUSH_S, from a thread of its own ──► Triton

Each update is a message to the server and waits for its reply. Told one by one, a dozen of them for every batch took
longer than encoding a small one does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from elastriton.core.errors import Unavailable
from elastriton.runtime.outbox import guarded, started

FLUSH_S = 0.2

TELLING = threading.Lock()
"""Held around every call of Triton's metrics: two threads inside them abort the whole server (2.51, measured)."""


@dataclass(frozen=True, eq=False)
class Series:
    """A metric and its family, which must outlive it: else the next update fails, and may abort the server."""

    metric: Any
    family: Any


class Book:
    """What has been noted of some series since Triton was last told. Any thread may note."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._added: dict[Series, float] = {}
        self._latest: dict[Series, float] = {}
        self._observed: list[tuple[Series, float]] = []
        self._noted = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, counter: Series, value: float = 1.0) -> None:
        """Raise a counter."""
        with self._lock:
            self._added[counter] = self._added.get(counter, 0.0) + value
        self._soon()

    def set(self, gauge: Series, value: float) -> None:
        """Set a gauge: of several values between two flushes, Triton hears of the last."""
        with self._lock:
            self._latest[gauge] = value
        self._soon()

    def observe(self, histogram: Series, value: float) -> None:
        """Note a value of a histogram."""
        with self._lock:
            self._observed.append((histogram, value))
        self._soon()

    def flush(self) -> None:
        """Tell Triton now; an error costs the update that it hits and no other."""
        with self._lock:
            added, latest, observed = self._added, self._latest, self._observed
            self._added, self._latest, self._observed = {}, {}, []
        updates: list[Callable[[], object]] = [partial(one.metric.observe, value) for one, value in observed]
        updates += [partial(one.metric.increment, value) for one, value in added.items()]
        updates += [partial(one.metric.set, value) for one, value in latest.items()]
        for update in updates:
            with TELLING:
                guarded(update)

    def close(self) -> None:
        """Tell Triton what is left; what is noted later goes out at once."""
        self._closed.set()
        self._noted.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        self.flush()

    def _soon(self) -> None:
        """Have the thread flush in FLUSH_S; where there is none any more, or none can be started, do so now."""
        if self._noted.is_set() and not self._closed.is_set():
            return
        try:
            with self._lock:
                if self._thread is None and not self._closed.is_set():
                    self._thread = started("metrics", self._run)
        except Unavailable:
            self.flush()
            return
        self._noted.set()
        if self._closed.is_set():
            self.flush()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._noted.wait()
            self._closed.wait(FLUSH_S)
            self._noted.clear()
            self.flush()
