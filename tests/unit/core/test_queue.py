from __future__ import annotations

import random

from elastriton.core.queue import DeadlineQueue, Item


def item(deadline_s: float, arrival_s: float = 0.0, payload: object = None) -> Item:
    return Item("t", arrival_s, deadline_s, 1.0, 1, payload)


def queue_of(items: list[Item]) -> DeadlineQueue:
    queue = DeadlineQueue()
    for one in items:
        queue.add(one)
    return queue


def test_items_come_by_deadline_then_by_arrival() -> None:
    generator = random.Random(0)
    items = [item(generator.randrange(5), generator.randrange(5)) for _ in range(100)]
    keys = [(one.deadline_s, one.arrival_s) for one in queue_of(items)]
    assert keys == sorted(keys)
    assert len(keys) == 100


def test_full_ties_keep_the_order_in_which_they_were_added() -> None:
    items = [item(1.0, payload=i) for i in range(20)]
    queue = queue_of([*items[:10], item(0.5), item(2.0), *items[10:]])
    assert [one.payload for one in queue if one.deadline_s == 1.0] == list(range(20))


def test_the_most_urgent_comes_first() -> None:
    queue = queue_of([item(3.0), item(1.0), item(2.0)])
    assert [one.deadline_s for one in queue] == [1.0, 2.0, 3.0]
    assert queue[0].deadline_s == 1.0


def test_remove_takes_out_exactly_the_given_items_even_among_equals() -> None:
    twins = [item(1.0) for _ in range(4)]
    queue = queue_of(twins)
    queue.remove([twins[2], twins[0]])
    assert [any(one is twin for one in queue) for twin in twins] == [False, True, False, True]


def test_an_empty_queue() -> None:
    queue = DeadlineQueue()
    queue.remove([])
    assert not queue
    assert list(queue) == []
