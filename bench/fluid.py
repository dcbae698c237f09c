"""The fluid bound on the expected utility of any policy, one that knows all arrivals in advance included.

It is a linear programme over time slots. Requests of a task that arrive in one slot form a group. Of those,
z[group, level] are answered in time at a level, each for the least executor time that any batch could charge it, and
the group's work must fit into the slots between its arrival and its last deadline:

    maximise    sum of utility x accuracy[task][level] x z[group, level]
    subject to  sum over levels of z[group, level]                      <= requests in the group
                sum over levels of cost[task][level] x z[group, level]  <= sum over slots of work[group, slot]
                sum over groups of work[group, slot]                    <= executors x slot

Why no policy beats it. Let a policy know all arrivals, but not the noise of a batch before it has run. Give every item
of a batch of S samples 1/S of the batch's mean duration m as its work, if it is answered in time. Let z be the expected
number of items in time by group and level.

1. An item in time was in a batch that can be done within its deadline at all, so its work is at least the minimum of
   m/S over the sizes whose shortest possible duration is within the deadline: `cost`.
2. Take any interval [a, b] of slots, and all items whose windows lie within. A batch that answers one of them in time
   starts at some time t >= a, and its duration D satisfies D <= b - t =: r. The noise of the next batch is independent
   of everything before it, and E[min(D, r)] >= m P(D <= r), which is the same as E[D - r | D > r] <= m ("new better
   than used in expectation"); `_mean` checks this numerically for the cut lognormal noise. Within [a, b] an executor is
   busy with the batch for min(D, r). Summed over batches: the expected work of the items is at most the time there is.
3. These conditions over all intervals imply that the work can be laid out in slots (Hall's theorem for windows that are
   intervals: of a set of windows only the connected parts of its union matter), so z is feasible in the programme.

Slots only relax: a group's window is its slot of arrival up to the slot of its last deadline, both in full.

The fluid charges a batch's fixed cost at the best size, and in it patient requests never delay urgent ones. timeline.py
has neither weakness.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.special import ndtr
from setting import Z_MAX, Setting

from elastriton.core.queue import Item

Floats = NDArray[np.float64]

SLOTS_PER_SLO = 4
MAX_SLOTS = 600


def fluid(setting: Setting, items: Sequence[Item]) -> tuple[float, Floats]:
    """The bound for a load, and what one more request like each of `items` [n] would raise it by."""
    costs = {task.name: _costs_s(setting, task.slo_ms) for task in setting.tasks}
    utility = {task.name: task.utility for task in setting.tasks}
    overhead_s = setting.overhead_ms / 1000.0
    end_s = max(item.deadline_s for item in items)
    slot_s = max(min(task.slo_ms for task in setting.tasks) / 1000.0 / SLOTS_PER_SLO, end_s / MAX_SLOTS)
    counts: dict[tuple[str, int], int] = defaultdict(int)
    last: dict[tuple[str, int], int] = defaultdict(int)
    for item in items:
        group = (item.task, int(item.arrival_s / slot_s))
        counts[group] += 1
        last[group] = max(last[group], int((item.deadline_s - overhead_s) / slot_s))
    programme = _Programme()
    numbers: dict[tuple[str, int], int] = {}
    capacity: dict[int, int] = {}
    for group, count in counts.items():
        task, first = group
        number, work = programme.row(count), programme.row(0.0)  # the work that levels need <= the work done
        numbers[group] = number
        for gamma, cost_s in costs[task].items():
            programme.column(utility[task] * setting.accuracy[task][gamma], {number: 1.0, work: cost_s / slot_s})
        for slot in range(first, last[group] + 1):
            if slot not in capacity:
                capacity[slot] = programme.row(float(setting.executors))
            programme.column(0.0, {work: -1.0, capacity[slot]: 1.0})
    value, marginals = programme.solve()
    return value, marginals[[numbers[item.task, int(item.arrival_s / slot_s)] for item in items]]


def _costs_s(setting: Setting, slo_ms: float) -> dict[int, float]:
    """The least mean time per item by level, over the batch sizes that could be done within `slo_ms`."""
    costs = {}
    left_ms = slo_ms - setting.overhead_ms
    for gamma, row in setting.p50_ms.items():
        sigma = setting.sigma[gamma]
        sizes = [size for size in range(1, len(row)) if row[size] * math.exp(-Z_MAX * sigma[size]) <= left_ms]
        if sizes:
            costs[gamma] = min(row[size] * _mean(sigma[size]) / size for size in sizes) / 1000.0
    return costs


def _mean(sigma: float) -> float:
    """The mean of exp(sigma Z), Z normal and cut at +-Z_MAX, where step 2 holds; else its minimum, which always does.

    The mean residual life falls no faster than 1 per unit, so that the largest value on a grid plus the grid's step
    bounds it everywhere.
    """
    z = np.linspace(-Z_MAX, Z_MAX, 4001)
    r = np.exp(sigma * z)
    low, high = r[0], r[-1]
    body = math.exp(sigma**2 / 2.0)
    mean = float(body * (ndtr(Z_MAX - sigma) - ndtr(-Z_MAX - sigma)) + (low + high) * ndtr(-Z_MAX))
    above = ndtr(-z)  # P(D > r)
    beyond = body * (ndtr(Z_MAX - sigma) - ndtr(z - sigma)) + high * ndtr(-Z_MAX)  # E[D; D > r], below the cut
    residual = (beyond / above - r)[:-1]
    return mean if residual.max() + np.diff(r).max() <= mean else float(low)


class _Programme:
    """A sparse linear programme: maximise gains under rows of <= constraints, all variables >= 0."""

    def __init__(self) -> None:
        self._limits: list[float] = []
        self._gains: list[float] = []
        self._entries: list[tuple[int, int, float]] = []

    def row(self, limit: float) -> int:
        self._limits.append(limit)
        return len(self._limits) - 1

    def column(self, gain: float, entries: dict[int, float]) -> None:
        self._entries += [(row, len(self._gains), value) for row, value in entries.items()]
        self._gains.append(gain)

    def solve(self) -> tuple[float, Floats]:
        """The maximum, and what each row's limit is worth per unit."""
        rows, columns, values = zip(*self._entries, strict=True)
        shape = (len(self._limits), len(self._gains))
        matrix = coo_array((values, (rows, columns)), shape=shape).tocsr()
        gains = np.array(self._gains)
        result = linprog(-gains, A_ub=matrix, b_ub=self._limits, method="highs-ipm")  # with crossover: a vertex
        if not result.success:
            raise RuntimeError(f"the bound's programme failed: {result.message}")
        return -float(result.fun), -np.asarray(result.ineqlin.marginals)
