"""The joint plan: batches and their levels in one dynamic programme over the deadline-ordered queue.

With deadlines in order, some best schedule serves batches that are contiguous in that order once the dropped items are
left out (an exchange argument as in Lawler and Moore, 1969). So, over positions i and times t on a grid,

    V[i][t] = max of  V[i+1][t]                                                        drop item i
                      gain(i, S, gamma, t) + V[i+S][t + latency(gamma, S)]            run the next S items at gamma

where the gain counts the items whose deadline lies behind the batch's end, by prefix sums. V[n][t] prices the time that
the executor is busy, see `price_per_s`. Compiled by numba.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from elastriton.core.load import ArrivalRate, price_of_time
from elastriton.core.policy import Decision, Outlook
from elastriton.core.queue import Item

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _compiled(function: F) -> F:
    """numba's njit, cached on disk where there is a place to write to."""
    try:
        compiled: F = njit(cache=True)(function)
    except RuntimeError:
        compiled = njit(function)
    return compiled


@_compiled
def solve(
    deadlines: Floats, gains: Floats, sizes: Ints, latency: Floats, step: float, terminal: Floats, share: float
) -> tuple[float, int, int, int]:
    """The best schedule: (value, items to pass over, size of the first batch, its level); size 0 where nothing pays.

    All times are in ms from now: `deadlines` [n] ascending, `latency` [levels, sizes], `step` of the time grid.
    `gains` [levels, n + 1] are prefix sums of utility x accuracy, `sizes` the batch sizes to consider, ascending, and
    `terminal` [times] the value behind the queue. With several executors a batch takes `share` of the pool's time.
    """
    n = deadlines.shape[0]
    levels, n_sizes = latency.shape
    times = terminal.shape[0]
    steps = np.ceil(latency / step).astype(np.int64)
    taken = np.ceil(latency * share / step).astype(np.int64)
    in_time = np.searchsorted(deadlines, np.arange(times + steps.max() + 1) * step)  # first item still in time then
    value = np.empty((n + 1, times))
    value[n] = terminal
    run_size = np.zeros(n, dtype=np.int64)
    run_level = np.zeros(n, dtype=np.int64)
    for i in range(n - 1, -1, -1):
        for t in range(times):
            best = value[i + 1, t]
            for s in range(n_sizes):
                size = sizes[s]
                if i + size > n:
                    break
                for g in range(levels):
                    end = t + steps[g, s]
                    late = in_time[end] if t > 0 else np.searchsorted(deadlines, latency[g, s])  # now: exactly
                    if late >= i + size:
                        continue
                    gain = gains[g, i + size] - gains[g, max(i, late)]
                    total = gain + value[i + size, min(t + taken[g, s], times - 1)]
                    if total >= best - 1e-9:  # on a tie the larger batch, then the more accurate level
                        best = total
                        if t == 0:
                            run_size[i], run_level[i] = size, g
            value[i, t] = best
    first = 0
    while first < n - 1 and run_size[first] == 0:
        first += 1
    return value[0, 0], first, run_size[first], run_level[first]


def compile_now() -> None:
    """Have `solve` compiled before the first decision: it takes seconds, or a moment where numba has it on disk."""
    one, size = np.ones((1, 1)), np.ones(1, dtype=np.int64)
    solve(np.ones(1), np.ones((1, 2)), size, one, 1.0, np.zeros(2), 1.0)


