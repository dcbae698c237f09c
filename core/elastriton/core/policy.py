"""What to run next: policies are plain objects with one method, and their docstring is the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from elastriton.core.latency import LatencyTable
from elastriton.core.queue import Item


@dataclass(frozen=True)
class Outlook:
    """What a policy may know: the latency table, accuracy[task][gamma], the batch limit and the fixed overhead.

    `overhead_ms` is the time a request spends around the encoder (decoding, transfers); it shortens every deadline.
    """

    latency: LatencyTable
    accuracy: dict[str, dict[int, float]]
    max_batch: int
    overhead_ms: float = 0.0
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
        """The least time from now to the answer of `item`: alone, at once, at its fastest level."""
        key = (item.task, item.length)
        if key not in self._fastest:
            fastest_ms = self.latency.fastest_ms(item.length, self.gammas([item]))
            self._fastest[key] = fastest_ms / self.latency.inflation
        return self.latency.inflation * self._fastest[key] + self.overhead_ms

    def reachable(self, item: Item, now_s: float) -> bool:
        """Whether some level would answer `item` in time if it ran alone and now."""
        return now_s + self.needed_ms(item) / 1000.0 <= item.deadline_s

    def value(self, items: Sequence[Item], gamma: int) -> float:
        """The utility to expect of answering `items` in time at level `gamma`."""
        return sum(item.utility * self.accuracy[item.task][gamma] for item in items)

    def finish_s(self, items: Sequence[Item], gamma: int, now_s: float) -> float:
        """When a batch that starts now would have been answered."""
        return self.end_s(gamma, len(items), max(item.length for item in items), now_s)

    def end_s(self, gamma: int, size: int, length: int, now_s: float) -> float:
        """When a batch of `size` items, the longest of `length`, that starts now would have been answered."""
        return now_s + (self.latency.predict_ms(gamma, size, length) + self.overhead_ms) / 1000.0


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
    """Earliest deadline first, the largest feasible batch, then the most accurate level for it.

    1. Take the most urgent item; if no level answers even it alone in time, drop it and take the next.
    2. Take as many of the most urgent items as some level can answer before the first deadline.
    3. Of the levels that can, run the one with the largest expected utility; on a tie the faster one.
    """

    def arrived(self, item: Item) -> None:
        """This policy looks at the queue alone."""

    def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
        drop: list[Item] = []
        for start, head in enumerate(waiting):
            if outlook.reachable(head, now_s):
                return self._largest(waiting[start : start + outlook.max_batch], now_s, outlook, tuple(drop))
            drop.append(head)
        return Decision(drop=tuple(drop))

    def _largest(self, urgent: Sequence[Item], now_s: float, outlook: Outlook, drop: tuple[Item, ...]) -> Decision:
        longest = list(accumulate((item.length for item in urgent), max))
        for size in range(len(urgent), 0, -1):
            batch = tuple(urgent[:size])
            finish_s = {g: outlook.end_s(g, size, longest[size - 1], now_s) for g in outlook.gammas(batch)}
            feasible = [gamma for gamma, end_s in finish_s.items() if end_s <= urgent[0].deadline_s]
            if feasible:
                best = max((outlook.value(batch, gamma), -finish_s[gamma], gamma) for gamma in feasible)[2]
                return Decision(batch, best, finish_s[best], drop)
        raise AssertionError("the first item can be reached, so that a batch of one must be feasible")
