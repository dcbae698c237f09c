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
) -> tuple[int, int, int]:
    """The first batch of the best schedule: (items to pass over, batch size, level); size 0 where nothing pays.

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
    return first, run_size[first], run_level[first]


class Joint:
    """Plan batches and levels jointly for all that waits; run the first batch of the plan; plan again afterwards.

    1. Drop items that no level can answer in time any more, even alone.
    2. Solve the dynamic programme over the most urgent items, with time behind the queue priced at what recent arrivals
       would lose by it.
    3. Run its first batch. Items that it passes over keep waiting: the next plan may have room for them.
    """

    TIMES = 64
    SHARE = 0.8
    LOOK_AHEAD = 96
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
        ahead = alive[: self.LOOK_AHEAD]
        left_ms = (np.array([item.deadline_s for item in ahead]) - now_s) * 1000.0 - outlook.overhead_ms
        sizes = [size for size in self.SIZES if size <= min(len(ahead), outlook.max_batch)]
        if len(ahead) <= outlook.max_batch and len(ahead) not in sizes:
            sizes.append(len(ahead))
        gammas = outlook.latency.gammas
        length = max(item.length for item in ahead)
        latency = np.array([[outlook.latency.predict_ms(gamma, size, length) for size in sizes] for gamma in gammas])
        worth = np.array([[item.utility * outlook.accuracy[item.task].get(g, -1e9) for item in ahead] for g in gammas])
        gains = np.concatenate([np.zeros((len(gammas), 1)), worth.cumsum(axis=1)], axis=1)
        step = float(left_ms[-1]) / self.TIMES
        price = self._price_per_ms(now_s, outlook, length, worth.mean(axis=1), left_ms)
        price = min(price, self.SHARE * float((gains[:, sizes] / latency).max()))
        grid = np.arange(self.TIMES) * step
        first, size, level = solve(left_ms, gains, np.array(sizes), latency, step, -price * grid, 1.0)
        if size == 0:  # every batch looked too dear: an executor that idles earns nothing at all
            first, size, level = solve(left_ms, gains, np.array(sizes), latency, step, 0.0 * grid, 1.0)
        batch = tuple(ahead[first : first + size])
        return Decision(batch, gammas[level], outlook.finish_s(batch, gammas[level], now_s), drop)

    def _price_per_ms(self, now_s: float, outlook: Outlook, length: int, worth: Floats, left_ms: Floats) -> float:
        """The price of executor time behind the queue, falling to zero as the queue itself fills the time there is.

        A queue that saturates the executor already prices its time, by what the programme would have to drop for it:
        charging arrivals on top would make every batch look too dear.
        """
        if self._rate is None:
            return 0.0
        cost_ms = [outlook.latency.cost_ms(gamma, length) for gamma in outlook.latency.gammas]
        busy = min(1.0, min(cost_ms) * len(left_ms) / float(left_ms.mean()))
        per_ms = self._rate.per_s(now_s) / 1000.0
        return (1.0 - busy) * price_of_time(per_ms, cost_ms, worth.tolist())
