"""An upper bound on the expected utility of any policy, including one that knows all arrivals in advance.

The smaller of two bounds: the fluid one (fluid.py), and a Lagrangian relaxation (as in Fisher, 1981) that puts a price
on being answered in time:

    bound(prices) = sum of the prices + executors x W(0)

W(t) (timeline.py) is the most that one executor that is free at t can expect: utility x accuracy of what it answers in
time, less the prices. Its batches follow each other as real ones do; only, no batch knows whom another has answered.

Why no policy beats it, for any prices >= 0. Let a policy know all arrivals, but not the noise of a batch before it
starts. It answers each request in time at most once, so the prices of those add up to at most the sum of all: its
expected utility is at most that sum plus utility less prices of what is in time, a sum over executors. On one executor,
what a batch earns on average and when it ends depend on its start, its level and its requests only, as its noise is
independent of all before. Forget who has been answered already, which only adds choice: then W is the most that can
come (Bellman). That a request takes only as much of a seat as its chance to be in time raises W, as does all rounding.

Prices are found by subgradient steps of Polyak's length, with his heavy ball's inertia (1964), from the fluid's
marginals: a request that is answered more than once on average becomes dearer. Rough grids will do for that, the second
starting from what the first has found; the fine one then gives the bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fluid import fluid
from numpy.typing import NDArray
from setting import Setting
from timeline import Timeline, served, timeline, values

from elastriton.core.queue import Item

ROUGH, FINE = (32, 64), 512  # steps per shortest deadline
ROUNDS = 60  # on each of the rough
MOST_STEPS = 60_000
PATIENCE = 3  # rounds without progress before steps of prices get shorter
INERTIA = 0.85

Floats = NDArray[np.float64]


def clairvoyant(setting: Setting, items: Sequence[Item]) -> float:
    """The bound for a load, its items ordered by arrival."""
    loose, marginals = fluid(setting, items)
    top = setting.outlook.max_batch
    shortest_s = min(task.slo_ms for task in setting.tasks) / 1000.0
    longest_step_s = items[-1].deadline_s / MOST_STEPS
    prices = np.maximum(0.0, marginals)
    for steps in ROUGH:
        rough = timeline(setting, items, max(shortest_s / steps, longest_step_s), _few_sizes(top))
        prices = good_prices(rough, prices, setting.executors)
    fine = timeline(setting, items, max(shortest_s / FINE, longest_step_s), np.arange(1, top + 1))
    return min(loose, float(prices.sum() + setting.executors * values(fine, prices)[0][0]))


def good_prices(line: Timeline, prices: Floats, executors: int) -> Floats:
    """The prices [n] of the least bound that ROUNDS find; the first are those given."""
    best, best_prices, best_times = np.inf, prices, prices
    ambition, waits = 0.02, 0
    direction = np.zeros_like(prices)
    for _ in range(ROUNDS):
        value, level, size = values(line, prices)
        bound = float(prices.sum() + executors * value[0])
        times = executors * served(line, prices, level, size)
        waits = 0 if bound < best * (1.0 - 1e-4) else waits + 1
        if bound < best:
            best, best_prices, best_times = bound, prices, times
        elif waits >= PATIENCE:
            ambition, waits = ambition / 2.0, 0
            bound, prices, times = best, best_prices, best_times
            direction = np.zeros_like(prices)
        slope = np.where((prices <= 0.0) & (times < 1.0), 0.0, 1.0 - times)
        direction = slope + INERTIA * direction
        step = (bound - best * (1.0 - ambition)) / max(1e-9, float(direction @ direction))
        prices = np.maximum(0.0, prices - step * direction)
    return best_prices


def _few_sizes(top: int) -> NDArray[np.int64]:
    """1, 2, 3, …, then each about a fifth larger than the last, up to `top`."""
    sizes = [1]
    while sizes[-1] < top:
        sizes.append(min(top, max(sizes[-1] + 1, round(1.2 * sizes[-1]))))
    return np.array(sizes)
