from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import bound
import fluid
import numpy as np
import pytest
import timeline
from bound import clairvoyant
from peers import policies
from scipy.special import ndtr
from setting import Setting, Task, synthetic
from simulator import simulate

from elastriton.core.latency import Cell
from elastriton.core.queue import Item
from elastriton.generator.loads import make_load


def instance(rng: np.random.Generator) -> tuple[Setting, list[Item]]:
    """A few items of two tasks on a random table of two levels and three batch sizes, without noise."""
    fixed, slow = rng.uniform(0.0, 4.0), rng.uniform(2.0, 6.0)
    per_sample = {-8: slow * rng.uniform(0.3, 0.9), 0: slow}
    cells = [Cell(g, 1, s, fixed + ms * s, fixed + ms * s, 1) for g, ms in per_sample.items() for s in (1, 2, 3)]
    tasks = tuple(Task(name, rng.uniform(0.5, 2.0), rng.uniform(5.0, 25.0)) for name in ("a", "b"))
    accuracy = {task.name: {-8: rng.uniform(0.3, 0.8), 0: rng.uniform(0.5, 1.0)} for task in tasks}
    setting = Setting("random", tuple(cells), tasks, accuracy)
    arrivals_s = np.sort(rng.uniform(0.0, rng.uniform(1.0, 30.0), size=int(rng.integers(1, 6)))) / 1000.0
    return setting, setting.items(arrivals_s, int(rng.integers(1000)))


