"""What waits for the large model: each item by itself, in order of arrival, on threads of their own.

    put(item) ──► what waits ──► a thread of `most`: ask(item)

A thread is held for as long as its call lasts, so that there are as many calls in flight as threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from elastriton.core.errors import UNLOADED, Unavailable
from elastriton.runtime.outbox import guarded, started

T = TypeVar("T")


class Routes(Generic[T]):
    """Runs `ask` for each item; at most `room` of them wait or are being asked for, on at most `most` threads.

    Threads start as they are needed. Where the process may have no more of them, those that run see to all items.
    """

    def __init__(self, ask: Callable[[T], object], most: int, room: int) -> None:
        self._ask = ask
        self._most = most
        self._room = room
        self._waiting: deque[T] = deque()
        self._asked = 0
        self._wake = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def put(self, item: T) -> bool:
        """Let `item` wait; False where there is no room.

        Raises Unavailable after the stop, and where not even one thread can be started.
        """
        with self._wake:
            if self._stopped:
                raise Unavailable(UNLOADED)
            if self._asked + len(self._waiting) >= self._room:
                return False
            if self._asked + len(self._waiting) >= len(self._threads) < self._most:
                self._start()
            self._waiting.append(item)
            self._wake.notify()
        return True

    def stop(self) -> list[T]:
        """End the threads, each once its call at hand is done, without waiting; what still waited comes back."""
        with self._wake:
            self._stopped = True
            left, self._waiting = list(self._waiting), deque()
            self._wake.notify_all()
        return left

    def _start(self) -> None:
        try:
            self._threads.append(started("route", self._run))
        except Unavailable:
            if not self._threads:
                raise

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                item = self._waiting.popleft()
                self._asked += 1
            guarded(partial(self._ask, item))
            with self._wake:
                self._asked -= 1
