from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from elastriton.core.errors import Rejected
from elastriton.core.fairness import Floors
from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.policy import Decision, LargestBatch, Outlook
from elastriton.core.queue import Item
from elastriton.core.scheduler import Scheduler


def scheduler(max_queue: int = 8, max_batch: int = 4, overhead_ms: float = 0.0, floor: float = 0.0) -> Scheduler:
    """10 ms per sample at level 0, 5 ms at level -4; `floor` is that of task t."""
    cells = [
        Cell(gamma, 8, batch, ms * batch, ms * batch, 1) for gamma, ms in ((-4, 5.0), (0, 10.0)) for batch in (1, 8)
    ]
    accuracy = {"t": {-4: 0.5, 0: 0.9}, "plain": {0: 0.9}}
    outlook = Outlook(LatencyTable(cells), accuracy, max_batch, overhead_ms, floors=Floors({"t": floor}))
    return Scheduler(outlook, LargestBatch(), max_queue)


def items(*left_ms: float, task: str = "t", now_s: float = 0.0) -> list[Item]:
    return [Item(task, now_s, now_s + ms / 1000.0, 1.0, 8) for ms in left_ms]


def test_admitted_items_wait_by_deadline() -> None:
    s = scheduler()
    s.admit(items(300, 100), 0.0)
    s.admit(items(200), 0.0)
    assert [item.deadline_s for item in s.waiting] == [0.1, 0.2, 0.3]


def test_a_full_queue_takes_all_items_of_a_request_or_none() -> None:
    s = scheduler(max_queue=3)
    s.admit(items(100, 100), 0.0)
    with pytest.raises(Rejected, match=r"queue is full: 2 samples wait of at most 3; 2 more"):
        s.admit(items(100, 100), 0.0)
    assert len(s.waiting) == 2
    s.admit(items(100), 0.0)
    with pytest.raises(Rejected, match="queue is full"):
        s.admit(items(100), 0.0)


def test_one_hopeless_item_rejects_its_whole_request_at_admission() -> None:
    s = scheduler()
    with pytest.raises(Rejected, match=r"deadline cannot be met: 4\.0 ms are left and the fastest level needs 5\.0 ms"):
        s.admit(items(100, 4), 0.0)
    assert len(s.waiting) == 0


def test_admission_knows_the_task_s_levels_the_overhead_and_the_time() -> None:
    scheduler().admit(items(7), 0.0)
    with pytest.raises(Rejected, match=r"needs 10\.0 ms"):
        scheduler().admit(items(7, task="plain"), 0.0)
    with pytest.raises(Rejected, match=r"needs 8\.0 ms"):
        scheduler(overhead_ms=3).admit(items(7), 0.0)
    with pytest.raises(Rejected, match=r": 0\.0 ms are left"):
        scheduler().admit(items(7), 1.0)


def test_an_item_that_can_just_be_met_is_admitted() -> None:
    s = scheduler()
    s.admit(items(5, now_s=0.0), 0.0)
    assert len(s.waiting) == 1


def test_next_takes_the_decision_s_items_out_of_the_queue() -> None:
    s = scheduler(max_batch=2)
    s.admit(items(20, 500, 600, 700), 0.0)
    decision = s.next(0.017)
    assert decision is not None
    assert [item.deadline_s for item in decision.drop] == [0.02]
    assert [item.deadline_s for item in decision.batch] == [0.5, 0.6]
    assert [item.deadline_s for item in s.waiting] == [0.7]


def test_next_says_none_where_nothing_waits() -> None:
    s = scheduler()
    assert s.next(0.0) is None
    s.admit(items(100), 0.0)
    assert s.next(0.0) is not None
    assert s.next(0.0) is None


def test_a_decision_may_only_drop() -> None:
    s = scheduler()
    s.admit(items(20, 30), 0.0)
    decision = s.next(1.0)
    assert decision is not None
    assert (decision.batch, len(decision.drop), len(s.waiting)) == ((), 2, 0)


def test_the_policy_sees_all_that_waits_by_deadline() -> None:
    seen: list[Item] = []

    class Spy:
        def arrived(self, item: Item) -> None:
            pass

        def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
            seen.extend(waiting)
            return Decision(batch=(waiting[0],))

    s = Scheduler(scheduler(max_batch=2).outlook, Spy(), max_queue=100)
    s.admit(items(*range(100, 120)), 0.0)
    s.next(0.0)
    assert [item.deadline_s for item in seen] == [ms / 1000.0 for ms in range(100, 120)]


def test_every_item_leaves_exactly_once() -> None:
    s = scheduler(max_queue=100)
    admitted = items(*(20 + 7 * i % 90 for i in range(60)))
    s.admit(admitted, 0.0)
    left: list[Item] = []
    now_s = 0.0
    while (decision := s.next(now_s)) is not None:
        left += [*decision.batch, *decision.drop]
        now_s = max(now_s, decision.finish_s)
    assert sorted(map(id, left)) == sorted(map(id, admitted))


