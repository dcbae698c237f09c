"""The waiting samples of one encoder, most urgent first."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One sample that waits: its task, its deadline, what an answer in time is worth, and its length in tokens.

    Times are seconds on the caller's clock; `payload` is the caller's own and is never looked at here. `background` is
    work that nobody waits for, an audit: it counts neither as load nor for its task's outcomes.
    """

    task: str
    arrival_s: float
    deadline_s: float
    utility: float
    length: int
    payload: Any = None
    background: bool = False


class DeadlineQueue:
    """Items ordered by deadline, then by arrival."""

    def __init__(self) -> None:
        self._items: list[Item] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __getitem__(self, index: int) -> Item:
        return self._items[index]

    def add(self, item: Item) -> None:
        """Insert by deadline; equal deadlines keep the order of arrival."""
        insort(self._items, item, key=lambda other: (other.deadline_s, other.arrival_s))

    def remove(self, items: Collection[Item]) -> None:
        """Take out `items`, which must all be waiting."""
        gone = set(map(id, items))
        self._items = [item for item in self._items if id(item) not in gone]
