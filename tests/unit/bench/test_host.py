from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from host import Host
from hypothesis import example, given, settings
from hypothesis import strategies as st
from setting import Setting, Task
from simulator import simulate

from elastriton.core.latency import Cell
from elastriton.core.policy import LargestBatch
from elastriton.core.queue import Item


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(0, 5),
    st.integers(0, 60),
    st.integers(1, 20),
)
@example(arrivals=[0, 0, 0, 0, 18], each=2, start=0, work=10)  # the last begins as the encoder ends
@settings(max_examples=200, deadline=None)
def test_the_encoder_has_the_time_that_requests_leave(arrivals: list[int], each: int, start: int, work: int) -> None:
    """Against counting whole ms: busy from when a request is begun to when it is ready."""
    ready: list[int] = []
    for at in sorted(arrivals):
        ready.append(max(at, ready[-1] if ready else 0) + each)
    busy = {ms for end in ready for ms in range(end - each, end)}
    now, left = start, work
    while left:
        left -= now not in busy
        now += 1
    host = Host([at / 1000.0 for at in sorted(arrivals)], float(each))
    assert host.ready_s == pytest.approx(np.array(ready) / 1000.0)
    assert 1000.0 * host.end_s(start / 1000.0, work / 1000.0) == pytest.approx(now, abs=1e-6)


def test_requests_reach_the_scheduler_late_and_batches_wait_for_what_arrives() -> None:
    cells = tuple(Cell(0, 8, size, 10.0 * size, 10.0 * size, 1) for size in (1, 4))
    setting = Setting("test", cells, (Task("t", 1.0, 100.0),), {"t": {0: 1.0}})
    items = [Item("t", at / 1000.0, (at + slo) / 1000.0, 1.0, 8) for at, slo in ((0, 100), (4, 19))]
    alone = simulate(setting, items, LargestBatch(), seed=0)
    assert alone.p50_ms == pytest.approx(13.0)  # 0 to 10 and 10 to 20
    assert alone.on_time == 1.0
    shared = simulate(replace(setting, host_ms=2.0), items, LargestBatch(), seed=0)
    assert shared.p50_ms == pytest.approx(14.0)  # ready at 2 and at 6; 2 to 14, since the second takes 2 of it
    assert (shared.served, shared.dropped, shared.on_time) == (1, 0.5, 0.5), "due at 23, it would be done at 24"
    called = simulate(replace(setting, call_ms=1.0), items, LargestBatch(), seed=0)
    assert called.p50_ms == pytest.approx(14.5), "0 to 11 and 11 to 22"
