"""Audit early answers after they are out: now and then the large model is asked too, when it has nothing better to do.

early answer ─ share ─► queue ─► large model, late deadline, next to no utility ─► same label? ─► core/audit
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
from collections.abc import Callable
from typing import Protocol

from elastriton.core.audit import Audit, AuditPlan
from elastriton.core.errors import RequestError, Unavailable
from elastriton.runtime.executor import Floats
from elastriton.runtime.outbox import started
from elastriton.runtime.preparing import Row

_LOG = logging.getLogger(__name__)

SLO_MS = 20_000.0
UTILITY = 1e-6
WAITING = 256

Ask = Callable[[Row, float, float], Floats]
"""(sample, slo_ms, utility) -> what the large model says; raises a RequestError."""


class AuditObserver(Protocol):
    """Is told of audits (runtime/metrics.py)."""

    def audited(self, agrees: bool, alarm: bool) -> None:
        """The large model gave its opinion of an early answer; `alarm` once they disagree too often."""
        ...


class Auditing(Protocol):
    """A sample whose answer is out."""

    @property
    def row(self) -> Row: ...


class Auditor:
    """Compares a share of the early answers with the large model's, one at a time, from a thread of its own.

    The scheduler serves these calls last: their deadline is late and their utility next to nothing. What it rejects, or
    what does not fit into the queue, is not counted. The thread starts with the first audit.
    """

    def __init__(self, plan: AuditPlan, ask: Ask, observer: AuditObserver | None, seed: int = 0) -> None:
        self._plan = plan
        self._ask = ask
        self._observer = observer
        self._audit = Audit(plan)
        self._random = random.Random(seed)
        self._queue: queue.Queue[tuple[Row, int] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def distrusts(self) -> bool:
        """Whether early answers are to end: the alarm was raised, and the plan says to fall back."""
        return self._plan.fall_back and self._audit.alarm

    def offer(self, sample: Auditing, values: Floats) -> None:
        """Perhaps audit an early answer."""
        with self._lock:
            if self._stopped or self._random.random() >= self._plan.share:
                return
            try:
                self._thread = self._thread or started("audit", self._run)
                self._queue.put_nowait((sample.row, int(values.argmax())))
            except Unavailable as error:
                _LOG.debug("an audit was left out: %s", error)
            except queue.Full:
                _LOG.debug("an audit was left out: %d wait already", WAITING)

    def stop(self) -> None:
        """Leave out what waits and end the thread."""
        with self._lock:
            self._stopped = True
        if self._thread is None:
            return
        with contextlib.suppress(queue.Full):  # a full queue wakes the thread as well
            self._queue.put_nowait(None)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None and not self._stopped:
            try:
                self._compare(*waiting)
            except RequestError:
                continue
            except Exception:
                _LOG.exception("an audit failed")

    def _compare(self, row: Row, label: int) -> None:
        agrees = int(self._ask(row, SLO_MS, UTILITY).argmax()) == label
        before = self._audit.alarm
        self._audit.observe(disagrees=not agrees)
        if self._audit.alarm and not before:
            _LOG.error("early answers differ from the large model's more often than certified; profile again")
        if self._observer:
            self._observer.audited(agrees, self._audit.alarm)
