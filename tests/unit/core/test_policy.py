from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.policies import POLICIES
from elastriton.core.policy import Decision, LargestBatch, Outlook
from elastriton.core.queue import DeadlineQueue, Item

ACCURACY = {"eurosat": {-8: 0.7, -4: 0.8, 0: 0.9}, "plain": {0: 0.5}, "fast": {-8: 0.6, -4: 0.6}}


def outlook(overhead_ms: float = 0.0, max_batch: int = 4) -> Outlook:
    """Per sample, level 0 takes 30 ms, -4 takes 20 ms and -8 takes 10 ms; texts of 16 tokens take twice as long."""
    per_sample = {-8: 10.0, -4: 20.0, 0: 30.0}
    cells = [
        Cell(gamma, length, batch, ms * batch * length / 8, ms * batch * length / 8, 1)
        for gamma, ms in per_sample.items()
        for length in (8, 16)
        for batch in (1, 8)
    ]
    return Outlook(LatencyTable(cells), ACCURACY, max_batch, overhead_ms)


def item(left_ms: float, task: str = "eurosat", utility: float = 1.0, length: int = 8) -> Item:
    return Item(task, 0.0, left_ms / 1000.0, utility, length)


def decide(waiting: list[Item], view: Outlook | None = None, now_s: float = 0.0) -> Decision:
    return LargestBatch().decide(waiting, now_s, view or outlook())


def test_the_policy_is_registered() -> None:
    assert type(POLICIES["largest-batch"]()) is LargestBatch


def test_an_item_that_no_level_answers_in_time_is_dropped_and_the_next_taken() -> None:
    waiting = [item(3), item(9), item(100)]
    decision = decide(waiting)
    assert decision.drop == tuple(waiting[:2])
    assert decision.batch == (waiting[2],)


def risky(typical_ms: float, safe_ms: float) -> Outlook:
    """One level; per sample, half of the batches take longer than the one, and one of 100 longer than the other."""
    cells = [Cell(0, 8, batch, typical_ms * batch, safe_ms * batch, 1) for batch in (1, 8)]
    return Outlook(LatencyTable(cells), {"eurosat": {0: 0.9}}, 4)


def test_an_item_at_risk_delays_nobody_who_is_safe() -> None:
    waiting = [item(12), item(25), item(60)]
    decision = decide(waiting, risky(10.0, 20.0))
    assert decision.drop == ()
    assert decision.batch == (waiting[1],)


def test_an_item_at_risk_is_run_where_nobody_is_safe() -> None:
    waiting = [item(5), item(12), item(15)]
    decision = decide(waiting, risky(10.0, 20.0))
    assert decision.drop == (waiting[0],)
    assert decision.batch == (waiting[1],)


def test_where_everything_is_hopeless_everything_is_dropped_and_nothing_run() -> None:
    waiting = [item(1), item(2)]
    assert decide(waiting) == Decision(drop=tuple(waiting))


def test_as_many_are_taken_as_some_level_answers_before_the_first_deadline() -> None:
    waiting = [item(35), item(1000), item(1000), item(1000)]
    decision = decide(waiting)
    assert decision.batch == tuple(waiting[:3])
    assert decision.gamma == -8
    assert decision.finish_s == pytest.approx(0.030)


def test_the_batch_is_at_most_max_batch() -> None:
    waiting = [item(10_000) for _ in range(9)]
    assert decide(waiting).batch == tuple(waiting[:4])


def test_of_the_levels_in_time_the_most_useful_is_run() -> None:
    assert decide([item(25)]).gamma == -4
    assert decide([item(35)]).gamma == 0
    assert decide([item(12)]).gamma == -8


def test_utility_weighs_the_samples_of_a_batch() -> None:
    view = outlook()
    view.accuracy["slow"] = {-8: 0.1, 0: 0.9}
    view.accuracy["quick"] = {-8: 0.9, 0: 0.1}
    assert decide([item(999, "slow", utility=3.0), item(999, "quick")], view).gamma == 0
    assert decide([item(999, "slow"), item(999, "quick", utility=3.0)], view).gamma == -8


