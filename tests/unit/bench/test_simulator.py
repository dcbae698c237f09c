from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from peers import policies
from setting import Setting, Task, synthetic
from simulator import simulate

from elastriton.core.latency import Cell
from elastriton.core.policy import Decision, LargestBatch, Outlook
from elastriton.core.queue import Item
from elastriton.generator.loads import make_load


def exact(*slo_ms: float, max_batch: int = 4) -> Setting:
    """Two levels without noise: 10 ms per sample at level 0, 5 ms at -8; one task per deadline."""
    cells = [Cell(g, 8, s, ms * s, ms * s, 1) for g, ms in ((-8, 5.0), (0, 10.0)) for s in (1, max_batch)]
    tasks = tuple(Task(f"t{index}", 1.0, slo) for index, slo in enumerate(slo_ms))
    return Setting("test", tuple(cells), tasks, {task.name: {-8: 0.5, 0: 0.9} for task in tasks})


def arrivals(setting: Setting, *at_ms: float) -> list[Item]:
    task = setting.tasks[0]
    return [Item(task.name, at / 1e3, (at + task.slo_ms) / 1e3, task.utility, setting.length) for at in at_ms]


class Scripted:
    """Runs all that waits at level 0, not before `start_s`."""

    def __init__(self, start_s: float = 0.0) -> None:
        self.start_s = start_s
        self.asked_s: list[float] = []

    def arrived(self, item: Item) -> None:
        pass

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        self.asked_s.append(now_s)
        if now_s < self.start_s:
            return Decision(wake_s=self.start_s)
        return Decision(tuple(waiting[: outlook.max_batch]), 0, now_s)


@pytest.mark.parametrize("trace", ["poisson", "mmpp"])
def test_every_request_is_served_or_dropped_and_runs_repeat(trace: str) -> None:
    setting = synthetic()
    load = make_load(trace, 300, 1.5 * setting.capacity_per_s, seed=3)
    items = setting.items(load.arrivals_s, seed=3)
    for name, make in policies(setting).items():
        first, second = (simulate(setting, items, make(), seed=3) for _ in range(2))
        assert first.served + round(first.dropped * len(items)) == len(items), name
        assert sum(first.levels.values()) == first.served
        assert (first.utility, first.p99_ms, first.levels) == (second.utility, second.p99_ms, second.levels), name
        assert 0.0 < first.utility <= sum(item.utility for item in items)


def test_the_exact_timeline_of_three_items() -> None:
    setting = exact(25.0)
    outcome = simulate(setting, arrivals(setting, 0.0, 2.0, 4.0), Scripted(), seed=0)
    assert outcome.served == 3  # 0 to 10 alone, then two from 10 to 30: the deadlines were 27 and 29
    assert outcome.on_time == pytest.approx(1 / 3)
    assert outcome.utility == pytest.approx(0.9)
    assert outcome.p50_ms == pytest.approx(26.0)


def test_what_misses_its_deadline_is_worth_nothing() -> None:
    setting = exact(12.0)
    outcome = simulate(setting, arrivals(setting, 0.0), Scripted(start_s=0.005), seed=0)
    assert (outcome.served, outcome.utility, outcome.on_time, outcome.accuracy) == (1, 0.0, 0.0, 0.0)


def test_wake_up_times_and_arrivals_ask_again() -> None:
    setting = exact(100.0)
    policy = Scripted(start_s=0.02)
    outcome = simulate(setting, arrivals(setting, 0.0, 5.0), policy, seed=0)
    assert policy.asked_s == pytest.approx([0.0, 0.005, 0.02])
    assert outcome.utility == pytest.approx(1.8)


def test_hopeless_and_expired_items_are_dropped() -> None:
    hopeless = exact(4.0)
    assert simulate(hopeless, arrivals(hopeless, 0.0), LargestBatch(), seed=0).dropped == 1.0
    waits_for_ever = exact(50.0)
    assert simulate(waits_for_ever, arrivals(waits_for_ever, 0.0, 1.0), Scripted(9.0), seed=0).dropped == 1.0


def test_two_executors_work_at_once() -> None:
    setting = exact(15.0, max_batch=1)
    items = arrivals(setting, 0.0, 1.0)
    assert simulate(setting, items, Scripted(), seed=0).on_time == 0.5
    assert simulate(replace(setting, executors=2), items, Scripted(), seed=0).on_time == 1.0


def test_noise_has_the_p99_of_the_table() -> None:
    setting = synthetic()
    z = np.random.default_rng(0).standard_normal(20_000)
    durations_ms = [1000.0 * setting.duration_s(-4, 8, one) for one in z]
    assert np.percentile(durations_ms, 99) == pytest.approx(
        setting.outlook.latency.safe_ms(-4, 8, setting.length), rel=0.005
    )
    assert np.median(durations_ms) == pytest.approx(setting.p50_ms[-4][8], rel=0.005)
