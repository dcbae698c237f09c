"""Floors under service rates."""

from __future__ import annotations

import pytest

from elastriton.core.fairness import Floors


def test_a_task_below_its_floor_weighs_more_and_more_and_then_less_again() -> None:
    floors = Floors({"hard": 0.5})
    weights = []
    for in_time in [False] * 20 + [True] * 40:
        floors.observe("hard", in_time=in_time)
        weights.append(floors.weight("hard"))
    assert weights[:20] == sorted(weights[:20])
    assert weights[19] == pytest.approx(1.0 + 20 * 0.5 * Floors.STEP)
    assert weights[-1] == 1.0, "never below its own utility"


def test_a_floor_that_cannot_be_met_stays_bounded() -> None:
    floors = Floors({"hard": 0.9})
    for _ in range(10_000):
        floors.observe("hard", in_time=False)
    assert floors.weight("hard") == 1.0 + Floors.MOST


def test_a_task_without_a_floor_weighs_what_it_is_worth() -> None:
    floors = Floors({"hard": 0.9})
    floors.observe("easy", in_time=False)
    assert floors.weight("easy") == 1.0
