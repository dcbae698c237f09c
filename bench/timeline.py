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
BLOCK = 64  # steps that share one list of requests
Z_TOP = 3.0  # what is later than that counts as this late
TIE_S = 1e-9  # so much may be lost by rounding floats


class Timeline(NamedTuple):
    """A load on a grid of `steps` of `step_s`, with times in s and levels in the order of the setting.

    Arrays of batches are [levels, sizes + 1, …], of requests [n] in the order of arrival.
    """

    arrival_step: Ints
    due_s: Floats  # when a request's batch must have ended
    worth: Floats  # [levels, n]
    median_s: Floats  # of a batch's duration
    sigma: Floats  # of its logarithm
    low_s: Floats  # the shortest duration
    least_s: Floats  # [levels], the shortest of any size
    high_s: Floats  # the longest
    first: Ints  # the first step in which a batch may end, from its start
    stride: Ints  # from there to the next one that counts, and so on
    cells: Ints  # how many there are
    mass: Floats  # [levels, sizes + 1, CELLS], how likely each is
    sizes: Ints  # those to consider, ascending
    settled: NDArray[np.bool_]  # [levels, numbers of sizes]: no larger size is faster, whatever the noise
    step_s: float
    steps: int


def timeline(setting: Setting, items: Sequence[Item], step_s: float, sizes: Ints) -> Timeline:
    """The timeline of `items`, ordered by arrival; its steps are at most `step_s`."""
    levels = list(setting.p50_ms)
    arrival_s = np.array([item.arrival_s for item in items])
    due_s = np.array([item.deadline_s for item in items]) - setting.overhead_ms / 1000.0 + TIE_S
    median_s = np.array([setting.p50_ms[gamma] for gamma in levels]) / 1000.0
    sigma = np.array([setting.sigma[gamma] for gamma in levels])
    low_s, high_s = median_s * np.exp(-Z_MAX * sigma), median_s * np.exp(Z_MAX * sigma)
    step_s = min(step_s, 0.999 * float(low_s[:, sizes].min()))
    first, stride, cells, mass = _ends(median_s, sigma, low_s, step_s)
    return Timeline(
        np.maximum(0.0, arrival_s / step_s - TIE_S).astype(np.int64),
        due_s,
        np.array([[item.utility * setting.accuracy[item.task][gamma] for item in items] for gamma in levels]),
        median_s,
        sigma,
        low_s,
        low_s[:, sizes].min(axis=1),
        high_s,
        first,
        stride,
        cells,
        mass,
        sizes,
        (low_s[:, sizes] <= _least_from(low_s[:, sizes])) & (high_s[:, sizes] <= _least_from(high_s[:, sizes])),
        step_s,
        int(due_s.max() / step_s) + 1,
    )


def _least_from(rows: Floats) -> Floats:
    """The least of each row [levels, m] from there on."""
    least: Floats = np.minimum.accumulate(rows[:, ::-1], axis=1)[:, ::-1]
    return least


