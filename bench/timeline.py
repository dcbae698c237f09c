"""An executor's timeline where every request has a price: the dynamic programme of bound.py, compiled by numba.

    W(t) = max of  W(later)
                   sum over seats of (worth - price) x P(in time) + E[W(t + duration)]   for each level and batch size

A batch may take anybody whose deadline it can meet, whether or not others have: prices see to that. Time is a grid, and
whatever is rounded is rounded in favour of W: a step sees all that arrive in it, ends are moved down to a step, and a
request takes only as much of a seat as its chance to be in time. W never rises with t, since one may wait, so that each
of these only raises it, as long as no batch is shorter than a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from setting import Z_MAX, Setting

from elastriton.core.programme import compiled
from elastriton.core.queue import Item

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CELLS = 64  # the ends of a batch fall into at most so many
Z_TOP = 3.0  # what is later than that counts as this late
TIE_S = 1e-9  # so much may be lost by rounding floats


class Timeline(NamedTuple):
    """A load on a grid of `steps` of `step_s`, with times in s and levels in the order of the setting.

    Arrays of batches are [levels, sizes + 1, …], of requests [n] in the order of arrival.
    """

    arrival_s: Floats
    arrival_step: Ints
    due_s: Floats  # when a request's batch must have ended
    worth: Floats  # [levels, n]
    median_s: Floats  # of a batch's duration
    sigma: Floats  # of its logarithm
    low_s: Floats  # the shortest duration
    high_s: Floats  # the longest
    first: Ints  # the first step in which a batch may end, from its start
    stride: Ints  # from there to the next one that counts, and so on
    mass: Floats  # [levels, sizes + 1, CELLS], how likely each is
    sizes: Ints  # those to consider, ascending
    settled: NDArray[np.bool_]  # [levels, numbers of sizes]: no larger size is faster, whatever the noise
    step_s: float
    steps: int
    patience_s: float  # the longest from an arrival to its `due_s`


def timeline(setting: Setting, items: Sequence[Item], step_s: float, sizes: Ints) -> Timeline:
    """The timeline of `items`, ordered by arrival; its steps are at most `step_s`."""
    levels = list(setting.p50_ms)
    arrival_s = np.array([item.arrival_s for item in items])
    due_s = np.array([item.deadline_s for item in items]) - setting.overhead_ms / 1000.0 + TIE_S
    median_s = np.array([setting.p50_ms[gamma] for gamma in levels]) / 1000.0
    sigma = np.array([setting.sigma[gamma] for gamma in levels])
    low_s, high_s = median_s * np.exp(-Z_MAX * sigma), median_s * np.exp(Z_MAX * sigma)
    step_s = min(step_s, 0.999 * float(low_s[:, sizes].min()))
    first, stride, mass = _ends(median_s, sigma, low_s, step_s)
    return Timeline(
        arrival_s,
        np.maximum(0.0, arrival_s / step_s - TIE_S).astype(np.int64),
        due_s,
        np.array([[item.utility * setting.accuracy[item.task][gamma] for item in items] for gamma in levels]),
        median_s,
        sigma,
        low_s,
        high_s,
        first,
        stride,
        mass,
        sizes,
        (low_s[:, sizes] <= _least_from(low_s[:, sizes])) & (high_s[:, sizes] <= _least_from(high_s[:, sizes])),
        step_s,
        int(due_s.max() / step_s) + 1,
        float((due_s - arrival_s).max()),
    )


def _least_from(rows: Floats) -> Floats:
    """The least of each row [levels, m] from there on."""
    least: Floats = np.minimum.accumulate(rows[:, ::-1], axis=1)[:, ::-1]
    return least


def _ends(median_s: Floats, sigma: Floats, low_s: Floats, step_s: float) -> tuple[Ints, Ints, Floats]:
    """When batches end, in steps from their start: `first`, `stride` and `mass` of the timeline."""
    first = np.maximum(0.0, low_s / step_s - TIE_S).astype(np.int64)
    last = (median_s * np.exp(Z_TOP * sigma) / step_s).astype(np.int64)
    stride = -(-(last - first + 1) // CELLS)
    begins = first[:, :, None] + stride[:, :, None] * np.arange(1, CELLS)  # all cells but the first
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.log(begins * step_s / median_s[:, :, None]) / sigma[:, :, None]
    all_ended = (begins > last[:, :, None]) | (sigma[:, :, None] <= 0.0)
    before = np.where(all_ended, 1.0, ndtr(z))
    edges = np.concatenate([np.zeros_like(before[:, :, :1]), before, np.ones_like(before[:, :, :1])], axis=2)
    return first, stride, np.diff(edges, axis=2)


@compiled
def values(line: Timeline, prices: Floats) -> tuple[Floats, Ints, Ints]:
    """W [steps + 1], and the level (-1: wait) and the size of the batch to start [steps]."""
    value = np.zeros(line.steps + 1)
    level, size = np.full(line.steps, -1), np.zeros(line.steps, np.int64)
    who, gain, taken = _scratch(line)
    arrived = line.arrival_s.shape[0]
    for step in range(line.steps - 1, -1, -1):
        while arrived > 0 and line.arrival_step[arrived - 1] > step:
            arrived -= 1
        value[step] = value[step + 1]
        for g in range(line.median_s.shape[0]):
            wanted = _wanted(line, prices, g, step, arrived, who, gain)
            if wanted == 0:
                continue
            for number in range(line.sizes.shape[0]):
                seats = line.sizes[number]
                total, left = _seat(line, g, seats, step, wanted, who, gain, taken)
                for cell in range(CELLS):
                    share = line.mass[g, seats, cell]
                    if share > 0.0:
                        end = step + line.first[g, seats] + cell * line.stride[g, seats]
                        total += share * value[min(line.steps, end)]
                if total > value[step]:
                    value[step], level[step], size[step] = total, g, seats
                if left > 0.0 and line.settled[g, number]:
                    break  # everybody has a seat, and no larger batch is faster
    return value, level, size


@compiled
def served(line: Timeline, prices: Floats, level: Ints, size: Ints) -> Floats:
    """How often each request [n] is answered in time, on average, by what `values` has decided."""
    times = np.zeros(line.arrival_s.shape[0])
    chance = np.zeros(line.steps + 1)
    chance[0] = 1.0
    who, gain, taken = _scratch(line)
    arrived = 0
    for step in range(line.steps):
        g, seats = level[step], size[step]
        if g < 0 or chance[step] < 1e-7:
            chance[step + 1] += chance[step]
            continue
        while arrived < times.shape[0] and line.arrival_step[arrived] <= step:
            arrived += 1
        wanted = _wanted(line, prices, g, step, arrived, who, gain)
        taken[:wanted] = 0.0
        _seat(line, g, seats, step, wanted, who, gain, taken)
        for place in range(wanted):
            times[who[place]] += chance[step] * taken[place]
        for cell in range(CELLS):
            end = step + line.first[g, seats] + cell * line.stride[g, seats]
            chance[min(line.steps, end)] += chance[step] * line.mass[g, seats, cell]
    return times


@compiled
def _scratch(line: Timeline) -> tuple[Ints, Floats, Floats]:
    n = line.arrival_s.shape[0]
    return np.empty(n, np.int64), np.empty(n), np.zeros(n)


@compiled
def _wanted(line: Timeline, prices: Floats, g: int, step: int, arrived: int, who: Ints, gain: Floats) -> int:
    """How many requests a batch at a level would gain by; puts them and their gains in place, the largest first."""
    now_s = step * line.step_s
    soonest_s = now_s + line.low_s[g, line.sizes[0]]
    for size in line.sizes:
        soonest_s = min(soonest_s, now_s + line.low_s[g, size])
    count = 0
    for index in range(arrived - 1, -1, -1):
        if line.arrival_s[index] <= now_s - line.patience_s:
            break
        if line.due_s[index] >= soonest_s and line.worth[g, index] > prices[index]:
            who[count], gain[count] = index, line.worth[g, index] - prices[index]
            count += 1
    order = np.argsort(-gain[:count])
    who[:count], gain[:count] = who[:count][order], gain[:count][order]
    return count


@compiled
def _seat(
    line: Timeline, g: int, seats: int, step: int, wanted: int, who: Ints, gain: Floats, taken: Floats
) -> tuple[float, float]:
    """Give the seats of a batch away: (what that gains, seats left); `taken` is what each of those who wanted has got.

    A request takes as much of a seat as its chance to be in time.
    """
    now_s = step * line.step_s
    low_s, high_s = line.low_s[g, seats], line.high_s[g, seats]
    total, left = 0.0, float(seats)
    for place in range(wanted):
        left_s = line.due_s[who[place]] - now_s
        if left_s >= high_s:
            share = 1.0
        elif left_s < low_s:
            share = 0.0
        else:  # noise is lognormal, cut at both ends
            z = math.log(left_s / line.median_s[g, seats]) / line.sigma[g, seats]
            share = 0.5 * math.erfc(-z / math.sqrt(2.0))
        share = min(left, share)
        total += share * gain[place]
        taken[place] = share
        left -= share
        if left <= 0.0:
            break
    return total, left
