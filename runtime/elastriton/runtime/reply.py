"""Exactly one answer per request, whatever happens: from any thread, in parts, or by the watchdog when all else fails.

Request ── reply ──► Reply     answers once; later attempts do nothing
                       ▲
          Parts ───────┤       gathers the samples of one request
          Watchdog ────┘       answers what nobody answered in time
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from elastriton.core.errors import UNLOADED, Internal, RequestError, Unavailable
from elastriton.runtime.executor import Arrays
from elastriton.runtime.outbox import Outbox, guarded, started

_LOG = logging.getLogger(__name__)

Deliver = Callable[[Arrays | RequestError], None]


class Reply:
    """The one answer that a request is owed; `deliver` sends it and is called at most once."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._lock = threading.Lock()
        self._on_done: list[Callable[[], None]] = []
        self.done = False

    def send(self, outcome: Arrays | RequestError) -> bool:
        """Answer with output tensors or with an error; False where the request has been answered already."""
        with self._lock:
            if self.done:
                return False
            self.done = True
        try:
            self._deliver(outcome)
        finally:
            for callback in self._on_done:
                callback()
        return True

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call `callback` after the answer; must be registered before the reply is shared between threads."""
        self._on_done.append(callback)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the backends hand it over: its tensors, its parameters (JSON), and the answer it is owed."""

    inputs: Arrays
    parameters: str
    timeout_us: int
    request_id: str
    reply: Reply


class Parts:
    """The samples of one request: the reply goes out when the last one has its result, or the first one fails."""

    def __init__(self, reply: Reply, count: int, combine: Callable[[Sequence[Any]], Arrays]) -> None:
        self.reply = reply
        self._results: list[Any] = [None] * count
        self._missing = count
        self._combine = combine
        self._lock = threading.Lock()

    def put(self, index: int, result: Any) -> None:
        """Note the result of sample `index`; a RequestError is the answer to the whole request."""
        if isinstance(result, RequestError):
            self.reply.send(result)
            return
        with self._lock:
            self._results[index] = result
            self._missing -= 1
            complete = self._missing == 0
        if complete:
            guard(self.reply, lambda: self.reply.send(self._combine(self._results)))


def guard(reply: Reply, work: Callable[[], object], outbox: Outbox | None = None) -> None:
    """Do `work`; should it raise, the request is answered with the error, through the `outbox` if there is one."""
    failure: RequestError
    try:
        work()
        return
    except RequestError as error:
        failure = error
    except Exception as error:
        failure = Internal(f"{type(error).__name__}: {error}")
    if outbox is None:
        reply.send(failure)
    else:
        outbox.put(partial(reply.send, failure))


class Watchdog:
    """Answers what has no answer `grace_s` after its deadline, so that no client hangs on a lost request."""

    def __init__(self, grace_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace_s = grace_s
        self._clock = clock
        self._open: dict[int, tuple[float, Reply]] = {}
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._told = False

    def watch(self, reply: Reply, slo_s: float = 0.0) -> None:
        """Answer `reply` after its `slo_s` and the grace, unless it has been; starts the thread on the first call.

        Raises Unavailable where the thread cannot be started.
        """
        if reply.done:
            return
        key = id(reply)
        reply.when_done(lambda: self._forget(key))
        with self._wake:
            self._open[key] = (self._clock() + slo_s + self._grace_s, reply)
            if self._thread is None:
                self._thread = started("watchdog", self._run)

    def overdue(self, now_s: float) -> list[Reply]:
        """The open replies whose time and grace are over."""
        with self._wake:
            return [reply for due_s, reply in self._open.values() if now_s > due_s]

    def stop(self) -> None:
        """Answer what is still open and end the thread."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
            replies = [reply for _, reply in self._open.values()]
        for reply in replies:
            guarded(partial(reply.send, Unavailable(UNLOADED)))
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stopped:
            guarded(self._look)

    def _look(self) -> None:
        with self._wake:
            if self._stopped:
                return
            self._wake.wait(timeout=min(1.0, self._grace_s / 4))
        overdue = self.overdue(self._clock())
        if overdue:
            guarded(partial(self._tell, len(overdue)))
        error = Unavailable(f"no answer {self._grace_s:g} s after the deadline; a model behind this one may be dead")
        for reply in overdue:
            guarded(partial(reply.send, error))

    def _tell(self, count: int) -> None:
        """Say what is wrong, before answers that may hang as well; the first time also where all threads are."""
        told, self._told = self._told, True
        _LOG.error(
            "%d requests are %g s behind their deadline: something behind this model is stuck", count, self._grace_s
        )
        if not told and sys.__stderr__ is not None:
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)

    def _forget(self, key: int) -> None:
        with self._wake:
            self._open.pop(key, None)
