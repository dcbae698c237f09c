from __future__ import annotations

import math
from dataclasses import replace

import pytest
from host import SHARE, Host
from hypothesis import example, given, settings
from hypothesis import strategies as st
from setting import Setting, Task
from simulator import simulate

from elastriton.core.latency import Cell
from elastriton.core.policy import LargestBatch
from elastriton.core.queue import Item

STEP_MS = 1 / 32


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(0, 5),
    st.integers(0, 60),
    st.integers(1, 20),
)
@example(arrivals=[0, 0, 0, 0, 18], each=2, start=0, work=10)
@settings(max_examples=100, deadline=None)
def test_requests_and_the_encoder_share_the_machine(arrivals: list[int], each: int, start: int, work: int) -> None:
    """Against small steps of time: where both have work, both have their part of a step."""
    ready, ended = _in_steps(sorted(arrivals), each, start, work)
    host = Host(float(each), float(each), 0.0)
    to_come = [Item("t", at / 1000.0, 1.0, 1.0, 8) for at in sorted(arrivals)]
    starts_s, ends_s, done_s = start / 1000.0, math.inf, math.inf
    got: list[tuple[float, float]] = []
    while to_come or ends_s < math.inf or starts_s < math.inf or len(got) < len(arrivals):
        encoding = ends_s < math.inf
        arrives_s = to_come[0].arrival_s if to_come else math.inf
        now_s = min(arrives_s, starts_s, host.ready_s(encoding), host.encoded_s(ends_s) if encoding else math.inf)
        ends_s += host.pass_time(now_s, encoding)
        if arrives_s <= now_s:
            host.arrive(to_come.pop(0))
        while host.ready_s(encoding) <= now_s:
            got.append((1000.0 * host.next().arrival_s, 1000.0 * now_s))
        if ends_s <= now_s:
            ends_s, done_s = math.inf, now_s
        if starts_s <= now_s:
            starts_s, ends_s = math.inf, now_s + work / 1000.0
    assert [at for at, _ in got] == pytest.approx(sorted(arrivals))
    assert [at for _, at in got] == pytest.approx(ready, abs=STEP_MS * (2 * len(arrivals) + 2))
    assert 1000.0 * done_s == pytest.approx(ended, abs=STEP_MS * (2 * len(arrivals) + 2))


def _in_steps(arrivals: list[int], each: int, start: int, work: int) -> tuple[list[float], float]:
    left = [float(each)] * len(arrivals)
    ready = [float(at) if each == 0 else math.inf for at in arrivals]
    now, ended, to_do = 0.0, math.inf, float(work)
    while max(ready) == math.inf or ended == math.inf:
        line = [index for index, at in enumerate(arrivals) if at <= now and ready[index] == math.inf]
        encoding = now >= start and ended == math.inf
        share = SHARE if encoding else 1.0
        now += STEP_MS
        if encoding:
            to_do -= STEP_MS * (1.0 - share if line else 1.0)
            ended = now if to_do <= 0 else math.inf
        if line:
            left[line[0]] -= STEP_MS * share
            ready[line[0]] = now if left[line[0]] <= 0 else math.inf
    return ready, ended


def test_requests_reach_the_scheduler_late_and_batches_wait_for_what_arrives() -> None:
    cells = tuple(Cell(0, 8, size, 10.0 * size, 10.0 * size, 1) for size in (1, 4))
    setting = Setting("test", cells, (Task("t", 1.0, 100.0),), {"t": {0: 1.0}})
    items = [Item("t", at / 1000.0, (at + slo) / 1000.0, 1.0, 8) for at, slo in ((0, 100), (4, 19))]
    alone = simulate(setting, items, LargestBatch(), seed=0)
    assert alone.p50_ms == pytest.approx(13.0)  # 0 to 10 and 10 to 20
    assert alone.on_time == 1.0
    shared = simulate(replace(setting, host_ms=2.0, calm_ms=2.0), items, LargestBatch(), seed=0)
    assert shared.p50_ms == pytest.approx(14.0)  # ready at 2 and at 6.9; 2 to 14, since the second takes 2 of it
    assert (shared.served, shared.dropped, shared.on_time) == (1, 0.5, 0.5), "due at 23, it would be done at 24"
    called = simulate(replace(setting, call_ms=1.0), items, LargestBatch(), seed=0)
    assert called.p50_ms == pytest.approx(14.5), "0 to 11 and 11 to 22"


def test_who_is_late_when_its_turn_comes_takes_less() -> None:
    host, ready_ms = Host(3.0, 4.0, 2.0), []
    for due_ms in (2, 3, 100, 9):
        host.arrive(Item("t", 0.0, due_ms / 1000.0, 1.0, 8))
    for _ in range(4):
        now_s = host.ready_s(encoding=False)
        host.pass_time(now_s, encoding=False)
        host.next()
        ready_ms.append(1000.0 * now_s)
    assert ready_ms == pytest.approx([4.0, 6.0, 9.0, 11.0]), "the first is alone; the last one's turn comes at 9: late"
    host.arrive(Item("t", 0.011, 1.0, 1.0, 8))
    assert 1000.0 * host.ready_s(encoding=False) == pytest.approx(15.0), "alone, too"
