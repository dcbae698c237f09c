"""What bench/surroundings.py makes of what it measures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from overhead import alike
from setting import Setting, Task
from simulator import simulate
from surroundings import SATURATING_PER_S, slowed

from elastriton.core.joint import Joint
from elastriton.core.latency import Cell
from elastriton.generator.loads import make_load


def test_the_slowed_encoder_answers_a_burst_as_fast_as_it_was_answered() -> None:
    cells = tuple(Cell(0, 8, size, 1.0 + size, 1.2 + size, 9) for size in (1, 4, 16))
    setting = Setting("test", cells, (Task("eurosat", 1.0, 60_000.0),), {"eurosat": {0: 1.0}}, 0.0)
    there = replace(setting, host_ms=0.8, calm_ms=2.0, late_ms=0.4, call_ms=1.5)
    items = there.items(make_load("poisson", 300, SATURATING_PER_S, 0).arrivals_s, 0)
    took_s = simulate(replace(there, slower=1.7), items, Joint(), 0).ended_s - items[0].arrival_s
    assert slowed(there, 300, took_s) == pytest.approx(1.7, rel=0.01)
    assert slowed(there, 300, 1.2 * took_s) > 1.9


def test_a_request_that_ended_otherwise_is_no_measurement() -> None:
    alike(["answered", "answered"], "answered")
    with pytest.raises(RuntimeError, match="1 of 2 requests should be answered: rejected"):
        alike(["answered", "rejected"], "answered")