def _ends(median_s: Floats, sigma: Floats, low_s: Floats, step_s: float) -> tuple[Ints, Ints, Ints, Floats]:
    """When batches end, in steps from their start: `first`, `stride`, `cells` and `mass` of the timeline."""
    first = np.maximum(0.0, low_s / step_s - TIE_S).astype(np.int64)
    last = (median_s * np.exp(Z_TOP * sigma) / step_s).astype(np.int64)
    stride = -(-(last - first + 1) // CELLS)
    begins = first[:, :, None] + stride[:, :, None] * np.arange(1, CELLS)  # all cells but the first
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.log(begins * step_s / median_s[:, :, None]) / sigma[:, :, None]
    all_ended = (begins > last[:, :, None]) | (sigma[:, :, None] <= 0.0)
    before = np.where(all_ended, 1.0, ndtr(z))
    edges = np.concatenate([np.zeros_like(before[:, :, :1]), before, np.ones_like(before[:, :, :1])], axis=2)
    mass = np.diff(edges, axis=2)
    return first, stride, CELLS - np.argmax(mass[:, :, ::-1] > 0.0, axis=2), mass


@compiled
def values(line: Timeline, prices: Floats) -> tuple[Floats, Ints, Ints]:
    """W [steps + 1], and the level (-1: wait) and the size of the batch to start [steps]."""
    value = np.zeros(line.steps + 1)
    level, size = np.full(line.steps, -1), np.zeros(line.steps, np.int64)
    who, gain, left_s, taken = _scratch(line)
    order, count = _by_gain(line, prices)
    for step in range(line.steps - 1, -1, -1):
        value[step] = value[step + 1]
        for g in range(line.median_s.shape[0]):
            about = order[g, step // BLOCK, : count[g, step // BLOCK]]
            wanted = _wanted(line, g, step, prices, about, who, gain, left_s)
            if wanted == 0:
                continue
            for number in range(line.sizes.shape[0]):
                seats = line.sizes[number]
                total, left = _seat(line, g, seats, wanted, gain, left_s, taken)
                for cell in range(line.cells[g, seats]):
                    end = step + line.first[g, seats] + cell * line.stride[g, seats]
                    total += line.mass[g, seats, cell] * value[min(line.steps, end)]
                if total > value[step]:
                    value[step], level[step], size[step] = total, g, seats
                if left > 0.0 and line.settled[g, number]:
                    break  # everybody has a seat, and no larger batch is faster
    return value, level, size


@compiled
def served(line: Timeline, prices: Floats, level: Ints, size: Ints) -> Floats:
    """How often each request [n] is answered in time, on average, by what `values` has decided."""
    times = np.zeros(line.due_s.shape[0])
    chance = np.zeros(line.steps + 1)
    chance[0] = 1.0
    who, gain, left_s, taken = _scratch(line)
    order, count = _by_gain(line, prices)
    for step in range(line.steps):
        g, seats = level[step], size[step]
        if g < 0 or chance[step] < 1e-7:
            chance[step + 1] += chance[step]
            continue
        about = order[g, step // BLOCK, : count[g, step // BLOCK]]
        wanted = _wanted(line, g, step, prices, about, who, gain, left_s)
        taken[:wanted] = 0.0
        _seat(line, g, seats, wanted, gain, left_s, taken)
        for place in range(wanted):
            times[who[place]] += chance[step] * taken[place]
        for cell in range(line.cells[g, seats]):
            end = step + line.first[g, seats] + cell * line.stride[g, seats]
            chance[min(line.steps, end)] += chance[step] * line.mass[g, seats, cell]
    return times


@compiled
def _scratch(line: Timeline) -> tuple[Ints, Floats, Floats, Floats]:
    n = line.due_s.shape[0]
    return np.empty(n, np.int64), np.empty(n), np.empty(n), np.zeros(n)


@compiled
def _by_gain(line: Timeline, prices: Floats) -> tuple[Ints, Ints]:
    """The requests that may gain, by level and block of steps [levels, blocks, most], the most first; and how many."""
    levels, n = line.worth.shape
    first = line.arrival_step // BLOCK
    last = np.minimum(line.due_s / line.step_s, line.steps - 1.0).astype(np.int64) // BLOCK
    about = np.zeros((line.steps - 1) // BLOCK + 1, np.int64)
    for index in range(n):
        about[first[index] : last[index] + 1] += 1
    order = np.empty((levels, about.shape[0], about.max()), np.int64)
    count = np.zeros((levels, about.shape[0]), np.int64)
    for g in range(levels):
        gain = line.worth[g] - prices
        for index in np.argsort(-gain):
            if gain[index] <= 0.0:
                break
            for block in range(first[index], last[index] + 1):
                order[g, block, count[g, block]] = index
                count[g, block] += 1
    return order, count


@compiled
def _wanted(
    line: Timeline, g: int, step: int, prices: Floats, about: Ints, who: Ints, gain: Floats, left_s: Floats
) -> int:
    """How many of those `about` a batch would gain by; puts them, their gains and their time left in place."""
    now_s = step * line.step_s
    wanted = 0
    for index in about:
        if line.arrival_step[index] <= step and line.due_s[index] - now_s >= line.least_s[g]:
            who[wanted], gain[wanted] = index, line.worth[g, index] - prices[index]
            left_s[wanted] = line.due_s[index] - now_s
            wanted += 1
    return wanted


@compiled
def _seat(
    line: Timeline, g: int, seats: int, wanted: int, gain: Floats, left_s: Floats, taken: Floats
) -> tuple[float, float]:
    """Give the seats of a batch away: (what that gains, seats left); `taken` is what each of those who wanted has got.

    A request takes as much of a seat as its chance to be in time.
    """
    low_s, high_s = line.low_s[g, seats], line.high_s[g, seats]
    total, left = 0.0, float(seats)
    for place in range(wanted):
        if left_s[place] >= high_s:
            share = 1.0
        elif left_s[place] < low_s:
            share = 0.0
        else:  # noise is lognormal, cut at both ends
            z = math.log(left_s[place] / line.median_s[g, seats]) / line.sigma[g, seats]
            share = 0.5 * math.erfc(-z / math.sqrt(2.0))
        share = min(left, share)
        total += share * gain[place]
        taken[place] = share
        left -= share
        if left <= 0.0:
            break
    return total, left
