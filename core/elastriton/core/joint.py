"""The joint plan: batches and their levels in one dynamic programme over the waiting items.

Given an order of the items, over positions i and times t on a grid,

    V[i][t] = max of  V[i+1][t]                                                  pass item i over
                      gain(i, S, gamma) + V[i+S][t + latency(gamma, S)]          run the next S items at gamma

where a run must end before the first deadline in it (items that would be late are better passed over), latencies are
p99s all along the plan, and V[n][t] prices the time that the executor is busy, see core/load.py. For items that all
gain alike, some best schedule follows the order of deadlines (an exchange argument as in Lawler and Moore, 1969). Tasks
that gain differently want batches of their own, at levels of their own: so a few orders are solved, and the best plan
is taken. Compiled by numba.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from elastriton.core.load import RecentRate, price_of_time
from elastriton.core.policy import Decision, LargestBatch, Outlook
from elastriton.core.queue import Item

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _compiled(function: F) -> F:
    """numba's njit, cached on disk where there is a place to write to."""
    try:
        compiled: F = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        compiled = njit(nogil=True)(function)
    return compiled


@_compiled
def solve(
    deadlines: Floats,
    gains: Floats,
    sizes: Ints,
    latency: Floats,
    executors: int,
    step: float,
    times: int,
    price: float,
) -> tuple[float, int, int, int]:
    """The best schedule: (value, items to pass over, size of the first batch, its level); size 0 where nothing pays.

    All times are in ms from now: `deadlines` [n], `latency` [levels, sizes] on each of `executors`, and the time grid
    of `times` steps of `step`. `gains` [levels, n + 1] are prefix sums of utility x accuracy, `sizes` the batch sizes
    to consider, ascending, and `price` what a ms of the executors' time is worth.
    """
    n = deadlines.shape[0]
    levels, n_sizes = latency.shape
    steps = np.ceil(latency / (executors * step) - 1e-9).astype(np.int64)  # a pool is as one that is so much faster
    value = np.empty((n + 1, times + 1))
    value[n] = -price * step * np.arange(times + 1)
    run_size = np.zeros(n, dtype=np.int64)
    run_level = np.zeros(n, dtype=np.int64)
    limit = np.empty(n_sizes)  # the first deadline among the next sizes[s] items
    for i in range(n - 1, -1, -1):
        fitting, seen, first = 0, i, deadlines[i]
        while fitting < n_sizes and i + sizes[fitting] <= n:
            while seen < i + sizes[fitting]:
                first = min(first, deadlines[seen])
                seen += 1
            limit[fitting] = first
            fitting += 1
        row = value[i]
        row[:] = value[i + 1]
        for s in range(fitting):
            size = sizes[s]
            after = value[i + size]
            for g in range(levels):
                latest = min(times, int(np.floor((limit[s] - latency[g, s]) / step + 1e-9)))
                if latest < 0:
                    continue
                gain = gains[g, i + size] - gains[g, i]
                if gain + after[min(steps[g, s], times)] >= row[0] - 1e-9:  # on a tie the larger, more accurate batch
                    run_size[i], run_level[i] = size, g
                within = min(latest, times - steps[g, s])
                for t in range(within + 1):
                    row[t] = max(row[t], gain + after[t + steps[g, s]])
                for t in range(max(within + 1, 0), latest + 1):
                    row[t] = max(row[t], gain + after[times])
    first_run = 0
    while first_run < n - 1 and run_size[first_run] == 0:
        first_run += 1
    return value[0, 0], first_run, run_size[first_run], run_level[first_run]


