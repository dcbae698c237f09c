"""The joint plan: batches and their levels in one dynamic programme over all that waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from elastriton.core.load import RecentRate, expected_price
from elastriton.core.policy import Decision, LargestBatch, Outlook
from elastriton.core.programme import Floats, Ints, best_plan
from elastriton.core.queue import Item


class Joint:
    """Plan batches and levels jointly for all that waits; run the first batch of the plan; plan again afterwards.

    1. Drop items that no level typically answers in time any more, even alone.
    2. Solve the dynamic programme for the items by deadline, with the executor's time priced at what recent arrivals
       would lose by it (core/load.py). A queue of more than `POSITIONS` items is taken in chunks, and of one beyond
       `LOOK_AHEAD` the most urgent part.
    3. Where several tasks, utilities or lengths wait, solve it also for orders in which each of them comes in blocks,
       ordered by their first deadline, and take the plan that is worth most.
    4. Run its first batch. Items that the plan passes over keep waiting: the next one may have room for them. Where it
       has no batch, because none is safely in time, fall back to LargestBatch.
    """

    TIMES = 24
    POSITIONS = 64
    LOOK_AHEAD = 512
    SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)

    def __init__(self, *, priced: bool = True, blocks: Sequence[int] = (4, 16)) -> None:
        self._rate = RecentRate() if priced else None
        self._blocks = tuple(blocks)

    def arrived(self, item: Item) -> None:
        """Note the arrival, for the price of time."""
        if self._rate is not None:
            self._rate.arrived(item.arrival_s, item.deadline_s - item.arrival_s)

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        """The first batch of the best plan."""
        alive: list[Item] = []
        lost: list[Item] = []
        for item in waiting[: self.LOOK_AHEAD]:
            (alive if outlook.reachable(item, now_s) else lost).append(item)
        drop = tuple(lost)
        if not alive:
            return Decision(drop=drop)
        queue = _Queue(alive, now_s, outlook, self)
        price = self._price_per_ms(queue, now_s)
        orders = _orders(alive, queue.rows.tolist(), self._blocks)
        batches = (queue.sizes, queue.latency_ms, queue.typical_ms, queue.executors)
        grid = (queue.last_ms / self.TIMES, self.TIMES)
        number, start, size, level = best_plan(
            queue.left_ms, queue.rows, queue.worth, orders, queue.chunk, self.POSITIONS, *batches, *grid, price
        )
        if size == 0:  # nothing is safely in time, or the chunks of a long queue are too coarse
            return replace(LargestBatch().decide(alive, now_s, outlook), drop=drop)
        batch = tuple(alive[index] for index in orders[number, start : start + size].tolist())
        gamma = queue.gammas[level]
        return Decision(batch, gamma, outlook.finish_s(batch, gamma, now_s), drop)

    def _price_per_ms(self, queue: _Queue, now_s: float) -> float:
        if self._rate is None:
            return 0.0
        worth = (queue.worth.sum(axis=1) / queue.worth.shape[1]).tolist()
        return expected_price(self._rate.per_s(now_s) / 1000.0, queue.cost_ms, worth)


def _orders(items: Sequence[Item], rows: Sequence[int], blocks: Sequence[int]) -> Ints:
    """Item numbers by deadline; then, for each block size, in blocks of one task, utility and length, likewise."""
    orders = [list(range(len(items)))]
    classes: dict[tuple[str, float, int], list[int]] = {}
    for index, (item, row) in enumerate(zip(items, rows, strict=True)):
        classes.setdefault((item.task, item.utility, row), []).append(index)
    if 1 < len(classes) < len(items):
        for size in blocks:
            parts = [members[i : i + size] for members in classes.values() for i in range(0, len(members), size)]
            parts.sort(key=lambda part: part[0])
            orders.append([index for part in parts for index in part])
    return np.array(orders)


class _Queue:
    """The waiting items as arrays: time left [n] in ms, worth [levels, n], and what batches of some sizes take.

    `rows` [n] say which of the lengths that wait, as measured, each item has; batches take [lengths, levels, sizes].
    """

    def __init__(self, items: Sequence[Item], now_s: float, outlook: Outlook, policy: Joint) -> None:
        latency = outlook.latency
        measured = {length: latency.bucket(length) for length in {item.length for item in items}}
        lengths = sorted(set(measured.values()))
        numbers = {length: lengths.index(bucket) for length, bucket in measured.items()}
        self.rows: Ints = np.array([numbers[item.length] for item in items])
        self.gammas = latency.gammas
        self.executors = outlook.executors
        columns = {task: column for column, task in enumerate(dict.fromkeys(item.task for item in items))}
        worth = [
            [outlook.floors.weight(task) * outlook.accuracy[task].get(gamma, -1e9) for task in columns]
            for gamma in self.gammas
        ]
        utility = np.array([item.utility for item in items])
        # take, not [:, …]: that would be in Fortran's order, which numba compiles the programme for once more
        self.worth: Floats = np.take(np.array(worth), [columns[item.task] for item in items], axis=1) * utility
        deadlines = np.array([item.deadline_s for item in items])
        self.left_ms: Floats = (deadlines - now_s) * 1000.0 - outlook.overhead_ms
        costs_ms = np.array([latency.all_costs_ms(length) for length in lengths])  # [lengths, levels]
        shares = np.bincount(self.rows) / (len(items) * outlook.executors)
        self.cost_ms: list[float] = (shares @ costs_ms).tolist()
        self.chunk = min(-(-len(items) // policy.POSITIONS), outlook.max_batch)
        chunks = -(-len(items) // self.chunk)
        most = min(chunks, policy.POSITIONS, max(1, outlook.max_batch // self.chunk))
        self.sizes: Ints = np.array([size for size in policy.SIZES if size < most] + [most])
        samples = np.minimum(self.sizes * self.chunk, len(items))
        self.latency_ms: Floats = np.array([latency.all_safe_ms(length)[:, samples] for length in lengths])
        self.typical_ms: Floats = np.array([latency.all_typical_ms(length)[:, samples] for length in lengths])
        # no plan takes longer than this: a far deadline must not make the grid too coarse for the near ones
        longest_ms = chunks * self.typical_ms[:, :, 0].max() / outlook.executors + self.latency_ms.max()
        self.last_ms = float(min(self.left_ms.max(), longest_ms))
