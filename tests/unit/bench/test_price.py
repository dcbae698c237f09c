from __future__ import annotations

from pathlib import Path

import price
import pytest
from policies import Cell
from price import rows, run
from setting import from_profile, resident_sizes

KEPT = Path(price.__file__).parent / "results/sizes_profile.json"


def test_the_kept_profile_is_one_that_the_benches_still_read() -> None:
    setting, sizes = from_profile(KEPT), resident_sizes(KEPT)
    assert len(setting.tasks) == 3
    assert sizes is not None
    assert sorted(sizes.accuracy["slope-1"]) == [-2, -1, 0]


def test_a_row_sums_a_cell_over_its_seeds_and_the_last_one_is_the_mean_over_cells() -> None:
    cells = [Cell("step", load, seed) for load in (0.5, 2.0) for seed in (100, 101)]
    first, second, mean = rows(cells, [(1.0, 1.0), (6.0, 3.0), (1.0, 2.0), (1.0, 2.0)])
    assert (first["trace"], first["load"], first["ratio"]) == ("step", 0.5, 1.75)  # 7 ÷ 4, not the mean of 1 and 2
    assert first["low"] == 1.0
    assert first["high"] == 2.0
    assert first["single_runs"] == [1.0, 1.25, 1.5, 1.75, 2.0]
    assert second["ratio"] == second["low"] == second["high"] == 0.5
    assert mean["ratio"] == pytest.approx((1.75 + 0.5) / 2)


def test_without_the_price_a_burst_costs_something() -> None:
    priced, unpriced = run(from_profile(KEPT), 400, Cell("step", 1.5, 100))
    assert priced > unpriced > 0.0