@_compiled
def in_chunks(left_ms: Floats, worth: Floats, order: Ints, chunk: int, most: int) -> tuple[Floats, Floats]:
    """Of the items in `order`, in at most `most` chunks: first deadlines [n], prefix sums of worth [levels, n + 1]."""
    levels = worth.shape[0]
    n = min(most, (order.shape[0] + chunk - 1) // chunk)
    first, gains = np.empty(n), np.zeros((levels, n + 1))
    for i in range(n):
        gains[:, i + 1] = gains[:, i]
        first[i] = np.inf
        for index in order[i * chunk : (i + 1) * chunk]:
            first[i] = min(first[i], left_ms[index])
            for g in range(levels):
                gains[g, i + 1] += worth[g, index]
    return first, gains


def compile_now() -> None:
    """Have it all compiled before the first decision: it takes seconds, or a moment where numba has it on disk."""
    in_chunks(np.ones(1), np.ones((1, 1)), np.zeros(1, dtype=np.int64), 1, 1)
    solve(np.ones(1), np.ones((1, 2)), np.ones(1, dtype=np.int64), np.ones((1, 1)), 1, 1.0, 2, 0.0)


class Joint:
    """Plan batches and levels jointly for all that waits; run the first batch of the plan; plan again afterwards.

    1. Drop items that no level typically answers in time any more, even alone.
    2. Solve the dynamic programme for the items by deadline, with the executor's time priced at what recent arrivals
       would lose by it. The price falls to zero as the queue fills the time it has, and there is none where arrivals
       saturate even the cheapest level: what the programme has to pass over prices time better then. A queue of more
       than `POSITIONS` items is taken in chunks, and of one beyond `LOOK_AHEAD` the most urgent part.
    3. Where several tasks or utilities wait, solve it also for orders in which each of them comes in blocks, ordered by
       their first deadline, and take the plan that is worth most.
    4. Run its first batch. Items that the plan passes over keep waiting: the next one may have room for them. Where it
       has no batch, because none is safely in time, fall back to LargestBatch.
    """

    TIMES = 64
    POSITIONS = 64
    LOOK_AHEAD = 512
    SHARE = 0.8
    SATURATED = 0.9
    TRUST = 0.7  # of the price: a rate of so few arrivals is often too high
    SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)

    def __init__(self, *, priced: bool = True, blocks: Sequence[int] = (4, 16)) -> None:
        self._rate = RecentRate() if priced else None
        self._blocks = tuple(blocks)

    def arrived(self, item: Item) -> None:
        """Note the arrival, for the price of time."""
        if self._rate is not None:
            self._rate.arrived(item.arrival_s, item.deadline_s - item.arrival_s)

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        """The first batch of the best plan."""
        alive: list[Item] = []
        lost: list[Item] = []
        for item in waiting[: self.LOOK_AHEAD]:
            (alive if outlook.reachable(item, now_s) else lost).append(item)
        drop = tuple(lost)
        if not alive:
            return Decision(drop=drop)
        queue = _Queue(alive, now_s, outlook, self)
        price = self._price_per_ms(queue, now_s)
        plans = [self._plan(queue, order, price) for order in _orders(alive, self._blocks)]
        _, chosen, level = max(plans, key=lambda plan: plan[0])
        if len(chosen) == 0:  # nothing is safely in time, or the chunks of a long queue are too coarse
            return replace(LargestBatch().decide(alive, now_s, outlook), drop=drop)
        batch = tuple(alive[index] for index in chosen)
        gamma = queue.gammas[level]
        return Decision(batch, gamma, outlook.finish_s(batch, gamma, now_s), drop)

    def _price_per_ms(self, queue: _Queue, now_s: float) -> float:
        if self._rate is None:
            return 0.0
        rate_per_ms = self._rate.per_s(now_s) / 1000.0
        if rate_per_ms * min(queue.cost_ms) > self.SATURATED:
            return 0.0
        worth = queue.worth.mean(axis=1).tolist()
        return self.TRUST * (1.0 - queue.busy()) * price_of_time(rate_per_ms, queue.cost_ms, worth)

    def _plan(self, queue: _Queue, order: Ints, price: float) -> tuple[float, Ints, int]:
        """The value of the best plan in this order, and its first batch: item numbers and level."""
        chunk = queue.chunk
        left_ms, gains = in_chunks(queue.left_ms, queue.worth, order, chunk, self.POSITIONS)
        price = min(price, self.SHARE * queue.executors * float((gains[:, queue.sizes] / queue.latency_ms).max()))
        grid = (queue.sizes, queue.latency_ms, queue.executors, queue.last_ms / self.TIMES, self.TIMES)
        value, first, size, level = solve(left_ms, gains, *grid, price)
        if size == 0:  # every batch looked too dear: an executor that idles earns nothing at all
            value, first, size, level = solve(left_ms, gains, *grid, 0.0)
        return value, order[first * chunk : (first + size) * chunk], level


def _orders(items: Sequence[Item], blocks: Sequence[int]) -> list[Ints]:
    """Item numbers by deadline; then, for each block size, in blocks of one task and utility, by first deadline."""
    orders = [np.arange(len(items))]
    classes: dict[tuple[str, float], list[int]] = {}
    for index, item in enumerate(items):
        classes.setdefault((item.task, item.utility), []).append(index)
    if 1 < len(classes) < len(items):
        for size in blocks:
            parts = [members[i : i + size] for members in classes.values() for i in range(0, len(members), size)]
            parts.sort(key=lambda part: part[0])
            orders.append(np.array([index for part in parts for index in part]))
    return orders


class _Queue:
    """The waiting items as arrays: time left [n] in ms, worth [levels, n], and what batches of some sizes take."""

    def __init__(self, items: Sequence[Item], now_s: float, outlook: Outlook, policy: Joint) -> None:
        length = max(item.length for item in items)
        self.gammas = outlook.latency.gammas
        self.executors = outlook.executors
        worth = {
            task: [outlook.floors.weight(task) * outlook.accuracy[task].get(gamma, -1e9) for gamma in self.gammas]
            for task in {item.task for item in items}
        }
        utility = np.array([item.utility for item in items])
        self.worth: Floats = np.ascontiguousarray(np.array([worth[item.task] for item in items]).T) * utility
        deadlines = np.array([item.deadline_s for item in items])
        self.left_ms: Floats = (deadlines - now_s) * 1000.0 - outlook.overhead_ms
        self.last_ms = float(self.left_ms.max())
        self.cost_ms = [outlook.latency.cost_ms(gamma, length) / outlook.executors for gamma in self.gammas]
        self.chunk = min(-(-len(items) // policy.POSITIONS), outlook.max_batch)
        chunks = -(-len(items) // self.chunk)
        most = min(chunks, policy.POSITIONS, max(1, outlook.max_batch // self.chunk))
        self.sizes: Ints = np.array([size for size in policy.SIZES if size < most] + [most])
        samples = np.minimum(self.sizes * self.chunk, len(items))
        self.latency_ms: Floats = outlook.latency.all_safe_ms(length)[:, samples]

    def busy(self) -> float:
        """The share of the time left that serving everything at the cheapest level would take, at most 1."""
        return min(1.0, min(self.cost_ms) * len(self.left_ms) / float(self.left_ms.mean()))
