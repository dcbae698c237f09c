"""The dynamic programme over waiting items: which to run together, and at which level; compiled by numba.

Given an order of the items, over positions i and times t on a grid,

    V[i][t] = max of  V[i+1][t]                                                  pass item i over
                      gain(i, S, gamma) + V[i+S][t + typical(gamma, S)]          run the next S items at gamma

where a run must end before the first deadline in it at its p99 (items that would be late are better passed over), the
next one starts when it typically ends, and V[n][t] prices the time that the executor is busy, see core/load.py. Between
points of the grid V is interpolated. For items that all gain alike, some best schedule follows the order of deadlines
(an exchange argument as in Lawler and Moore, 1969). Tasks that gain differently want batches of their own, at levels of
their own: so a few orders are solved, and the best plan is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def compiled(function: F) -> F:
    """numba's njit, cached on disk where there is a place to write to; told that no value is NaN, for SIMD loops."""
    options = {"nogil": True, "fastmath": {"nnan", "nsz"}}
    try:
        made: F = njit(cache=True, **options)(function)
    except RuntimeError:
        made = njit(**options)(function)
    return made


@compiled
def solve(
    deadlines: Floats,
    rows: Ints,
    gains: Floats,
    sizes: Ints,
    latency: Floats,
    typical: Floats,
    executors: int,
    step: float,
    times: int,
    price: float,
) -> tuple[float, int, int, int]:
    """The best schedule: (value, items to pass over, size of the first batch, its level); size 0 where nothing pays.

    All times are in ms from now: `deadlines` [n], what a batch takes on each of `executors`, `latency` (p99) and
    `typical` (median) [lengths, levels, sizes], and the time grid of `times` steps of `step`. `rows` [n] are numbers of
    lengths, ascending: a batch takes as long as its longest item asks for, and no larger or longer one takes less.
    `gains` [levels, n + 1] are prefix sums of utility x accuracy, `sizes` the batch sizes to consider, ascending, and
    `price` (at least 0) what a ms of the executors' time is worth.
    """
    n = deadlines.shape[0]
    _, levels, n_sizes = latency.shape
    duration = np.minimum(typical / (executors * step), times)  # a pool is as one that is so much faster
    steps = np.floor(duration).astype(np.int64)
    parts = duration - steps
    value = np.empty((n + 1, 2 * times + 2))  # beyond the grid each row repeats its last time
    value[n] = -price * step * np.minimum(np.arange(2 * times + 2), times)
    run_size = np.zeros(n, dtype=np.int64)
    run_level = np.zeros(n, dtype=np.int64)
    for i in range(n - 1, -1, -1):
        row = value[i]
        row[:] = value[i + 1]
        seen, first, length = i, deadlines[i], rows[i]  # first deadline and greatest length of items i to seen - 1
        for s in range(n_sizes):
            size = sizes[s]
            if i + size > n:
                break
            while seen < i + size:
                first, length = min(first, deadlines[seen]), max(length, rows[seen])
                seen += 1
            after, feasible = value[i + size], False
            for g in range(levels):
                left = (first - latency[length, g, s]) / step + 1e-9
                if left < 0.0:
                    continue
                feasible, latest = True, int(min(left, times))
                gain = gains[g, i + size] - gains[g, i]
                begin, part = steps[length, g, s], parts[length, g, s]
                at_once = gain + (1.0 - part) * after[begin] + part * after[begin + 1]
                if at_once >= row[0] - 1e-9:  # on a tie the larger batch
                    run_size[i], run_level[i] = size, g
                if at_once <= row[latest]:  # it is worth no more later, and the row no less before
                    continue
                for t in range(latest + 1):  # max() becomes a masked store: slow on some processors
                    row[t] = -min(-row[t], -gain - (1.0 - part) * after[begin + t] - part * after[begin + t + 1])
            if not feasible:
                break  # nor is a larger batch
        row[times:] = row[times]
    first_run = 0
    while first_run < n - 1 and run_size[first_run] == 0:
        first_run += 1
    return value[0, 0], first_run, run_size[first_run], run_level[first_run]


@compiled
def in_chunks(
    left_ms: Floats, rows: Ints, worth: Floats, order: Ints, chunk: int, most: int
) -> tuple[Floats, Ints, Floats]:
    """Of the items in `order`, in at most `most` chunks: first deadlines and greatest lengths [n], sums of worth.

    The sums are prefix sums [levels, n + 1].
    """
    levels = worth.shape[0]
    n = min(most, (order.shape[0] + chunk - 1) // chunk)
    first, longest, gains = np.full(n, np.inf), np.zeros(n, dtype=np.int64), np.zeros((levels, n + 1))
    for i in range(n):
        gains[:, i + 1] = gains[:, i]
        for index in order[i * chunk : (i + 1) * chunk]:
            first[i], longest[i] = min(first[i], left_ms[index]), max(longest[i], rows[index])
            for g in range(levels):
                gains[g, i + 1] += worth[g, index]
    return first, longest, gains


@compiled
def best_plan(
    left_ms: Floats,
    rows: Ints,
    worth: Floats,
    orders: Ints,
    chunk: int,
    most: int,
    sizes: Ints,
    latency: Floats,
    typical: Floats,
    executors: int,
    step: float,
    times: int,
    price: float,
) -> tuple[int, int, int, int]:
    """Of the best plan over several orders: (its order, items to pass over, items in its first batch, their level).

    `left_ms` [n], `rows` [n] and `worth` [levels, n] are of the items, `orders` [any, n] their numbers in the orders to
    try, taken in at most `most` chunks of `chunk`, which `sizes`, `latency` and `typical` count. Where every batch
    of every order looks too dear, time has no price: an idle executor earns nothing.
    """
    chosen, passed, taken, at = 0, 0, 0, 0
    for paid in (price, 0.0):
        best = -np.inf
        for number in range(orders.shape[0]):
            first_ms, longest, gains = in_chunks(left_ms, rows, worth, orders[number], chunk, most)
            value, first, size, level = solve(
                first_ms, longest, gains, sizes, latency, typical, executors, step, times, paid
            )
            if size > 0 and value > best:
                best, chosen, passed, taken, at = value, number, first * chunk, size * chunk, level
        if taken > 0:
            break
    return chosen, passed, taken, at


def compile_now() -> None:
    """Have it all compiled before the first decision: it takes seconds, or a moment where numba has it on disk."""
    one, table, numbers = np.ones(1), np.ones((1, 1, 1)), np.zeros(1, dtype=np.int64)
    best_plan(one, numbers, table[0], numbers[None], 1, 1, numbers + 1, table, table, 1, 1.0, 2, 0.0)
