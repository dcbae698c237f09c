"""OTAS-style scheduling: what shares a batch, and which level each batch gets."""

from __future__ import annotations

import pytest

from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.otas import Otas, Sustained
from elastriton.core.policies import POLICIES
from elastriton.core.policy import Outlook
from elastriton.core.queue import Item

LEVELS = {-8: (1.65, 0.87), -4: (1.27, 0.92), 0: (1.0, 0.943), 8: (0.96, 0.946)}
ACCURACY = {gamma: accuracy for gamma, (_, accuracy) in LEVELS.items()}
TASKS = {"tight": 65.0, "loose": 130.0, "precious": 260.0}


def outlook(accuracy: dict[str, dict[int, float]] | None = None) -> Outlook:
    """A batch takes 6.5 ms and 4.3 ms per sample over the level's speed-up; texts of 32 tokens twice that."""
    cells = [
        Cell(gamma, length, size, ms := length / 16 * (6.5 + 4.3 * size / speed_up), ms, 1)
        for gamma, (speed_up, _) in LEVELS.items()
        for length in (16, 32)
        for size in (1, 16)
    ]
    return Outlook(LatencyTable(cells), accuracy or dict.fromkeys(TASKS, ACCURACY), 16, slo_ms=TASKS)


def item(left_ms: float, task: str = "tight", utility: float = 1.0, arrived_ms: float = 0.0, length: int = 16) -> Item:
    return Item(task, arrived_ms / 1000.0, left_ms / 1000.0, utility, length)


def test_the_policy_is_registered() -> None:
    assert type(POLICIES["otas"]()) is Otas


def test_requests_share_a_batch_whose_deadlines_and_utilities_are_alike() -> None:
    near, close, far, precious = item(60.0), item(65.0), item(200.0), item(70.0, "precious", 2.0)
    groups = Otas().batches([near, close, precious, far], 0.0, outlook())
    assert groups == [[near, close], [precious], [far]]


def test_a_request_joins_the_closest_of_two_batches() -> None:
    first, second, third = item(100.0), item(180.0), item(160.0)
    assert Otas().batches([first, second, third], 0.0, outlook()) == [[first], [second, third]]


def test_a_batch_that_one_more_would_make_late_takes_no_more() -> None:
    waiting = [item(20.0) for _ in range(7)]  # at -8 five take 6.5 + 4.3 x 5 / 1.65 = 19.5 ms, six 22.1
    assert sorted(len(group) for group in Otas().batches(waiting, 0.0, outlook())) == [2, 5]
    assert sorted(len(group) for group in Otas().batches(waiting, 0.004, outlook())) == [1, 3, 3]


def test_a_batch_is_filled_by_the_levels_that_its_tasks_have() -> None:
    view = outlook({"tight": ACCURACY, "loose": {0: 0.9}, "precious": ACCURACY})
    waiting = [item(20.0, "loose") for _ in range(7)]  # at 0 three take 6.5 + 4.3 x 3 = 19.4 ms, four 23.7
    assert sorted(len(group) for group in Otas().batches(waiting, 0.0, view)) == [1, 3, 3]


def test_texts_of_different_lengths_and_tasks_without_a_common_level_share_no_batch() -> None:
    short, long = item(200.0, length=9), item(200.0, length=17)
    assert Otas().batches([short, long, short], 0.0, outlook()) == [[long], [short, short]]
    plain, fast = item(200.0, "loose"), item(200.0, "precious")
    view = outlook({"tight": ACCURACY, "loose": {0: 0.9}, "precious": {-8: 0.8}})
    groups = Otas().batches([item(200.0), plain, fast], 0.0, view)
    assert [len(group) for group in groups] == [1, 2]
    decision = Otas().decide([plain], 0.0, view)
    assert (decision.batch, decision.gamma) == ((plain,), 0)


def test_levels_are_chosen_so_that_later_batches_fit_too() -> None:
    assert Otas().decide([item(60.0)], 0.0, outlook()).gamma == 8
    queue = [item(60.0) for _ in range(10)] + [item(80.0, "precious", 2.0) for _ in range(10)]
    decision = Otas().decide(queue, 0.0, outlook())
    assert decision.batch == tuple(queue[:10])
    assert decision.gamma < 0
    assert decision.finish_s == pytest.approx(outlook().latency.safe_ms(decision.gamma, 10, 16) / 1000.0)


def test_a_batch_that_is_worth_less_than_the_time_it_takes_is_passed_over() -> None:
    cheap = [item(40.0, utility=0.1) for _ in range(8)]
    precious = [item(45.0, "precious", 2.0) for _ in range(10)]
    decision = Otas().decide([*cheap, *precious], 0.0, outlook())
    assert decision.batch == tuple(precious)
    assert decision.drop == ()


def test_the_first_level_is_no_slower_than_the_load_allows() -> None:
    busy = Otas()
    for index in range(2400):
        busy.arrived(item(0.0, arrived_ms=(index - 2400) / 0.3))
    assert busy.decide([item(60.0)], 0.0, outlook()).gamma < 0


def test_what_no_level_answers_in_time_any_more_is_dropped() -> None:
    lost, fine = item(5.0), item(60.0)
    decision = Otas().decide([lost, fine], 0.0, outlook())
    assert (decision.drop, decision.batch) == ((lost,), (fine,))
    assert Otas().decide([lost], 0.0, outlook()).drop == (lost,)


def test_what_a_level_sustains_ends_within_the_shortest_slo() -> None:
    levels = Sustained(outlook(), 16)
    assert levels.fast_to_slow == [-8, -4, 0, 8]
    assert levels.per_s[0] == pytest.approx(1000 * 13 / (6.5 + 4.3 * 13))  # 14 take longer than 65 ms
    assert levels.per_s[-8] == pytest.approx(1000 * 16 / (6.5 + 4.3 * 16 / 1.65))
    assert levels.most_accurate(1.0) == 8
    assert levels.most_accurate(levels.per_s[-4]) == -4
    assert levels.most_accurate(1e6) == -8
