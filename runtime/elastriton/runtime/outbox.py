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

from elastriton.core.errors import Unavailable

_LOG = logging.getLogger(__name__)

SENDERS = 4


class Outbox:
    """Runs jobs on a few threads, which start with the first one; jobs overtake each other."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False
        self._told = False

    def put(self, job: Callable[[], object]) -> None:
        """Have `job` run soon; an error in it is logged. Once the outbox is closed, it runs here and now.

        So it does where no thread can be started: rather an answer that takes the caller's time than none.
        """
        with self._lock:
            if not self._closed and self._running():
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

    def _running(self) -> bool:
        """Whether there are threads, after another try to start those that are missing."""
        try:
            while len(self._threads) < SENDERS:
                self._threads.append(started("answers", self._run))
        except Unavailable as error:
            if not self._told:
                _LOG.error("%d of %d threads send answers: %s", len(self._threads), SENDERS, error)
            self._told = True
        return bool(self._threads)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            guarded(job)


def started(name: str, run: Callable[[], object]) -> threading.Thread:
    """A daemon thread that runs `run`. Raises Unavailable where this process may have no more threads."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise Unavailable(f"{error}: raise the server's limit on threads (pids), or retry on another replica") from None
    return thread


def guarded(step: Callable[[], object]) -> bool:
    """Run `step`, and say whether it went well.

    A thread that died of its error would leave every later request without an answer.
    """
    try:
        step()
    except Exception:
        _LOG.exception("a step failed; its thread goes on")
        return False
    return True