def test_on_a_tie_the_faster_level_is_run() -> None:
    assert decide([item(999, "fast")]).gamma == -8


def test_a_deadline_is_met_when_it_is_met_exactly() -> None:
    assert decide([item(10)]).gamma == -8


def test_the_overhead_shortens_every_deadline() -> None:
    assert decide([item(35)], outlook(overhead_ms=6)).gamma == -4
    assert decide([item(12)], outlook(overhead_ms=6)).drop


def test_time_that_has_passed_is_gone() -> None:
    assert decide([item(35)], now_s=0.02).gamma == -8
    assert decide([item(35)], now_s=0.03).drop


def test_the_longest_sample_of_a_batch_decides_its_time() -> None:
    waiting = [item(35), item(1000, length=16)]
    assert decide(waiting).batch == tuple(waiting[:1])


def test_mixed_tasks_share_only_the_levels_that_all_of_them_have() -> None:
    assert outlook().gammas([item(1), item(1, "plain")]) == (0,)
    assert outlook().gammas([item(1), item(1, "fast")]) == (
        -8,
        -4,
    )
    mixed = [item(61), item(1000, "plain")]
    assert (decide(mixed).batch, decide(mixed).gamma) == (tuple(mixed), 0)
    tight = [item(50), item(1000, "plain")]
    assert (decide(tight).batch, decide(tight).gamma) == (tuple(tight[:1]), 0)


def test_tasks_without_a_common_level_are_not_batched() -> None:
    assert outlook().gammas([item(1, "plain"), item(1, "fast")]) == ()
    waiting = [item(1000, "plain"), item(1000, "fast")]
    assert decide(waiting).batch == tuple(waiting[:1])


@st.composite
def situations(draw: st.DrawFn, *, tail: float = 1.0) -> tuple[list[Item], float, Outlook]:
    """What waits, when, and a table whose p99s are at most `tail` times the medians."""
    ms, tails = st.floats(0.1, 100.0), st.floats(1.0, tail)
    gammas = sorted(draw(st.sets(st.integers(-8, 8), min_size=1, max_size=4)))
    cells = [Cell(g, n, b, p50 := draw(ms), p50 * draw(tails), 1) for g in gammas for n in (8, 16) for b in (1, 3, 6)]
    levels = st.dictionaries(st.sampled_from(gammas), st.floats(0.0, 1.0), min_size=1)
    accuracy = draw(st.dictionaries(st.sampled_from("abc"), levels, min_size=1))
    view = Outlook(LatencyTable(cells), accuracy, draw(st.integers(1, 6)), draw(st.floats(0.0, 5.0)))
    items = st.builds(
        Item,
        st.sampled_from(sorted(accuracy)),
        st.just(0.0),
        st.floats(0.0, 0.3),
        st.floats(0.1, 10.0),
        st.integers(1, 16),
    )
    queue = DeadlineQueue()
    for one in draw(st.lists(items, min_size=1, max_size=12)):
        queue.add(one)
    return list(queue), draw(st.floats(0.0, 0.1)), view


