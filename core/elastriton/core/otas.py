"""OTAS-style scheduling in two steps: which requests share a batch, then each batch's level. `policy: otas`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from elastriton.core.load import ArrivalRate
from elastriton.core.policy import Decision, Outlook
from elastriton.core.queue import Item


class Sustained:
    """What levels keep up with: p99 by level and batch size as profiled, and the rate of batches that end in time.

    `rows_ms[gamma][size]` counts sizes from 0; `per_s` is of batches that end within `shortest_ms`, the shortest SLO
    of all tasks, and `accuracy` the mean over the tasks that have the level.
    """

    def __init__(self, outlook: Outlook, length: int) -> None:
        table, sizes = outlook.latency, range(1, outlook.max_batch + 1)
        safe_ms = (table.all_safe_ms(length) / table.drift.safe)[:, 1 : outlook.max_batch + 1].tolist()
        self.rows_ms: dict[int, list[float]] = {
            gamma: [0.0, *row] for gamma, row in zip(table.gammas, safe_ms, strict=True)
        }
        self.fast_to_slow = sorted(self.rows_ms, key=lambda gamma: self.rows_ms[gamma][-1])
        levels = outlook.accuracy.values()
        self.accuracy = {g: fmean([by_gamma[g] for by_gamma in levels if g in by_gamma] or [0.0]) for g in self.rows_ms}
        self.shortest_ms = min(outlook.slo_ms.values(), default=math.inf)
        self.per_s = {
            gamma: max(1000.0 * size / row[size] for size in sizes if size == 1 or row[size] <= self.shortest_ms)
            for gamma, row in self.rows_ms.items()
        }

    def most_accurate(self, per_s: float) -> int:
        """The most accurate level that sustains a rate; the fastest where none does."""
        able = [gamma for gamma in self.fast_to_slow if self.per_s[gamma] >= per_s]
        return max(able, key=self.accuracy.__getitem__, default=self.fast_to_slow[0])


@dataclass(slots=True)
class _Batch:
    """A batch that is being formed: its items, first deadline, sum of utilities, common levels, length as measured."""

    items: list[Item]
    deadline_s: float
    utility: float
    gammas: frozenset[int]
    length: int


class Otas:
    """OTAS (Chen et al., INFOCOM 2024) in two steps, as specified from its abstract: first batches, then their levels.

    A. In order of arrival, an item joins the open batch with the closest deadline among those of its length (as
       measured) that are not full, differ from it by at most NEAR of the tasks' shortest SLO in deadline and by at most
       ALIKE in mean utility, share a level with it, and could still be answered in time at the fastest such level with
       it; else it opens a batch. (Replayed over the queue at each decision: an idle executor closes all batches.)
    B. Over the first LOOK_AHEAD batches by deadline, a dynamic programme over (batch, completion time on a grid of
       GRID_MS) chooses each batch's level or drops it, gaining utility x accuracy of the items in time. The first batch
       that is kept runs; the rest is planned again afterwards.
    C. With at most one batch waiting, the level is no slower than the most accurate one that sustains (1 + EPSILON) x
       the estimated rate.

    It knows of one executor; several take turns. A decision takes time in proportion to the queue and its batches.
    """

    NEAR = 1.0
    ALIKE = 0.5
    LOOK_AHEAD = 16
    GRID_MS = 1.0
    EPSILON = 0.05

    def __init__(self) -> None:
        self._rate = ArrivalRate()
        self._sustained: dict[int, Sustained] = {}

    def arrived(self, item: Item) -> None:
        """Note the arrival, for the rate."""
        self._rate.arrived(item.arrival_s)

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        """The first batch that the programme keeps."""
        drop = tuple(item for item in waiting if not outlook.reachable(item, now_s))
        alive = waiting if not drop else [item for item in waiting if outlook.reachable(item, now_s)]
        if not alive:
            return Decision(drop=drop)
        free_s = now_s + outlook.overhead_ms / 1000.0
        batches = self.batches(alive, free_s, outlook)[: self.LOOK_AHEAD]
        chosen, gamma = self._levels(batches, free_s, outlook)
        batch = tuple(batches[chosen])
        if len(batches) <= 1:
            levels = self._levels_of(batch[0], outlook)
            steady = levels.most_accurate((1.0 + self.EPSILON) * self._rate.per_s(now_s))
            if steady in outlook.gammas(batch):
                gamma = min(gamma, steady, key=levels.fast_to_slow.index)
        return Decision(batch, gamma, outlook.finish_s(batch, gamma, now_s), drop)

    def batches(self, waiting: Sequence[Item], free_s: float, outlook: Outlook) -> list[list[Item]]:
        """Step A for an executor that is free at `free_s`; the batches by deadline."""
        opened: list[_Batch] = []
        for item in sorted(waiting, key=lambda one: one.arrival_s):
            own, length = frozenset(outlook.gammas([item])), outlook.latency.bucket(item.length)
            batch = self._closest(item, own, [one for one in opened if one.length == length], free_s, outlook)
            if batch is None:
                opened.append(_Batch([item], item.deadline_s, item.utility, own, length))
            else:
                batch.items.append(item)
                batch.deadline_s = min(batch.deadline_s, item.deadline_s)
                batch.utility += item.utility
                batch.gammas &= own
        return [batch.items for batch in sorted(opened, key=lambda batch: (batch.deadline_s, batch.utility))]

    def _closest(
        self, item: Item, gammas: frozenset[int], opened: Sequence[_Batch], free_s: float, outlook: Outlook
    ) -> _Batch | None:
        """The open batch that `item` joins, if any."""
        levels, drift = self._levels_of(item, outlook), outlook.latency.drift.safe
        best, distance_s = None, self.NEAR * levels.shortest_ms / 1000.0
        for batch in opened:
            size = len(batch.items)
            apart_s = abs(batch.deadline_s - item.deadline_s)
            common = batch.gammas & gammas
            if apart_s > distance_s or size == outlook.max_batch or not common:
                continue
            fastest = next(gamma for gamma in levels.fast_to_slow if gamma in common)
            end_s = free_s + drift * levels.rows_ms[fastest][size + 1] / 1000.0
            in_time = end_s <= min(batch.deadline_s, item.deadline_s)
            if in_time and abs(batch.utility / size - item.utility) <= self.ALIKE:
                best, distance_s = batch, apart_s
        return best

    def _levels(self, batches: Sequence[Sequence[Item]], free_s: float, outlook: Outlook) -> tuple[int, int]:
        """Step B: which batch runs first, and its level; without any gain, the first at its fastest level."""
        last_ms = 1000.0 * (max(item.deadline_s for batch in batches for item in batch) - free_s)
        steps_of = [self._steps(batch, outlook) for batch in batches]
        longest = sum(max(by_level.values()) for by_level in steps_of)  # no plan takes longer
        grid_ms = self.GRID_MS * np.arange(min(int(last_ms / self.GRID_MS), longest) + 2)
        value = np.zeros(len(grid_ms))
        chosen, chosen_gamma = 0, next(iter(steps_of[0]))
        for index in range(len(batches) - 1, -1, -1):
            batch = sorted(batches[index], key=lambda item: item.deadline_s)
            left_ms = 1000.0 * (np.array([item.deadline_s for item in batch]) - free_s)
            in_time = np.searchsorted(left_ms, grid_ms)
            before = value.copy()
            for gamma, steps in steps_of[index].items():
                worth = np.array([outlook.value([item], gamma) for item in batch])
                gain = np.concatenate([worth[::-1].cumsum()[::-1], [0.0]])[in_time]
                if steps >= len(grid_ms) or gain[steps] <= 0.0:
                    continue
                total = np.where(gain[steps:] > 0.0, gain[steps:] + before[steps:], 0.0)
                if total[0] > value[0]:
                    chosen, chosen_gamma = index, gamma
                value[: len(total)] = np.maximum(value[: len(total)], total)
        return chosen, chosen_gamma

    def _steps(self, batch: Sequence[Item], outlook: Outlook) -> dict[int, int]:
        """How many steps of the grid the batch takes at each level that all of it have, from fast to slow."""
        levels, gammas, drift = self._levels_of(batch[0], outlook), outlook.gammas(batch), outlook.latency.drift.safe
        return {
            gamma: math.ceil(drift * levels.rows_ms[gamma][len(batch)] / self.GRID_MS)
            for gamma in levels.fast_to_slow
            if gamma in gammas
        }

    def _levels_of(self, item: Item, outlook: Outlook) -> Sustained:
        length = outlook.latency.bucket(item.length)
        if length not in self._sustained:
            self._sustained[length] = Sustained(outlook, length)
        return self._sustained[length]
