"""The joint plan against exhaustive search, and the decisions that come out of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastriton.core.joint import Joint, _orders, _Queue
from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.policy import Outlook
from elastriton.core.programme import Floats, best_plan, compile_now, solve
from elastriton.core.queue import Item

GAMMAS = (-8, 0)
SIZES = (1, 2, 3, 4, 5)
ACCURACY = {"easy": {-8: 0.90, 0: 0.95}, "hard": {-8: 0.50, 0: 0.80}}


def table(fast_ms: float = 2.0, slow_ms: float = 4.0, max_batch: int = 4) -> LatencyTable:
    sizes = (1, 2, 4)[: {1: 1, 2: 2, 4: 3}[max_batch]]
    each = {-8: fast_ms, 0: slow_ms}
    return LatencyTable(
        Cell(gamma, 17, size, ms := each[gamma] * (0.5 + 0.5 * size), ms, 50) for gamma in GAMMAS for size in sizes
    )


def outlook(**arguments: float) -> Outlook:
    return Outlook(table(**arguments), ACCURACY, 4)  # type: ignore[arg-type]


def item(deadline_ms: float, task: str = "easy", utility: float = 1.0) -> Item:
    return Item(task, 0.0, deadline_ms / 1000.0, utility, 17)


def best_value(
    deadlines: list[float], rows: list[int], worth: Floats, latency: Floats, typical: Floats, price: float, now: float
) -> float:
    """Exhaustively: pass over items, or run the next few at a level, from `now` on; that costs time its price."""
    if not deadlines:
        return -price * now
    best = best_value(deadlines[1:], rows[1:], worth[:, 1:], latency, typical, price, now)
    for s, size in enumerate(SIZES):
        if size > len(deadlines):
            break
        for g in range(len(GAMMAS)):
            length = max(rows[:size])
            end, free = now + latency[length, g, s], now + typical[length, g, s]
            gain = sum(worth[g, i] for i in range(size) if deadlines[i] >= end)
            rest = (deadlines[size:], rows[size:], worth[:, size:], latency, typical, price, free)
            best = max(best, gain + best_value(*rest))
    return best


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 1), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, 6),
    st.integers(0, 3),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.05, 0.4]),
)
@settings(max_examples=400, deadline=None)
def test_the_first_move_loses_nothing(
    items: list[tuple[int, int, int]], fast: int, extra: int, fixed: int, tail: int, longer: int, price: float
) -> None:
    due, rows, utilities = (list(column) for column in zip(*sorted(items), strict=True))
    worth = np.outer([0.8, 0.95], utilities)
    typical: Floats = np.array(
        [[[fixed + (each + more) * size for size in SIZES] for each in (fast, fast + extra)] for more in (0, longer)],
        dtype=float,
    )
    latency: Floats = typical + tail
    gains = np.concatenate([np.zeros((2, 1)), worth.cumsum(axis=1)], axis=1)
    times = 32  # a grid of whole ms: all latencies are, so that nothing is rounded
    value, first, size, level = solve(
        np.array(due, float), np.array(rows), gains, np.array(SIZES), latency, typical, 1, 1.0, times, price
    )
    optimum = best_value(list(map(float, due)), rows, worth, latency, typical, price, 0.0)
    assert value == pytest.approx(optimum)
    if size == 0:
        assert optimum == 0.0
        return
    taken, s = range(first, first + size), SIZES.index(size)
    end, free = (each[max(rows[i] for i in taken), level, s] for each in (latency, typical))
    gain = sum(worth[level, i] for i in taken if due[i] >= end)
    left = slice(first + size, None)
    rest = best_value(list(map(float, due[left])), rows[left], worth[:, left], latency, typical, price, free)
    assert gain + rest == pytest.approx(optimum)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.lists(st.integers(1, 9), max_size=3))
@settings(max_examples=200, deadline=None)
def test_orders_keep_kinds_together_in_blocks(numbers: list[int], sizes: list[int]) -> None:
    numbers = np.unique(numbers, return_inverse=True)[1].tolist()
    by_deadline, *others = _orders(np.array(numbers), sizes).tolist()
    assert by_deadline == list(range(len(numbers)))
    several = 1 < len(set(numbers)) < len(numbers)
    assert len(others) == (len(sizes) if several else 0)
    for size, order in zip(sizes, others, strict=False):
        members = [[index for index, number in enumerate(numbers) if number == kind] for kind in range(3)]
        parts = [kind[i : i + size] for kind in members for i in range(0, len(kind), size)]
        assert order == [index for part in sorted(parts, key=lambda part: part[0]) for index in part]


def test_an_idle_executor_takes_the_accurate_level() -> None:
    decision = Joint(priced=False).decide([item(100.0)], 0.0, outlook())
    assert (len(decision.batch), decision.gamma) == (1, 0)


def test_a_full_queue_takes_the_fast_level() -> None:
    waiting = [item(22.0) for _ in range(16)]
    decision = Joint(priced=False).decide(waiting, 0.0, outlook())
    assert (len(decision.batch), decision.gamma) == (4, -8)


def test_a_far_deadline_does_not_blind_the_plan_to_near_ones() -> None:
    """An audit, say, in a queue of urgent requests: the grid of times must not be stretched to it."""
    waiting = [*(item(22.0) for _ in range(16)), item(20_000.0, utility=1e-6)]
    decision = Joint(priced=False).decide(waiting, 0.0, outlook())
    assert (len(decision.batch), decision.gamma) == (4, -8)


def test_nor_does_a_long_text_that_is_lost() -> None:
    view = Outlook(LENGTHS, ACCURACY, 4)
    waiting = [*(of_length(7.0, 4) for _ in range(16)), of_length(20_000.0, 4)]
    alone = Joint(priced=False).decide(waiting, 0.0, view)
    beside = Joint(priced=False).decide([of_length(0.1, 60), *waiting], 0.0, view)
    assert len(beside.drop) == 1
    assert (beside.batch, beside.gamma) == (alone.batch, alone.gamma)


def test_no_decision_waits_for_the_compiler() -> None:
    """numba compiles once more for every other type, or order of an array in memory: for seconds, under a lock."""
    compile_now()
    Joint().decide([item(0.1), item(22.0), item(30.0, task="hard"), item(40.0)], 0.0, outlook())  # blocks, and a drop
    compiled: Any = best_plan
    assert len(compiled.signatures) == 1


def test_it_gives_up_what_is_worth_less() -> None:
    cheap, dear = item(2.1, utility=1.0), item(2.2, utility=50.0)
    decision = Joint(priced=False).decide([cheap, dear], 0.0, outlook())
    assert decision.batch == (dear,)
    assert decision.drop == ()


def test_hopeless_items_are_handed_back() -> None:
    late, fine = item(1.0), item(50.0)
    decision = Joint().decide([late, fine], 0.0, outlook())
    assert decision.drop == (late,)
    assert decision.batch == (fine,)
    assert Joint().decide([late], 0.0, outlook()).batch == ()


def test_of_those_who_are_left_each_keeps_its_worth() -> None:
    """The lost ones come first, and are of another task than the next in the queue."""
    lost = [item(1.0 + i / 10, task="hard") for i in range(3)]
    cheap, dear = item(2.1, utility=1.0), item(2.2, task="hard", utility=50.0)
    decision = Joint(priced=False).decide([*lost, cheap, dear], 0.0, outlook())
    assert decision.drop == tuple(lost)
    assert decision.batch == (dear,)


def test_a_busy_stream_makes_a_short_queue_take_the_fast_level() -> None:
    def level_after(arrivals: int, priced: bool) -> int:
        policy = Joint(priced=priced)
        for i in range(arrivals):
            policy.arrived(Item("easy", i * 0.0015, i * 0.0015 + 0.05, 1.0, 17))
        now_s = arrivals * 0.0015
        decision = policy.decide([Item("easy", now_s, now_s + 0.05, 1.0, 17)], now_s, outlook())
        return decision.gamma

    assert level_after(1, priced=True) == 0
    assert level_after(400, priced=True) == -8
    assert level_after(400, priced=False) == 0


def test_a_long_and_urgent_queue_is_never_left_alone() -> None:
    waiting = [item(2.1 + 0.001 * i, task=("easy", "hard")[i % 2]) for i in range(400)]
    assert Joint().decide(waiting, 0.0, outlook()).batch


@given(
    st.lists(st.tuples(st.floats(0.5, 60.0), st.sampled_from(["easy", "hard"]), st.floats(0.1, 5.0)), max_size=20),
    st.integers(0, 300),
)
@settings(max_examples=100, deadline=None)
def test_decisions_are_sound(rows: list[tuple[float, str, float]], arrivals: int) -> None:
    waiting = sorted((item(*row) for row in rows), key=lambda other: other.deadline_s)
    if not waiting:
        return
    policy, view = Joint(), outlook()
    for i in range(arrivals):
        policy.arrived(Item("easy", -i * 0.001, 1.0, 1.0, 17))
    decision = policy.decide(waiting, 0.0, view)
    chosen = [*decision.batch, *decision.drop]
    assert len({id(other) for other in chosen}) == len(chosen)
    assert {id(other) for other in chosen} <= {id(other) for other in waiting}
    assert not any(view.reachable(other, 0.0) for other in decision.drop)
    if any(view.reachable(other, 0.0) for other in waiting):
        assert 1 <= len(decision.batch) <= view.max_batch, "work is never put off"
        assert any(other.deadline_s >= decision.finish_s - 1e-9 for other in decision.batch)
    for kind in {(other.task, other.utility) for other in decision.batch}:
        alike = [other.deadline_s for other in decision.batch if (other.task, other.utility) == kind]
        assert alike == sorted(alike), "of equals, the more urgent go first"


@given(st.integers(1, 40), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_between_points_of_the_grid_values_are_interpolated(duration: int, over: int) -> None:
    """Two items, one at a time: the second starts when the first typically ends, and costs time at its price."""
    due, gains = np.array([100.0, 100.0]), np.array([[0.0, 1.0, 2.0]])
    each = np.full((1, 1, 1), duration / 1.7)
    value, _, size, _ = solve(due, np.zeros(2, int), gains, np.array([1]), each, each, 1, 100.0 / 16, 16, over / 1000.0)
    assert size == 1
    assert value == pytest.approx(2.0 - 2 * each[0, 0, 0] * over / 1000.0)


LENGTHS = LatencyTable(
    Cell(gamma, length, size, ms := share * length * (0.5 + 0.5 * size) / 4, ms, 50)
    for gamma, share in ((-8, 0.5), (0, 1.0))
    for length in (4, 16, 64)
    for size in (1, 2, 4)
)


def of_length(deadline_ms: float, length: int) -> Item:
    return Item("easy", 0.0, deadline_ms / 1000.0, 1.0, length)


def test_short_texts_are_not_padded_to_a_long_one_where_time_is_short() -> None:
    """The long one takes 16 ms at level 0, and 40 in a batch of four: alone, all five are answered at level 0."""
    view = Outlook(LENGTHS, ACCURACY, 4)
    waiting = [of_length(22.0, 3), of_length(22.5, 60), *(of_length(23.0 + i, 4) for i in range(3))]
    now_s = 0.0
    while waiting:
        decision = Joint(priced=False).decide(waiting, now_s, view)
        assert {item.length > 16 for item in decision.batch} in ({False}, {True})
        assert decision.gamma == 0
        assert decision.finish_s <= min(item.deadline_s for item in decision.batch)
        now_s = decision.finish_s
        waiting = [item for item in waiting if item not in decision.batch]


def test_a_batch_takes_as_long_as_its_longest_text() -> None:
    view = Outlook(LENGTHS, ACCURACY, 4)
    waiting = [of_length(100.0, 3), of_length(100.0, 60)]
    for now_s in (0.0, 0.07, 0.09):
        decision = Joint(priced=False).decide(waiting, now_s, view)
        longest = max(item.length for item in decision.batch)
        assert decision.finish_s - now_s == pytest.approx(
            LENGTHS.safe_ms(decision.gamma, len(decision.batch), longest) / 1000.0
        )
        assert decision.finish_s <= 0.1


@pytest.mark.parametrize("lost", [3, 60])
def test_lost_texts_leave_those_of_another_length_to_be_planned(lost: int) -> None:
    view = Outlook(LENGTHS, ACCURACY, 4)
    decision = Joint().decide([of_length(0.1, lost), of_length(90.0, 16)], 0.0, view)
    assert [item.length for item in decision.drop] == [lost]
    assert [item.length for item in decision.batch] == [16]


def test_a_task_that_is_worth_little_counts_beside_many_who_lack_a_level() -> None:
    accuracy = {"plain": {0: 0.9}, "easy": ACCURACY["easy"]}
    kinds = [item(100.0, "plain"), item(100.0, "easy", utility=1e-5)]
    kind_of = np.array([0] * 200 + [1] * 4)
    queue = _Queue(kinds, kind_of, np.full(204, 0.1), Outlook(table(), accuracy, 4), Joint())
    gains = queue.worth.cumsum(axis=1)
    assert gains[0, -1] - gains[0, -5] == pytest.approx(4 * 0.9e-5, rel=1e-3)
    assert queue.worth[0, 0] < -queue.worth[1].sum(), "and no batch takes who lacks its level"
