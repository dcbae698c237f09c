"""A discrete-event simulation of serving: core's scheduler and a policy, driven as runtime/worker.py drives them.

    arrival ─► host ─► admit (a rejection counts as dropped) ─► executor idle ─► next(now) ─► busy for the true duration

Policies see the measured table, medians and p99s. A batch truly takes its p50 times lognormal noise whose p99 is the
table's; the noise is drawn per batch index, so every policy meets the same stream. An item that ends by its deadline
earns utility x accuracy of its task at the level it ran at (an expectation: no labels are drawn), else nothing. Where
requests cost the machine time outside of the encoder (host.py), they reach the scheduler later, and say so
(`sent_unix_ms`): their deadlines count from their arrival. And batches then take longer, as the host has its share.
A batch is answered, and its executor free, only when the call that brought it there has ended, too.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from host import Host
from setting import Z_MAX, Setting

from elastriton.core.errors import Rejected
from elastriton.core.policy import Decision, Policy
from elastriton.core.queue import Item
from elastriton.core.scheduler import Scheduler

SHORTEST_WAIT_S = 0.001  # the worker's


@dataclass(frozen=True)
class Outcome:
    """What a policy made of a load, and when the last was answered. `accuracy` is the mean over what was in time."""

    served: int
    utility: float
    on_time: float
    accuracy: float
    p50_ms: float
    p99_ms: float
    dropped: float
    ended_s: float
    levels: dict[int, int]
    decision_mean_ms: float
    decision_p99_ms: float


class _Run:
    """The state of one simulation."""

    def __init__(self, setting: Setting, requests: int, policy: Policy, seed: int) -> None:
        self.setting = setting
        self.host = Host(setting.host_ms, setting.calm_ms, setting.late_ms)
        self.scheduler = Scheduler(setting.fresh_outlook(), policy)
        self.overhead_s = setting.overhead_ms / 1000.0
        noise = np.random.default_rng([seed, 2]).standard_normal(requests)
        self.noise = np.clip(noise, -Z_MAX, Z_MAX).tolist()
        self.busy: list[tuple[float, int, float, Decision]] = []  # ends if nothing delays it, number, start, batch
        self.calls: list[tuple[float, int, float, Decision]] = []  # the same of batches that are encoded
        self.wake_s = math.inf
        self.batches = self.dropped = self.in_time = 0
        self.utility = self.accuracy = self.ended_s = 0.0
        self.latencies: list[float] = []
        self.levels: Counter[int] = Counter()
        self.decision_s: list[float] = []

    def next_s(self) -> float:
        """When something happens, arrivals apart."""
        ends_s = self.host.encoded_s(self.busy[0][0]) if self.busy else math.inf
        called_s = self.calls[0][0] if self.calls else math.inf
        return min(ends_s, called_s, self.host.ready_s(bool(self.busy)), self.wake_s)

    def pass_time(self, now_s: float) -> None:
        """Go on to `now_s`: batches that the host kept waiting end later."""
        delay_s = self.host.pass_time(now_s, bool(self.busy))
        if delay_s:
            self.busy = [(ends_s + delay_s, number, start_s, batch) for ends_s, number, start_s, batch in self.busy]

    def settle(self, now_s: float) -> None:
        """Admit who reaches the scheduler now, and answer the batches that end now."""
        encoding = bool(self.busy)
        while self.host.ready_s(encoding) <= now_s:
            self._admit(self.host.next(), now_s)
        while self.busy and self.busy[0][0] <= now_s:
            _, number, start_s, decision = heapq.heappop(self.busy)
            heapq.heappush(self.calls, (now_s + self.setting.call_ms / 1000.0, number, start_s, decision))
        while self.calls and self.calls[0][0] <= now_s:
            _, _, start_s, decision = heapq.heappop(self.calls)
            self._answer(decision, start_s, now_s)

    def dispatch(self, now_s: float) -> None:
        """Give idle executors work until the policy wants to wait or nothing is left."""
        self.wake_s = math.inf
        while len(self.busy) + len(self.calls) < self.setting.executors:
            self._expire(now_s)
            before = time.perf_counter()
            decision = self.scheduler.next(now_s)
            if decision is None:
                return
            self.decision_s.append(time.perf_counter() - before)
            self.dropped += len(decision.drop)
            if decision.batch:
                work_s = self.setting.duration_s(decision.gamma, len(decision.batch), self.noise[self.batches])
                heapq.heappush(self.busy, (now_s + work_s, self.batches, now_s, decision))
                self.batches += 1
            elif not decision.drop:
                if decision.wake_s is not None:
                    self.wake_s = max(decision.wake_s, now_s + SHORTEST_WAIT_S)
                return

    def _admit(self, item: Item, now_s: float) -> None:
        self._expire(now_s)
        try:
            self.scheduler.admit([replace(item, arrival_s=now_s, payload=now_s - item.arrival_s)], now_s)
        except Rejected:
            self.dropped += 1

    def _answer(self, decision: Decision, start_s: float, now_s: float) -> None:
        self.scheduler.ended(decision, start_s, now_s)
        answered_s = self.ended_s = now_s + self.overhead_s
        self.levels[decision.gamma] += len(decision.batch)
        for item in decision.batch:
            self.latencies.append(answered_s - item.arrival_s + item.payload)  # what the host took
            if answered_s <= item.deadline_s:
                right = self.setting.accuracy[item.task][decision.gamma]
                self.in_time += 1
                self.accuracy += right
                self.utility += item.utility * right

    def _expire(self, now_s: float) -> None:
        waiting = self.scheduler.waiting
        if waiting and waiting[0].deadline_s <= now_s:
            self.dropped += len(self.scheduler.expire(now_s))


def simulate(setting: Setting, items: Sequence[Item], policy: Policy, seed: int) -> Outcome:
    """Serve `items`, ordered by arrival, to the end."""
    run = _Run(setting, len(items), policy, seed)
    upcoming = 0
    while True:
        arrival_s = items[upcoming].arrival_s if upcoming < len(items) else math.inf
        now_s = min(arrival_s, run.next_s())
        if now_s == math.inf:
            break
        run.pass_time(now_s)
        while upcoming < len(items) and items[upcoming].arrival_s <= now_s:
            run.host.arrive(items[upcoming])
            upcoming += 1
        run.settle(now_s)
        run.dispatch(now_s)
    run.dropped += len(run.scheduler.waiting)  # a policy that waits for arrivals which never come
    latencies_ms = 1000.0 * np.array(run.latencies or [0.0])
    decision_ms = 1000.0 * np.array(run.decision_s or [0.0])
    return Outcome(
        served=len(run.latencies),
        utility=run.utility,
        on_time=run.in_time / len(items),
        accuracy=run.accuracy / max(1, run.in_time),
        p50_ms=float(np.percentile(latencies_ms, 50)),
        p99_ms=float(np.percentile(latencies_ms, 99)),
        dropped=run.dropped / len(items),
        ended_s=run.ended_s,
        levels=dict(sorted(run.levels.items())),
        decision_mean_ms=float(decision_ms.mean()),
        decision_p99_ms=float(np.percentile(decision_ms, 99)),
    )
