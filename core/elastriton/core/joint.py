"""The joint plan: batches and their levels in one dynamic programme over all that waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

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

    TIMES = 12
    POSITIONS = 64
    LOOK_AHEAD = 512
    SIZES = (*range(1, 16), *range(16, 24, 2), *range(24, 40, 4), *range(40, 64, 8))

    def __init__(self, *, priced: bool = True, blocks: Sequence[int] = (8, 64)) -> None:
        self._rate = RecentRate() if priced else None
        self._blocks = tuple(blocks)

    def arrived(self, item: Item) -> None:
        """Note the arrival, for the price of time."""
        if self._rate is not None:
            self._rate.arrived(item.arrival_s, item.deadline_s - item.arrival_s)

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        """The first batch of the best plan."""
        waiting = waiting[: self.LOOK_AHEAD]
        kinds, kind_of = _kinds(waiting, outlook)
        deadlines_s = np.array([item.deadline_s for item in waiting])
        needed_s = np.array([outlook.needed_ms(kind) for kind in kinds])[kind_of] / 1000.0
        alive = now_s + needed_s <= deadlines_s
        drop = tuple(compress(waiting, (~alive).tolist()))
        if len(drop) == len(waiting):
            return Decision(drop=drop)
        if drop:
            waiting, deadlines_s = list(compress(waiting, alive.tolist())), deadlines_s[alive]
            kinds, kind_of = _kinds(waiting, outlook)
        queue = _Queue(kinds, kind_of, deadlines_s - now_s, outlook, self)
        price = self._price_per_ms(queue, now_s)
        orders = _orders(kind_of, self._blocks)
        batches = (queue.sizes, queue.latency_ms, queue.typical_ms, queue.executors)
        grid = (queue.last_ms / self.TIMES, self.TIMES)
        number, start, size, level = best_plan(
            queue.left_ms, queue.rows, queue.worth, orders, queue.chunk, self.POSITIONS, *batches, *grid, price
        )
        if size == 0:  # nothing is safely in time, or the chunks of a long queue are too coarse
            return replace(LargestBatch().decide(waiting, now_s, outlook), drop=drop)
        batch = tuple(waiting[index] for index in orders[number, start : start + size].tolist())
        gamma = queue.gammas[level]
        return Decision(batch, gamma, outlook.finish_s(batch, gamma, now_s), drop)

    def _price_per_ms(self, queue: _Queue, now_s: float) -> float:
        if self._rate is None:
            return 0.0
        worth = (queue.worth.sum(axis=1) / queue.worth.shape[1]).tolist()
        return expected_price(self._rate.per_s(now_s) / 1000.0, queue.cost_ms, worth)


def _kinds(items: Sequence[Item], outlook: Outlook) -> tuple[list[Item], Ints]:
    """One of each kind of item (a task, a utility and a length, as measured), and each item's kind [n] by number."""
    measured = {length: outlook.latency.bucket(length) for length in {item.length for item in items}}
    keys = [(item.task, item.utility, measured[item.length]) for item in items]
    kinds = dict(zip(keys, items, strict=True))
    numbers = {key: number for number, key in enumerate(kinds)}
    return list(kinds.values()), np.array([numbers[key] for key in keys])


def _orders(kind_of: Ints, blocks: Sequence[int]) -> Ints:
    """Items by deadline [orders, n]; then, for each block size, in blocks of one kind, by their first deadline."""
    orders = [np.arange(len(kind_of))]
    counts = np.bincount(kind_of)
    if 1 < len(counts) < len(kind_of):
        by_kind = np.argsort(kind_of, kind="stable")
        begins = (np.cumsum(counts) - counts)[kind_of]  # where in `by_kind` an item's kind begins
        rank = np.empty_like(by_kind)  # of an item in its kind
        rank[by_kind] = np.arange(len(kind_of)) - begins[by_kind]
        orders += [np.argsort(by_kind[begins + rank // size * size], kind="stable") for size in blocks]
    return np.array(orders)


class _Queue:
    """The waiting items as arrays: time left [n] in ms, worth [levels, n], and what batches of some sizes take.

    `rows` [n] say which of the lengths that wait, as measured, each item has; batches take [lengths, levels, sizes].
    """

    def __init__(self, kinds: Sequence[Item], kind_of: Ints, left_s: Floats, outlook: Outlook, policy: Joint) -> None:
        latency, n = outlook.latency, len(kind_of)
        buckets = [latency.bucket(kind.length) for kind in kinds]
        lengths = sorted(set(buckets))
        self.rows: Ints = np.array([lengths.index(bucket) for bucket in buckets])[kind_of]
        self.gammas = latency.gammas
        self.executors = outlook.executors
        weights = [kind.utility * outlook.floors.weight(kind.task) for kind in kinds]
        accuracies = [outlook.accuracy[kind.task] for kind in kinds]
        never = -2.0 * n * max(weights)  # at a level that its task lacks: no batch makes up for it, and sums stay exact
        worth = [
            [weight * each[gamma] if gamma in each else never for weight, each in zip(weights, accuracies, strict=True)]
            for gamma in self.gammas
        ]
        # take, not [:, …]: that would be in Fortran's order, which numba compiles the programme for once more
        self.worth: Floats = np.take(np.array(worth), kind_of, axis=1)
        self.left_ms: Floats = left_s * 1000.0 - outlook.overhead_ms
        costs_ms = np.array([latency.all_costs_ms(length) for length in lengths])  # [lengths, levels]
        shares = np.bincount(self.rows) / (n * outlook.executors)
        self.cost_ms: list[float] = (shares @ costs_ms).tolist()
        self.chunk = min(-(-n // policy.POSITIONS), outlook.max_batch)
        chunks = -(-n // self.chunk)
        most = min(chunks, policy.POSITIONS, max(1, outlook.max_batch // self.chunk))
        self.sizes: Ints = np.array([size for size in policy.SIZES if size < most] + [most])
        samples = np.minimum(self.sizes * self.chunk, n)
        self.latency_ms: Floats = np.array([latency.all_safe_ms(length)[:, samples] for length in lengths])
        self.typical_ms: Floats = np.array([latency.all_typical_ms(length)[:, samples] for length in lengths])
        # no plan takes longer than this: a far deadline must not make the grid too coarse for the near ones
        longest_ms = chunks * self.typical_ms[:, :, 0].max() / outlook.executors + self.latency_ms.max()
        self.last_ms = float(min(self.left_ms.max(), longest_ms))
