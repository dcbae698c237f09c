"""The outbox: answers leave from threads of their own.

    worker.py ── put(job) ──► a few threads ──► Reply ──► Triton

Sending an answer waits about a millisecond for Triton on a busy machine. An executor's thread would idle meanwhile (a
third of its time, measured), and of a burst's answers, one behind the other on a single thread, the last would wait
longer than its batch took.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

_LOG = logging.getLogger(__name__)

SENDERS = 4


class Outbox:
    """Runs jobs on a few threads, which start with the first one; where there are several, jobs overtake each other."""

    def __init__(self, threads: int = SENDERS) -> None:
        self._count = threads
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def put(self, job: Callable[[], object]) -> None:
        """Have `job` run soon; an error in it is logged. Once the outbox is closed, it runs here and now."""
        with self._lock:
            if not self._closed:
                if not self._threads:
                    self._start()
                self._jobs.put(job)
                return
        guarded(job)

    def close(self) -> None:
        """Run what is left and end the threads; waits for a few seconds at most."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=10.0)

    def _start(self) -> None:
        self._threads = [threading.Thread(target=self._run, name="answers", daemon=True) for _ in range(self._count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            guarded(job)


def guarded(step: Callable[[], object]) -> None:
    """Run `step`; a thread that died of its error would leave every later request without an answer."""
    try:
        step()
    except Exception:
        _LOG.exception("a step failed; its thread goes on")
