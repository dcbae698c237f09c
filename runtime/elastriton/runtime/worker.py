"""The worker: owns the clock and the threads, and moves batches from the scheduler to the executors.

    submit(items) ──► core.Scheduler ──► step(): decide, run, learn ──► outbox ──► answers

One thread per executor runs `step` for ever; answers leave from threads of their own (outbox.py). One more thread
rejects items whose deadline passes while all executors are busy. Threads start on the first `submit`: Triton forbids
calls between models before initialize() has returned.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from elastriton.core.drift import Drift
from elastriton.core.errors import UNLOADED, Internal, RequestError, Unavailable
from elastriton.core.policy import Decision
from elastriton.core.queue import Item
from elastriton.core.scheduler import Ended, Scheduler, hopeless
from elastriton.core.stuck import Pool
from elastriton.runtime.outbox import Outbox, guarded, started

Run = Callable[[Decision], Sequence[Any]]
Answer = Callable[[Item, Any], None]
Lost = Literal["rejected", "dropped", "failed"]

BREATH_S = 0.1
"""Behind a step that failed: on the same queue it may fail again and again, until what waits is late and leaves."""


class Observer(Protocol):
    """Is told what happened, by whichever thread knows it, and must not wait for anything (runtime/metrics.py)."""

    def batch(self, ended: Ended, drift: Drift) -> None:
        """A batch has been run; `drift` holds the factors on measured latencies."""
        ...

    def lost(self, items: Sequence[Item], outcome: Lost, waiting: int) -> None:
        """Items got an error: rejected on arrival, dropped after they had waited, or failed, as their batch or all do.

        Dropped are also those whose request has got an error for another sample. `waiting` others still wait.
        """
        ...


class Worker:
    """Runs decisions with `run` (one result or error per item) and hands every item's outcome to `answer`.

    Items whose request is `answered` already need neither.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        run: Run,
        answer: Answer,
        *,
        answered: Callable[[Item], bool] = lambda _: False,
        executors: int = 1,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._run = run
        self._answer = answer
        self._answered = answered
        self._pool = Pool(executors)
        self._observer = observer
        self.clock = clock
        lock = threading.RLock()
        self._wake = threading.Condition(lock)
        self._earlier = threading.Condition(lock)
        self._looks_s = -math.inf  # when the thread that rejects what is late looks next, by itself
        self.outbox = Outbox()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def submit(self, items: Sequence[Item]) -> None:
        """Queue the items of one request, all or none. Raises Rejected or Unavailable, and then queues none."""
        with self._wake:
            if self._stopped:
                self._note_lost(items, "failed")
                raise Unavailable(UNLOADED)
            now_s = self.clock()
            if stuck := self._pool.stuck(now_s):
                self._note_lost(items, "failed")
                raise stuck
            try:
                self._scheduler.admit(items, now_s)
            except RequestError:
                self._note_lost(items, "rejected")
                raise
            self._start(items)
            self._wake.notify_all()
            if self._scheduler.waiting[0].deadline_s < self._looks_s:
                self._earlier.notify()

    def step(self, executor: int) -> None:
        """Wait for work; then decide, run, answer. The whole engine is these lines."""
        decision, decided_s = self._next_decision()
        if decision.drop:
            self.outbox.put(partial(self._reject, decision.drop, self.clock(), "no level is fast enough any more"))
        if decision.batch:
            self._pool.began(executor, decided_s, decision.finish_s)
            results = self._results(decision)
            self._pool.ended(executor)
            ended_s = self.clock()
            moot = [item for item in decision.batch if self._answered(item)]  # before these results are its answer
            for item, result in zip(decision.batch, results, strict=True):
                self.outbox.put(partial(self._answer, item, result))
            self._learn(decision, decided_s, ended_s, results, moot)

    def stop(self) -> None:
        """Answer what still waits and end the threads; a batch that runs is awaited for a few seconds."""
        with self._wake:
            self._stopped = True
            left = list(self._scheduler.waiting)
            self._scheduler.waiting.remove(left)
            self._wake.notify_all()
            self._earlier.notify()
        self._fail(left, Unavailable(UNLOADED))
        for thread in self._threads:
            thread.join(timeout=10.0)
        self.outbox.close()

    def _next_decision(self) -> tuple[Decision, float]:
        """What to do, and the time it was decided for: deciding takes time, too, and an answer is late by it."""
        with self._wake:
            while not self._stopped:
                now_s = self.clock()
                self._note_lost(self._scheduler.withdraw(self._answered), "dropped")
                decision = self._scheduler.next(now_s)
                if decision is not None and (decision.batch or decision.drop):
                    return decision, now_s
                wake_s = decision.wake_s if decision is not None else None
                self._wake.wait(None if wake_s is None else max(0.001, wake_s - self.clock()))
        return Decision(), self.clock()

    def _learn(
        self, decision: Decision, decided_s: float, ended_s: float, results: Sequence[Any], moot: Sequence[Item]
    ) -> None:
        """Count each item of a batch under one outcome, and note how long the batch took."""
        pairs = zip(decision.batch, results, strict=True)
        failed = [item for item, result in pairs if isinstance(result, RequestError)]
        dropped = [item for item in moot if item not in failed]
        self._note_lost(failed, "failed")
        self._note_lost(dropped, "dropped")
        if len(failed) == len(results):  # how long a failure took says nothing about the encoder
            return
        with self._wake:
            ended = self._scheduler.ended(decision, decided_s, ended_s, lost=[*failed, *dropped])
        if self._observer:
            guarded(partial(self._observer.batch, ended, self._scheduler.outlook.latency.drift))

    def _results(self, decision: Decision) -> Sequence[Any]:
        try:
            results = self._run(decision)
            if len(results) != len(decision.batch):
                raise Internal(f"the executor gave {len(results)} results for {len(decision.batch)} samples")
            return results
        except RequestError as error:
            return [error] * len(decision.batch)
        except Exception as error:
            return [Internal(f"{type(error).__name__}: {error}")] * len(decision.batch)

    def _reject(self, items: Sequence[Item], now_s: float, reason: str) -> None:
        for item in items:
            self._answer(item, hopeless((item.deadline_s - now_s) * 1000.0, reason))
        self._note_lost(items, "dropped")

    def _fail(self, items: Sequence[Item], error: RequestError) -> None:
        for item in items:
            self._answer(item, error)
        self._note_lost(items, "failed")

    def _note_lost(self, items: Sequence[Item], outcome: Lost) -> None:
        if items and self._observer:
            guarded(partial(self._observer.lost, items, outcome, len(self._scheduler.waiting)))

    def _reject_late(self) -> None:
        with self._earlier:
            now_s = self.clock()
            late, stuck = self._scheduler.expire(now_s), self._pool.stuck(now_s)
            if not late:
                waits_s = self._scheduler.waiting[0].deadline_s - now_s if self._scheduler.waiting else 1.0
                waits_s = min(1.0, max(0.001, waits_s))
                self._looks_s = now_s + waits_s
                self._earlier.wait(waits_s)
        if late and stuck:
            self.outbox.put(partial(self._fail, late, stuck))
        elif late:
            self.outbox.put(partial(self._reject, late, now_s, "every executor was busy until now"))

    def _start(self, items: Sequence[Item]) -> None:
        """Start the threads that are missing; where one cannot be, `items` leave the queue. Raises Unavailable."""
        loops: list[tuple[str, Callable[[], None]]] = [
            *(("executor", partial(self.step, executor)) for executor in range(len(self._pool))),
            ("deadlines", self._reject_late),
        ]
        try:
            for name, step in loops[len(self._threads) :]:
                self._threads.append(started(name, partial(self._loop, step)))
        except Unavailable:
            self._scheduler.waiting.remove(items)
            self._note_lost(items, "failed")
            raise

    def _loop(self, step: Callable[[], None]) -> None:
        while not self._stopped:
            if not guarded(step):
                time.sleep(BREATH_S)
