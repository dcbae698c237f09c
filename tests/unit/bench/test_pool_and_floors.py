"""The joint plan over a pool of executors, and with a floor under a task, in the simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from setting import Setting, synthetic
from simulator import simulate

from elastriton.core.joint import Joint
from elastriton.core.policy import Decision, Outlook
from elastriton.core.queue import Item
from elastriton.generator.loads import make_load


def load(setting: Setting, times_capacity: float, requests: int = 1000) -> list[Item]:
    rate = times_capacity * setting.executors * setting.capacity_per_s
    return setting.items(make_load("poisson", requests, rate, seed=1).arrivals_s, seed=1)


class Counting(Joint):
    """Counts what is run, by task."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Counter[str] = Counter()

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        decision = super().decide(waiting, now_s, outlook)
        self.run.update(item.task for item in decision.batch)
        return decision


def test_a_pool_does_what_one_executor_that_is_as_fast_per_load_does() -> None:
    one = synthetic()
    pool = replace(one, executors=3)
    alone = simulate(one, load(one, 1.2), Joint(), seed=0)
    together = simulate(pool, load(pool, 1.2), Joint(), seed=0)
    assert together.utility >= 0.97 * alone.utility


def served_shares(setting: Setting) -> dict[str, float]:
    items = load(setting, 3.0, requests=1500)
    policy = Counting()
    simulate(setting, items, policy, seed=0)
    asked = Counter(item.task for item in items)
    return {task: policy.run[task] / asked[task] for task in asked}


def test_a_floor_keeps_the_worthless_task_alive() -> None:
    free = synthetic()
    worst = min(served_shares(free).items(), key=lambda entry: entry[1])
    assert worst[1] < 0.25
    floored = replace(free, floors=((worst[0], 0.4),))
    assert served_shares(floored)[worst[0]] >= 0.35
    assert np.mean(list(served_shares(floored).values())) > 0.3
