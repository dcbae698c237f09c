"""What bench/surroundings.py makes of what it measures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from overhead import alike
from setting import Setting, Task
from simulator import simulate
from surroundings import SATURATING_PER_S, answering_ms

from elastriton.core.joint import Joint
from elastriton.core.latency import Cell
from elastriton.generator.loads import make_load


def test_a_simulated_burst_takes_as_long_as_the_measured_one() -> None:
    cells = tuple(
        Cell(g, 8, size, 1.0 + size * (2 + g), 1.2 + size * (2 + g), 9) for g in (-1, 0) for size in (1, 4, 16)
    )
    setting = Setting("test", cells, (Task("other", 1.0, 100.0),), {"other": {0: 0.9, -1: 0.8}}, 0.0)
    there = replace(setting, host_ms=0.8, calm_ms=2.0, late_ms=0.4, call_ms=1.5, slower=1.2)
    burst = replace(there, cells=cells[:3], tasks=(Task("eurosat", 1.0, 60_000.0),), accuracy={"eurosat": {-1: 1.0}})
    items = burst.items(make_load("poisson", 300, SATURATING_PER_S, 0).arrivals_s, 0)
    took_s = simulate(replace(burst, answer_ms=0.3), items, Joint(), 0).ended_s - items[0].arrival_s
    assert answering_ms(there, -1, 300, took_s) == pytest.approx(0.3, abs=0.01)
    assert answering_ms(there, -1, 300, took_s + 0.3) == pytest.approx(1.3, abs=0.1), "a ms more for each of 300"


def test_a_request_that_ended_otherwise_is_no_measurement() -> None:
    alike(["answered", "answered"], "answered")
    with pytest.raises(RuntimeError, match="1 of 2 requests should be answered: rejected"):
        alike(["answered", "rejected"], "answered")