def brute_force(setting: Setting, items: list[Item]) -> float:
    """The best utility over all sequences of batches, each started as soon as it can be."""
    accuracy, durations_ms = setting.accuracy, setting.p50_ms

    def batches(left: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        for size in range(1, min(3, len(left)) + 1):
            yield from combinations(left, size)

    def best(left: tuple[int, ...], now_s: float) -> float:
        top = 0.0
        for batch in batches(left):
            start_s = max(now_s, *(items[index].arrival_s for index in batch))
            rest = tuple(index for index in left if index not in batch)
            for gamma, row in durations_ms.items():
                end_s = start_s + row[len(batch)] / 1000.0
                gain = sum(
                    items[index].utility * accuracy[items[index].task][gamma]
                    for index in batch
                    if end_s <= items[index].deadline_s
                )
                if gain > 0.0:
                    top = max(top, gain + best(rest, end_s))
        return top

    return best(tuple(range(len(items))), 0.0)


@pytest.mark.parametrize(("slots", "most_steps"), [(4, 60_000), (16, 60_000), (4, 3)])
def test_no_schedule_beats_the_bound(slots: int, most_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fluid, "SLOTS_PER_SLO", slots)
    monkeypatch.setattr(bound, "MOST_STEPS", most_steps)
    rng = np.random.default_rng(7)
    ratios = []
    for _ in range(150):
        setting, items = instance(rng)
        limit, best = clairvoyant(setting, items), brute_force(setting, items)
        assert best <= limit * (1.0 + 1e-6), (setting, items)
        if limit > 0.0:
            ratios.append(best / limit)
    assert np.mean(ratios) > 0.85  # and it is not a bound because it is far away


@pytest.mark.parametrize("slo_ms", [4.5, 4.9, 8.0])
def test_a_larger_batch_that_may_be_faster_is_not_left_out(slo_ms: float) -> None:
    """As measured: the p99 of two is so far from their median that they may be done before one alone can be."""
    cells = (Cell(0, 1, 1, 6.582, 7.871, 1), Cell(0, 1, 2, 7.643, 15.436, 1))
    setting = Setting("noisy", cells, (Task("a", 1.0, slo_ms),), {"a": {0: 1.0}})
    both = 2.0 * ndtr(np.log(slo_ms / 7.643) / setting.sigma[0][2])
    assert clairvoyant(setting, setting.items(np.zeros(2), 0)) >= both


def test_no_batch_beats_the_bound_whatever_the_noise() -> None:
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(60):
        quiet, items = instance(rng)
        cells = tuple(replace(cell, p99_ms=cell.p50_ms * rng.uniform(1.0, 2.5)) for cell in quiet.cells)
        setting = replace(quiet, cells=cells, overhead_ms=1.0)
        best = 0.0
        for gamma, row in setting.p50_ms.items():
            for size in (1, 2, 3):
                worth = []
                for item in items:
                    left_ms = (item.deadline_s - items[-1].arrival_s) * 1000.0 - 1.0
                    sigma = max(1e-9, setting.sigma[gamma][size])
                    chance = ndtr(np.log(left_ms / row[size]) / sigma) if left_ms > 0.0 else 0.0
                    worth.append(item.utility * setting.accuracy[item.task][gamma] * chance)
                best = max(best, sum(sorted(worth)[-size:]))  # once everybody is there
        limit = clairvoyant(setting, items)
        assert best <= limit + 1e-4 * len(items)  # P(noise < -4 sigma) is moved to -4 sigma
        ratios.append(best / max(1e-9, limit))
    assert max(ratios) > 0.9


@pytest.mark.parametrize("slo_steps", [4.0, 64.0, 300.0])
def test_whoever_may_gain_is_in_the_list_of_the_block(slo_steps: float) -> None:
    setting = synthetic()
    items = setting.items(make_load("poisson", 60, setting.capacity_per_s, seed=2).arrivals_s, seed=2)
    step_s = min(task.slo_ms for task in setting.tasks) / 1000.0 / slo_steps
    line = timeline.timeline(setting, items, step_s, np.arange(1, 9))
    prices = np.random.default_rng(3).uniform(0.0, 1.0, len(items))
    order, count = timeline._by_gain(line, prices)
    who, gain, left_s, _ = timeline._scratch(line)
    for step in range(line.steps):
        for g, gains in enumerate(line.worth - prices):
            few = order[g, step // timeline.BLOCK, : count[g, step // timeline.BLOCK]]
            wanted = timeline._wanted(line, g, step, prices, few, who, gain, left_s)
            there = (line.arrival_step <= step) & (line.due_s - step * line.step_s >= line.least_s[g]) & (gains > 0.0)
            assert set(who[:wanted]) == set(np.flatnonzero(there))
            assert (np.diff(gain[:wanted]) <= 0.0).all()


def test_in_a_crowd_the_timeline_is_the_tighter_bound() -> None:
    setting = synthetic()
    items = setting.items(make_load("poisson", 250, 2.0 * setting.capacity_per_s, 0).arrivals_s, 0)
    assert clairvoyant(setting, items) < 0.97 * fluid.fluid(setting, items)[0]


@pytest.mark.parametrize("load", [0.5, 1.2, 2.0])
def test_no_policy_beats_the_bound_on_average(load: float) -> None:
    setting = synthetic()
    items = setting.items(make_load("poisson", 250, load * setting.capacity_per_s, 0).arrivals_s, 0)
    limit = clairvoyant(setting, items)
    for name in ("ours", "otas", "slackfit", "infaas"):
        make = policies(setting)[name]
        assert np.mean([simulate(setting, items, make(), seed).utility for seed in range(5)]) <= limit * (1.0 + 1e-9), (
            name
        )


def test_without_contention_the_bound_is_the_best_level_for_all() -> None:
    setting = synthetic()
    items = setting.items(np.arange(10.0), 0)
    best = sum(item.utility * max(setting.accuracy[item.task].values()) for item in items)
    assert clairvoyant(setting, items) == pytest.approx(best)


def test_more_executors_never_lower_the_bound() -> None:
    setting = synthetic()
    items = setting.items(make_load("mmpp", 200, 3.0 * setting.capacity_per_s, 0).arrivals_s, 0)
    assert clairvoyant(replace(setting, executors=2), items) > 1.05 * clairvoyant(setting, items)


def test_wide_noise_falls_back_to_its_minimum() -> None:
    assert fluid._mean(0.033) == pytest.approx(np.exp(0.033**2 / 2), rel=1e-5)
    assert fluid._mean(1.5) == pytest.approx(np.exp(-1.5 * 4.0))
