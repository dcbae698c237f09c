"""The peers that our policy is compared with, each written from its paper's algorithm over the same latency table.

All of them see what ours sees. Unless a docstring says otherwise they share Clockwork's dispatcher: earliest deadline
first, the largest batch of the most urgent items that the chosen level answers before the first of their deadlines, and
early drops. A peer thus differs in how it chooses levels, not in how carefully it was written. Rates are estimated by
ArrivalRate (two time constants; the larger counts). Peers that work in intervals do so every INTERVAL_S: their
papers' seconds to tens of seconds would outlast every burst of these loads and make them look bad. Latencies are p99s,
with what the scheduler has learnt about them since (core/drift.py).

INFaaS over three resident model sizes is the same class over a setting of three sizes (setting.resident_sizes).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

from setting import Setting
from table import Table

from elastriton.core.joint import Joint
from elastriton.core.load import ArrivalRate
from elastriton.core.otas import Otas
from elastriton.core.policy import Decision, LargestBatch, Outlook, Policy
from elastriton.core.queue import Item

INTERVAL_S = 0.5


class Fixed:
    """One level for everything, with Clockwork's dispatcher: ToMe-fixed below 0, VPT-fixed above.

    At level 0 this is Clockwork (Gujarati et al., OSDI 2020): latencies are predictable, so run the largest batch, by
    earliest deadline, whose latest start has not passed, and drop early what cannot make it.
    """

    def __init__(self, setting: Setting, gamma: int) -> None:
        self._table = Table(setting)
        self._gamma = gamma

    def arrived(self, item: Item) -> None:
        """The load does not matter."""

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        return self._table.dispatch(waiting, now_s, outlook, self._gamma)


class PetS:
    """PetS (Zhou et al., ATC 2022) as a baseline of OTAS: level 0, tasks mixed, first come first served, full batches.

    It knows no deadlines: only what has expired already is dropped (by the scheduler).
    """

    def __init__(self, setting: Setting) -> None:
        self._table = Table(setting)

    def arrived(self, item: Item) -> None:
        """The load does not matter."""

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        batch = tuple(sorted(waiting, key=lambda item: item.arrival_s)[: outlook.max_batch])
        return Decision(batch, 0, self._table.finish_s(0, len(batch), now_s, outlook))


class ModelSwitching:
    """Model-Switching (Zhang et al., HotCloud 2020): the level by load thresholds, found offline.

    A level's threshold is the rate that it sustains; the most accurate level whose threshold is above the estimated
    rate runs the next batch.
    """

    def __init__(self, setting: Setting) -> None:
        self._table = Table(setting)
        self._rate = ArrivalRate()

    def arrived(self, item: Item) -> None:
        self._rate.arrived(item.arrival_s)

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        gamma = self._table.most_accurate(self._rate.per_s(now_s))
        return self._table.dispatch(waiting, now_s, outlook, gamma)


class INFaaS:
    """INFaaS (Romero et al., ATC 2021) with levels as model variants, after its model in Proteus' simulator.

    Variants below the requested accuracy (FLOOR of level 0's) are out of the question. Every interval: if the active
    variant has less than SLACK throughput to spare, larger batches being free, switch to the variant that costs the
    least accuracy among those that have it (the fastest if none has); if the next more accurate one would have it too,
    go back by that one step.
    """

    FLOOR = 0.89  # lets the smallest of bench/sizes.py's models in
    SLACK = 0.05

    def __init__(self, setting: Setting) -> None:
        self._table = table = Table(setting)
        self._variants = [g for g in table.fast_to_slow if table.accuracy[g] >= self.FLOOR * table.accuracy[0]]
        self._active = len(self._variants) - 1
        self._rate = ArrivalRate()
        self._next_s = 0.0

    def arrived(self, item: Item) -> None:
        self._rate.arrived(item.arrival_s)

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        if now_s >= self._next_s:
            self._next_s = now_s + INTERVAL_S
            needed = self._rate.per_s(now_s) * (1.0 + self.SLACK)
            able = [index for index, gamma in enumerate(self._variants) if self._table.per_s[gamma] >= needed]
            self._active = min(max(able, default=0), self._active + 1)
        return self._table.dispatch(waiting, now_s, outlook, self._variants[self._active])


class Proteus:
    """Proteus (Ahmad et al., ASPLOS 2024) on one executor: shares of the requests by level, and adaptive batching.

    Every interval, maximise the mean accuracy over shares z of the levels subject to sum z / throughput <= 1 / (BETA x
    rate): a linear programme with two constraints, so that two levels suffice and all pairs can be tried. Where it is
    infeasible, BETA backs off, which ends at the fastest level. Each batch runs at the level furthest behind its share.
    A batch waits for company until one more request would make its first miss its deadline; heads that cannot make it
    are dropped.
    """

    BETA = 1.05

    def __init__(self, setting: Setting) -> None:
        self._table = Table(setting)
        self._rate = ArrivalRate()
        self._next_s = 0.0
        self._shares: dict[int, float] = {}
        self._served: dict[int, int] = {}

    def arrived(self, item: Item) -> None:
        self._rate.arrived(item.arrival_s)

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        if now_s >= self._next_s:
            self._next_s = now_s + INTERVAL_S
            self._shares = self.shares(self.BETA * self._rate.per_s(now_s))
            self._served = dict.fromkeys(self._shares, 0)
        total = sum(self._served.values()) + 1
        gamma = max(self._shares, key=lambda g: self._shares[g] * total - self._served[g])
        decision = self._table.dispatch(waiting, now_s, outlook, gamma)
        size = len(decision.batch)
        if size and size == len(waiting) - len(decision.drop) and size < self._table.max_batch:
            latest_s = now_s + decision.batch[0].deadline_s - self._table.finish_s(gamma, size + 1, now_s, outlook)
            if latest_s > now_s + 1e-9:
                return Decision(drop=decision.drop, wake_s=latest_s)
        self._served[gamma] += size
        return decision

    def shares(self, per_s: float) -> dict[int, float]:
        """The shares of the best mix at a rate."""
        table = self._table
        best = {table.most_accurate(per_s): 1.0}
        value = table.accuracy[next(iter(best))]
        for fast, slow in combinations(table.fast_to_slow, 2):
            if table.per_s[slow] < per_s <= table.per_s[fast]:
                slow_share = (1 / per_s - 1 / table.per_s[fast]) / (1 / table.per_s[slow] - 1 / table.per_s[fast])
                mixed = slow_share * table.accuracy[slow] + (1.0 - slow_share) * table.accuracy[fast]
                if mixed > value:
                    best, value = {fast: 1.0 - slow_share, slow: slow_share}, mixed
        return best


class SlackFit:
    """SlackFit (Khare et al., SuperServe, NSDI 2025): level and batch from the slack of the most urgent request.

    Offline, all pairs of level and batch size are put into BUCKETS equal buckets by latency. Online, of the pairs that
    the queue can fill and the head's slack allows, take the highest bucket, in it the largest batch, and of those the
    most accurate level. Heads that no pair can serve are dropped.
    """

    BUCKETS = 32

    def __init__(self, setting: Setting) -> None:
        self._table = Table(setting)
        rows = self._table.rows_ms.values()
        self._first_ms = min(row[1] for row in rows)
        self._width_ms = (max(row[-1] for row in rows) - self._first_ms) / self.BUCKETS

    def arrived(self, item: Item) -> None:
        """The load does not matter."""

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        for start, head in enumerate(waiting):
            slack_ms = self._table.slack_ms(head, now_s, outlook)
            pairs = []
            for gamma, row in self._table.rows_ms.items():
                size = min(bisect_right(row, slack_ms) - 1, len(waiting) - start)
                if size > 0:
                    bucket = math.floor((row[size] - self._first_ms) / self._width_ms)
                    pairs.append((bucket, size, self._table.accuracy[gamma], gamma))
            if pairs:
                _, size, _, gamma = max(pairs)
                finish_s = self._table.finish_s(gamma, size, now_s, outlook)
                return Decision(tuple(waiting[start : start + size]), gamma, finish_s, tuple(waiting[:start]))
        return Decision(drop=tuple(waiting))


def policies(setting: Setting) -> dict[str, Callable[[], Policy]]:
    """A factory by name for ours and every peer."""
    fixed = {f"fixed({gamma})": partial(Fixed, setting, gamma) for gamma in setting.outlook.latency.gammas}
    return {
        "ours": Joint,
        "joint-unpriced": lambda: Joint(priced=False),
        "largest-batch": LargestBatch,
        "otas": Otas,
        "slackfit": lambda: SlackFit(setting),
        "proteus": lambda: Proteus(setting),
        "infaas": lambda: INFaaS(setting),
        "model-switching": lambda: ModelSwitching(setting),
        "clockwork": lambda: Fixed(setting, 0),
        "pets": lambda: PetS(setting),
        **fixed,
    }
