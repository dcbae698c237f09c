"""A discrete-event simulation of serving: core's scheduler and a policy, driven as runtime/worker.py drives them.

    arrival ─► host ─► admit (a rejection counts as dropped) ─► executor idle ─► next(now) ─► busy for the true duration

Policies see the measured table, medians and p99s. A batch truly takes its p50 times lognormal noise whose p99 is the
table's; the noise is drawn per batch index, so every policy meets the same stream. An item that ends by its deadline
earns utility x accuracy of its task at the level it ran at (an expectation: no labels are drawn), else nothing. Where
requests cost the machine time outside of the encoder (host.py), they reach the scheduler later, and say so
(`sent_unix_ms`): their deadlines count from their arrival.
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
    """What a policy made of a load. `accuracy` is the mean over what was answered in time."""

    requests: int
    served: int
    utility: float
    on_time: float
    accuracy: float
    p50_ms: float
    p99_ms: float
    dropped: float
    levels: dict[int, int]
    decisions: int
    decision_mean_ms: float
    decision_p99_ms: float


class _Run:
    """The state of one simulation."""

    def __init__(self, setting: Setting, items: Sequence[Item], policy: Policy, seed: int) -> None:
        self.setting = setting
        self.host = Host([item.arrival_s for item in items], setting.host_ms)
        self.scheduler = Scheduler(setting.fresh_outlook(), policy)
        self.overhead_s = setting.overhead_ms / 1000.0
        noise = np.random.default_rng([seed, 2]).standard_normal(len(items))
        self.noise = np.clip(noise, -Z_MAX, Z_MAX).tolist()
        self.idle = setting.executors
        self.busy_until: list[float] = []
        self.wake_s = math.inf
        self.batches = self.dropped = self.in_time = 0
        self.utility = self.accuracy = 0.0
        self.latencies: list[float] = []
        self.levels: Counter[int] = Counter()
        self.decision_s: list[float] = []

    def admit(self, item: Item) -> None:
        """Queue an item that arrives now, or count it as dropped."""
        self._expire(item.arrival_s)
        try:
            self.scheduler.admit([item], item.arrival_s)
        except Rejected:
            self.dropped += 1

    def dispatch(self, now_s: float) -> None:
        """Give idle executors work until the policy wants to wait or nothing is left."""
        self.wake_s = math.inf
        while self.idle:
            self._expire(now_s)
            before = time.perf_counter()
            decision = self.scheduler.next(now_s)
            if decision is None:
                return
            self.decision_s.append(time.perf_counter() - before)
            self.dropped += len(decision.drop)
            if decision.batch:
                self._start(decision, now_s)
            elif not decision.drop:
                if decision.wake_s is not None:
                    self.wake_s = max(decision.wake_s, now_s + SHORTEST_WAIT_S)
                return

    def _start(self, decision: Decision, now_s: float) -> None:
        size, gamma = len(decision.batch), decision.gamma
        free_s = self.host.end_s(now_s, self.setting.duration_s(gamma, size, self.noise[self.batches]))
        answered_s = free_s + self.overhead_s
        self.scheduler.ended(decision, now_s, free_s)
        self.batches += 1
        self.idle -= 1
        heapq.heappush(self.busy_until, free_s)
        self.levels[gamma] += size
        accuracy = self.setting.accuracy
        for item in decision.batch:
            delay_s = item.payload  # of the host
            self.latencies.append(answered_s - item.arrival_s + delay_s)
            if answered_s <= item.deadline_s:
                right = accuracy[item.task][gamma]
                self.in_time += 1
                self.accuracy += right
                self.utility += item.utility * right

    def _expire(self, now_s: float) -> None:
        waiting = self.scheduler.waiting
        if waiting and waiting[0].deadline_s <= now_s:
            self.dropped += len(self.scheduler.expire(now_s))


def _later(item: Item, delay_s: float) -> Item:
    """As the scheduler sees an item that it gets `delay_s` late."""
    return replace(item, arrival_s=item.arrival_s + delay_s, payload=delay_s)


def simulate(setting: Setting, items: Sequence[Item], policy: Policy, seed: int) -> Outcome:
    """Serve `items`, ordered by arrival, to the end."""
    run = _Run(setting, items, policy, seed)
    items = [_later(item, ready_s - item.arrival_s) for item, ready_s in zip(items, run.host.ready_s, strict=True)]
    upcoming = 0
    while True:
        arrival_s = items[upcoming].arrival_s if upcoming < len(items) else math.inf
        free_s = run.busy_until[0] if run.busy_until else math.inf
        now_s = min(arrival_s, free_s, run.wake_s)
        if now_s == math.inf:
            break
        while upcoming < len(items) and items[upcoming].arrival_s <= now_s:
            run.admit(items[upcoming])
            upcoming += 1
        while run.busy_until and run.busy_until[0] <= now_s:
            heapq.heappop(run.busy_until)
            run.idle += 1
        if run.idle:
            run.dispatch(now_s)
    run.dropped += len(run.scheduler.waiting)  # a policy that waits for arrivals which never come
    latencies_ms = 1000.0 * np.array(run.latencies or [0.0])
    decision_ms = 1000.0 * np.array(run.decision_s or [0.0])
    return Outcome(
        requests=len(items),
        served=len(run.latencies),
        utility=run.utility,
        on_time=run.in_time / len(items),
        accuracy=run.accuracy / max(1, run.in_time),
        p50_ms=float(np.percentile(latencies_ms, 50)),
        p99_ms=float(np.percentile(latencies_ms, 99)),
        dropped=run.dropped / len(items),
        levels=dict(sorted(run.levels.items())),
        decisions=len(run.decision_s),
        decision_mean_ms=float(decision_ms.mean()),
        decision_p99_ms=float(np.percentile(decision_ms, 99)),
    )
