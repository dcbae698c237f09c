"""What waits for a model that is busy: it gets all of it together, and no more may wait than there is room for.

put(items) ──► what waits ──► one thread: work(all of it)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from elastriton.core.errors import UNLOADED, Unavailable
from elastriton.runtime.outbox import guarded, started

T = TypeVar("T")


class Backlog(Generic[T]):
    """Items for `work`, which a thread of its own calls with all that have come meanwhile; an error in it is logged.

    The thread starts with the first item.
    """

    def __init__(self, work: Callable[[Sequence[T]], object], room: int, name: str) -> None:
        self._work = work
        self._room = room
        self._name = name
        self._waiting: list[T] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def put(self, items: Sequence[T]) -> Sequence[T]:
        """Let `items` wait; those for whom there is no room come back.

        Raises Unavailable after the stop, and where the thread cannot be started.
        """
        with self._wake:
            if self._stopped:
                raise Unavailable(UNLOADED)
            if self._thread is None:
                self._thread = started(self._name, self._run)
            room = self._room - len(self._waiting)
            self._waiting += items[:room]
            self._wake.notify()
        return items[room:]

    def stop(self) -> list[T]:
        """Take nothing more, and end the thread once its work at hand is done; what still waited comes back."""
        with self._wake:
            self._stopped = True
            left, self._waiting = self._waiting, []
            self._wake.notify()
        return left

    def join(self) -> None:
        """Wait for the end of the thread, for a few seconds at most."""
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                items, self._waiting = self._waiting, []
            guarded(partial(self._work, items))
