"""What bench/foretold.py expects of replays."""

from __future__ import annotations

from typing import Any

import pytest
from foretold import foretell, pooled
from setting import Setting, Task

from elastriton.core.latency import Cell

CELLS = tuple(Cell(0, 8, size, 1.0 + size, 1.1 + size, 9) for size in (1, 4, 16))
SETTING = Setting("test", CELLS, (Task("one", 1.0, 60.0),), {"one": {0: 0.5}})


def record(host_ms: float, load: float = 0.3) -> dict[str, Any]:
    surroundings = {"host_ms": host_ms, "calm_ms": host_ms, "late_ms": host_ms / 2, "call_ms": 0.0}
    cell = {"trace": "poisson", "load": load, "seed": 0, "policy": "ours", "requests": 300}
    return surroundings | cell | {"slower": 1.0, "answer_ms": 0.0}


def test_surroundings_are_the_medians_of_the_run() -> None:
    there = pooled(SETTING, [record(0.2), record(9.0), record(0.4)])
    assert (there.host_ms, there.late_ms, there.slower) == (0.4, 0.2, 1.0)


def test_the_encoder_alone_is_expected_to_do_better_and_one_bad_measurement_changes_nothing() -> None:
    records = [record(0.9, load=0.9), record(1.0, load=0.9), record(1.0, load=0.9)]
    first, *_ = foretell(SETTING, {"poisson": "poisson"}, records)
    assert first["simulated"] < first["simulated_alone"] == pytest.approx(150.0), "all in time, half of them right"
    worse, *_ = foretell(SETTING, {"poisson": "poisson"}, [*records[1:], record(50.0, load=0.9)])
    assert worse["simulated"] == first["simulated"]
