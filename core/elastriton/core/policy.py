"""What to run next: policies are plain objects with two methods, and the docstring of the class is the algorithm."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Protocol

from elastriton.core.fairness import Floors
from elastriton.core.latency import LatencyTable
from elastriton.core.queue import Item


@dataclass(frozen=True)
class Outlook:
    """What a policy may know: the latency table, accuracy[task][gamma], the batch limit and the fixed overhead.

    `executors` equal ones work side by side, and `floors` weigh up the tasks that are served too little. `overhead_ms`
    is the time a request spends around the encoder (decoding, transfers); it shortens every deadline. `slo_ms` are the
    tasks' own; a request may bring another.
    """

    latency: LatencyTable
    accuracy: dict[str, dict[int, float]]
    max_batch: int
    overhead_ms: float = 0.0
    executors: int = 1
    floors: Floors = field(default_factory=Floors)
    slo_ms: Mapping[str, float] = field(default_factory=dict)
    _common: dict[frozenset[str], tuple[int, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _fastest: dict[tuple[str, int], float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def gammas(self, items: Sequence[Item]) -> tuple[int, ...]:
        """The levels that every one of `items` has: a batch runs at one level."""
        tasks = frozenset([item.task for item in items])
        if tasks not in self._common:
            levels = self.latency.gammas
            self._common[tasks] = tuple(g for g in levels if all(g in self.accuracy[task] for task in tasks))
        return self._common[tasks]

    def needed_ms(self, item: Item) -> float:
        """The least time that the answer of `item` typically takes: alone, at once, at its fastest level."""
        return self.latency.drift.typical * self._fastest_ms(item) + self.overhead_ms

    def profiled_ms(self, item: Item) -> float:
        """The same on a machine that is as fast as when it was profiled."""
        return self._fastest_ms(item) + self.overhead_ms

    def _fastest_ms(self, item: Item) -> float:
        key = (item.task, item.length)
        if key not in self._fastest:
            drifted_ms = min(self.latency.typical_ms(gamma, 1, item.length) for gamma in self.gammas([item]))
            self._fastest[key] = drifted_ms / self.latency.drift.typical
        return self._fastest[key]

    def reachable(self, item: Item, now_s: float) -> bool:
        """Whether some level would typically answer `item` in time if it ran alone and now."""
        return now_s + self.needed_ms(item) / 1000.0 <= item.deadline_s

    def value(self, items: Sequence[Item], gamma: int) -> float:
        """The utility to expect of answering `items` in time at level `gamma`."""
        return sum(self.floors.weight(item.task) * item.utility * self.accuracy[item.task][gamma] for item in items)

    def finish_s(self, items: Sequence[Item], gamma: int, now_s: float) -> float:
        """When a batch that starts now will have been answered, in 99 of 100 cases."""
        return self.end_s(gamma, len(items), max(item.length for item in items), now_s)

    def end_s(self, gamma: int, size: int, length: int, now_s: float) -> float:
        """The same for `size` items, the longest of `length`."""
        return now_s + (self.latency.safe_ms(gamma, size, length) + self.overhead_ms) / 1000.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Run `batch` at level `gamma`, expected to be answered at `finish_s`; answer `drop` with a rejection.

    An empty batch with `wake_s` means: not yet, ask again at that time or at the next arrival.
    """

    batch: tuple[Item, ...] = ()
    gamma: int = 0
    finish_s: float = 0.0
    drop: tuple[Item, ...] = ()
    wake_s: float | None = None


class Policy(Protocol):
    """Decides what an idle executor does next."""

    def arrived(self, item: Item) -> None:
        """An item has been admitted; policies that estimate the load listen here."""
        ...

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        """`waiting` holds the most urgent items, by deadline; it is never empty."""
        ...


class LargestBatch:
    """Earliest deadline first, the largest batch that is safely in time, then the most accurate level for it.

    1. Drop items at the head that no level typically answers in time any more, even alone.
    2. From the most urgent item that some level answers in time at its p99: take as many of the most urgent items of
       its length (as measured: short texts are not padded to long ones) as some level so answers before the first
       deadline. Those before it wait on: they delay nobody who is safe.
    3. Of the levels that can, run the one with the largest expected utility; on a tie the faster one.
    4. Where nothing is safe, run the most urgent item alone at its fastest level: it is at risk, but not lost.
    """

    def arrived(self, item: Item) -> None:
        """This policy looks at the queue alone."""

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        lost = 0
        while lost < len(waiting) and not outlook.reachable(waiting[lost], now_s):
            lost += 1
        drop, alive = tuple(waiting[:lost]), waiting[lost:]
        if not alive:
            return Decision(drop=drop)
        start = _first_safe(alive, now_s, outlook)
        if start is not None:
            return self._largest(_alike(islice(alive, start, None), outlook), now_s, outlook, drop)
        head = alive[0]
        finish_s, fastest = min((outlook.finish_s([head], gamma, now_s), gamma) for gamma in outlook.gammas([head]))
        return Decision((head,), fastest, finish_s, drop)

    def _largest(self, urgent: Sequence[Item], now_s: float, outlook: Outlook, drop: tuple[Item, ...]) -> Decision:
        """`urgent` begins with an item that is safely in time alone."""
        longest = list(accumulate((item.length for item in urgent), max))

        def in_time(size: int) -> dict[int, float]:
            """When the first `size` items would have been answered, at each level that is safely in time."""
            ends_s = {g: outlook.end_s(g, size, longest[size - 1], now_s) for g in outlook.gammas(urgent[:size])}
            return {gamma: end_s for gamma, end_s in ends_s.items() if end_s <= urgent[0].deadline_s}

        # a smaller batch has all levels of a larger one and takes no longer, so that the feasible sizes are 1 to n
        size = bisect_left(range(1, len(urgent) + 1), True, key=lambda size: not in_time(size))
        batch, finish_s = tuple(urgent[:size]), in_time(size)
        best = max((outlook.value(batch, gamma), -end_s, gamma) for gamma, end_s in finish_s.items())[2]
        return Decision(batch, best, finish_s[best], drop)


def _first_safe(items: Sequence[Item], now_s: float, outlook: Outlook) -> int | None:
    """The number of the first item that some level answers in time at its p99, alone and now."""
    ends_s: dict[tuple[str, int], float] = {}  # by task and length: of a long queue, few items differ in them
    for number, item in enumerate(items):
        kind = (item.task, item.length)
        if kind not in ends_s:
            ends_s[kind] = min(outlook.finish_s([item], gamma, now_s) for gamma in outlook.gammas([item]))
        if ends_s[kind] <= item.deadline_s:
            return number
    return None


def _alike(urgent: Iterator[Item], outlook: Outlook) -> Sequence[Item]:
    """The most urgent items whose texts count as long as that of the first, one batch at most."""
    first = next(urgent)
    bucket = outlook.latency.bucket(first.length)
    alike = (item for item in urgent if outlook.latency.bucket(item.length) == bucket)
    return [first, *islice(alike, outlook.max_batch - 1)]