class Joint:
    """Plan batches and levels jointly for all that waits; run the first batch of the plan; plan again afterwards.

    1. Drop items that no level can answer in time any more, even alone.
    2. Solve the dynamic programme over the queue, with time behind it priced at what recent arrivals would lose by it.
       The price falls to zero as the queue itself fills half of the time it has: what the programme would have to drop
       prices time better then. A queue of more than `POSITIONS` items is taken in chunks.
    3. Where the queue holds more than can be served, solve it again for the items worth at least a cutoff, for a few
       cutoffs, and take the best plan: neighbours in deadline need not be worth the same.
    4. Run the first batch. Items that the plan passes over keep waiting: the next one may have room for them.
    """

    TIMES = 64
    SHARE = 0.8
    POSITIONS = 64
    CUTOFFS = 3
    SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)

    def __init__(self, *, priced: bool = True) -> None:
        self._rate = ArrivalRate() if priced else None

    def arrived(self, item: Item) -> None:
        """Note the arrival, for the price of time."""
        if self._rate is not None:
            self._rate.arrived(item.arrival_s)

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        """The first batch of the best plan."""
        alive: list[Item] = []
        lost: list[Item] = []
        for item in waiting:
            (alive if outlook.reachable(item, now_s) else lost).append(item)
        drop = tuple(lost)
        if not alive:
            return Decision(drop=drop)
        queue = _Queue(alive, now_s, outlook)
        rate_per_ms = self._rate.per_s(now_s) / 1000.0 if self._rate is not None else 0.0
        busy = queue.busy()
        price = max(0.0, 1.0 - 2.0 * busy) * price_of_time(
            rate_per_ms, queue.cost_ms, queue.worth.mean(axis=1).tolist()
        )
        best = self._plan(queue, np.arange(len(alive)), price)
        if busy >= 1.0:
            top = queue.worth.max(axis=0)
            for cutoff in np.unique(np.round(top, 6))[1 : 1 + self.CUTOFFS]:
                best = max(best, self._plan(queue, np.flatnonzero(top >= cutoff - 1e-6), 0.0), key=lambda plan: plan[0])
        _, chosen, level = best
        batch = tuple(alive[index] for index in chosen)
        gamma = queue.gammas[level]
        return Decision(batch, gamma, outlook.finish_s(batch, gamma, now_s), drop)

    def _plan(self, queue: _Queue, kept: Ints, price: float) -> tuple[float, Ints, int]:
        """The value of the best plan for the items `kept`, and its first batch: item numbers and level."""
        chunk = -(-len(kept) // self.POSITIONS)
        starts = np.arange(0, len(kept), chunk)
        left_ms = queue.left_ms[kept]
        prefix = np.concatenate([np.zeros((len(queue.gammas), 1)), queue.worth[:, kept].cumsum(axis=1)], axis=1)
        gains = prefix[:, np.append(starts, len(kept))]
        most = min(len(starts), max(1, queue.max_batch // chunk))
        sizes = np.array([size for size in self.SIZES if size < most] + [most])
        latency = queue.latency(np.minimum(sizes * chunk, len(kept)))
        step = float(left_ms[-1]) / self.TIMES
        price = min(price, self.SHARE * float((gains[:, sizes] / latency).max()))
        grid = np.arange(self.TIMES) * step
        value, first, size, level = solve(left_ms[starts], gains, sizes, latency, step, -price * grid, 1.0)
        if size == 0:  # every batch looked too dear: an executor that idles earns nothing at all
            value, first, size, level = solve(left_ms[starts], gains, sizes, latency, step, 0.0 * grid, 1.0)
        return value, kept[first * chunk : (first + size) * chunk], level


class _Queue:
    """The waiting items as arrays: time left [n] in ms, worth [levels, n], and what levels cost."""

    def __init__(self, items: Sequence[Item], now_s: float, outlook: Outlook) -> None:
        self.gammas = outlook.latency.gammas
        self.max_batch = outlook.max_batch
        self._table = outlook.latency
        self._length = max(item.length for item in items)
        accuracy = {
            task: [outlook.accuracy[task].get(gamma, -1e9) for gamma in self.gammas]
            for task in {item.task for item in items}
        }
        utility = np.array([item.utility for item in items])
        self.worth: Floats = np.array([accuracy[item.task] for item in items]).T * utility
        deadlines = np.array([item.deadline_s for item in items])
        self.left_ms: Floats = (deadlines - now_s) * 1000.0 - outlook.overhead_ms
        self.cost_ms = [self._table.cost_ms(gamma, self._length) for gamma in self.gammas]

    def latency(self, sizes: Ints) -> Floats:
        """The p99 of a batch in ms [levels, sizes]."""
        rows = [self._table.row_ms(gamma, self._length) for gamma in self.gammas]
        return np.array([[row[size] for size in sizes] for row in rows])

    def busy(self) -> float:
        """The share of the time left that serving everything at the cheapest level would take, at most 1."""
        return min(1.0, min(self.cost_ms) * len(self.left_ms) / float(self.left_ms.mean()))