@settings(max_examples=150, deadline=None)
@given(situations())
def test_no_decision_breaks_a_promise(situation: tuple[list[Item], float, Outlook]) -> None:
    waiting, now_s, view = situation
    decision = LargestBatch().decide(waiting, now_s, view)
    assert decision.drop == tuple(waiting[: len(decision.drop)])
    for one in decision.drop:
        assert all(view.finish_s([one], gamma, now_s) > one.deadline_s for gamma in view.gammas([one]))
    if not decision.batch:
        assert decision.drop == tuple(waiting)
        return
    head = decision.batch[0]
    bucket = view.latency.bucket
    alike = [one for one in waiting[len(decision.drop) :] if bucket(one.length) == bucket(head.length)]
    assert waiting[len(decision.drop)] == head
    assert decision.batch == tuple(alike[: len(decision.batch)])
    assert decision.finish_s == view.finish_s(decision.batch, decision.gamma, now_s) <= head.deadline_s
    assert 0 < len(decision.batch) <= view.max_batch
    assert decision.gamma in view.gammas(decision.batch)
    in_time = [g for g in view.gammas(decision.batch) if view.finish_s(decision.batch, g, now_s) <= head.deadline_s]
    assert view.value(decision.batch, decision.gamma) == max(view.value(decision.batch, gamma) for gamma in in_time)
    for size in range(len(decision.batch) + 1, min(len(alike), view.max_batch) + 1):
        larger = alike[:size]
        assert all(view.finish_s(larger, gamma, now_s) > head.deadline_s for gamma in view.gammas(larger))


def from_every_start(waiting: list[Item], now_s: float, view: Outlook) -> Decision:
    """The docstring of LargestBatch, word for word and at any cost."""
    lost = next((i for i, one in enumerate(waiting) if view.reachable(one, now_s)), len(waiting))
    drop, alive = tuple(waiting[:lost]), waiting[lost:]
    for start, first in enumerate(alive):
        bucket = view.latency.bucket(first.length)
        alike = [one for one in alive[start:] if view.latency.bucket(one.length) == bucket][: view.max_batch]
        for size in range(len(alike), 0, -1):
            batch = tuple(alike[:size])
            ends_s = {gamma: view.finish_s(batch, gamma, now_s) for gamma in view.gammas(batch)}
            if in_time := [gamma for gamma, end_s in ends_s.items() if end_s <= first.deadline_s]:
                best = max(in_time, key=lambda gamma: (view.value(batch, gamma), -ends_s[gamma], gamma))
                return Decision(batch, best, ends_s[best], drop)
    if not alive:
        return Decision(drop=drop)
    finish_s, fastest = min((view.finish_s(alive[:1], gamma, now_s), gamma) for gamma in view.gammas(alive[:1]))
    return Decision((alive[0],), fastest, finish_s, drop)


@settings(max_examples=300, deadline=None)
@given(situations(tail=4.0))
def test_decisions_are_those_of_a_search_from_every_item(situation: tuple[list[Item], float, Outlook]) -> None:
    waiting, now_s, view = situation
    assert LargestBatch().decide(waiting, now_s, view) == from_every_start(waiting, now_s, view)


def test_a_long_queue_at_risk_is_looked_at_once_per_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    end_s = Outlook.end_s

    def counted(view: Outlook, gamma: int, size: int, length: int, now_s: float) -> float:
        asked.append(gamma)
        return end_s(view, gamma, size, length, now_s)

    monkeypatch.setattr(Outlook, "end_s", counted)
    waiting = [item(12 + i / 1000) for i in range(1000)]
    decision = decide(waiting, risky(10.0, 20.0))
    assert (decision.batch, decision.drop) == ((waiting[0],), ())
    assert len(asked) < 10


def test_texts_share_a_batch_with_those_that_count_as_long() -> None:
    cells = [Cell(0, length, batch, 1.0 + length * batch / 16, 1.0 + length * batch / 16, 30)
             for length in (16, 64) for batch in (1, 8)]  # fmt: skip
    outlook = Outlook(LatencyTable(cells), {"t": {0: 0.9}}, 8)
    waiting = [Item("t", 0.0, 10.0 + i, 1.0, length, i) for i, length in enumerate((7, 60, 16, 17, 3, 64))]
    first = LargestBatch().decide(waiting, 0.0, outlook)
    assert [item.payload for item in first.batch] == [0, 2, 4], "short texts are not padded to long ones"
    rest = [item for item in waiting if item not in first.batch]
    assert [item.payload for item in LargestBatch().decide(rest, 0.0, outlook).batch] == [1, 3, 5]