def test_expire_takes_out_what_is_late_and_nothing_else() -> None:
    s = scheduler()
    s.admit(items(100, 200, 300), 0.0)
    assert s.expire(0.05) == []
    assert [item.deadline_s for item in s.expire(0.2)] == [0.1, 0.2]
    assert [item.deadline_s for item in s.waiting] == [0.3]


def test_batches_that_take_longer_than_predicted_make_it_careful() -> None:
    s = scheduler()
    s.admit(items(1000), 0.0)
    decision = s.next(0.0)
    assert decision is not None
    before_ms = s.outlook.needed_ms(decision.batch[0])
    s.ended(decision, 0.0, decision.finish_s + 1.0)
    assert s.outlook.needed_ms(decision.batch[0]) > before_ms


def test_a_batch_that_has_ended_is_told_by_task() -> None:
    s = scheduler()
    s.admit(items(30, 1000), 0.0)
    decision = s.next(0.0)
    assert decision is not None
    assert len(decision.batch) == 2
    ended = s.ended(decision, 0.0, 0.1)
    task = decision.batch[0].task
    assert (ended.in_time, ended.late) == ({task: 1}, {task: 1})
    assert ended.utility == s.outlook.accuracy[task][decision.gamma]
    assert (ended.took_ms, ended.size, ended.waiting) == (100.0, 2, 0)
    assert ended.predicted_ms == pytest.approx(1000.0 * decision.finish_s - s.outlook.overhead_ms)


def test_what_got_an_error_is_neither_in_time_nor_late() -> None:
    s = scheduler(floor=0.5)
    s.admit(items(1000, 1000, 30, 30), 0.0)
    batch = tuple(s.waiting)
    ended = s.ended(Decision(batch, 0, 0.04), 0.0, 0.04, lost=[batch[0], batch[3]])
    assert (ended.size, ended.in_time, ended.late) == (4, {"t": 1}, {"t": 1})
    assert ended.utility == s.outlook.accuracy["t"][0]


def test_items_whose_request_has_been_answered_leave_the_queue() -> None:
    s = scheduler(floor=0.5)
    s.admit(items(100, 200, 300), 0.0)
    first, second, third = s.waiting
    assert s.withdraw(lambda item: item is second) == [second]
    assert list(s.waiting) == [first, third]
    assert s.outlook.floors.weight("t") > 1.0, "it was not answered in time"
    assert s.withdraw(lambda item: item is second) == []


def test_one_slow_minute_does_not_lock_everybody_out_for_ever() -> None:
    s = scheduler()
    decision = Decision(tuple(items(100)), gamma=-4, finish_s=0.005)
    for _ in range(40):
        s.ended(decision, 0.0, 10.0)
    slow = s.outlook.latency.drift.typical
    with pytest.raises(Rejected):
        s.admit(items(20, now_s=10.5), 10.5)
    assert s.outlook.latency.drift.typical == slow, "a batch that has just ended knows better than a refusal"
    refused = 0
    while not s.waiting and refused < 60:
        try:
            s.admit(items(20, now_s=11.0), 11.0)
        except Rejected:
            refused += 1
    assert 0 < refused < 60, "nobody is let in by a drift that no batch corrects"
    assert s.outlook.needed_ms(s.waiting[0]) <= 20


def test_what_is_hopeless_on_any_day_says_nothing_about_the_machine() -> None:
    s = scheduler()
    for _ in range(10):
        s.ended(Decision(tuple(items(100)), gamma=-4, finish_s=0.005), 0.0, 1.0)
    before = s.outlook.latency.drift.typical
    with pytest.raises(Rejected):
        s.admit(items(4, now_s=2.0), 2.0)
    assert s.outlook.latency.drift.typical == before > 1.0
    s.admit(items(100, now_s=2.0), 2.0)
    with pytest.raises(Rejected):
        s.admit(items(6, now_s=2.0), 2.0)
    assert s.outlook.latency.drift.typical == before, "what waits will show how fast the machine is"


def test_background_work_counts_neither_as_load_nor_as_an_outcome() -> None:
    heard: list[Item] = []

    class Listening(LargestBatch):
        def arrived(self, item: Item) -> None:
            heard.append(item)

    s = scheduler(floor=0.5)
    s.policy = Listening()
    [asked] = items(100)
    audit = replace(asked, background=True)
    s.admit([asked, audit], 0.0)
    assert heard == [asked]
    ended = s.ended(Decision((asked, audit), -4, 0.005), 0.0, 0.005)
    assert (ended.size, dict(ended.in_time), dict(ended.late)) == (2, {"t": 1}, {})
    s.ended(Decision((audit,), -4, 0.005), 0.0, 5.0)
    assert s.outlook.floors.weight("t") == 1.0
    s.waiting.remove([asked])
    assert s.expire(1.0) == [audit]
    assert s.outlook.floors.weight("t") == 1.0


def test_a_task_that_is_refused_at_the_door_weighs_more() -> None:
    s = scheduler(max_queue=1, floor=0.5)
    s.admit(items(100), 0.0)
    with pytest.raises(Rejected, match="queue is full"):
        s.admit(items(100), 0.0)
    assert s.outlook.floors.weight("t") > 1.0
