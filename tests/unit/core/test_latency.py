from __future__ import annotations

import numpy as np
import pytest

from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell, LatencyTable


def cell(gamma: int, length: int, batch: int, p99_ms: float) -> Cell:
    return Cell(gamma, length, batch, p50_ms=p99_ms / 2, p99_ms=p99_ms, runs=10)


def table(**rows: float) -> LatencyTable:
    """One level and one length: `b4=10.0` is 10 ms for a batch of 4."""
    return LatencyTable(cell(0, 8, int(name[1:]), ms) for name, ms in rows.items())


def test_measured_cells_are_predicted_as_measured() -> None:
    grid = {(g, n, b): 100.0 + 10 * g + n + b for g in (-2, 0) for n in (8, 16) for b in (1, 4)}
    latency = LatencyTable(cell(*key, ms) for key, ms in grid.items())
    assert {(g, n, b): latency.safe_ms(g, b, n) for g, n, b in grid} == grid
    assert (latency.gammas, latency.lengths, latency.max_batch) == ((-2, 0), (8, 16), 4)


def test_batch_sizes_between_the_measured_ones_are_interpolated() -> None:
    latency = table(b1=10.0, b4=40.0, b8=44.0)
    assert [latency.safe_ms(0, batch, 8) for batch in (1, 2, 3, 4, 6, 8)] == [10.0, 20.0, 30.0, 40.0, 42.0, 44.0]


def test_batches_below_the_smallest_measured_one_take_as_long_as_it() -> None:
    assert table(b4=40.0, b8=44.0).safe_ms(0, 1, 8) == 40.0


def test_lengths_are_rounded_up() -> None:
    latency = LatencyTable(cell(0, n, 1, float(n)) for n in (8, 16, 32))
    assert [latency.safe_ms(0, 1, n) for n in (1, 8, 9, 16, 17, 32)] == [8.0, 8.0, 16.0, 16.0, 32.0, 32.0]


def test_a_length_beyond_the_table_is_an_error() -> None:
    with pytest.raises(ConfigError, match="length 9 is above 8"):
        table(b1=1.0).safe_ms(0, 1, 9)


def test_a_batch_beyond_the_table_is_an_error() -> None:
    with pytest.raises(IndexError):
        table(b4=1.0).safe_ms(0, 5, 8)


def test_noise_is_made_monotone_upwards_in_batch_and_length() -> None:
    noisy = {(8, 1): 10.0, (8, 4): 9.0, (16, 1): 8.0, (16, 4): 20.0, (32, 1): 12.0, (32, 4): 11.0}
    latency = LatencyTable(cell(0, n, b, ms) for (n, b), ms in noisy.items())
    cleaned = {(n, b): latency.safe_ms(0, b, n) for n, b in noisy}
    assert cleaned == {(8, 1): 10.0, (8, 4): 10.0, (16, 1): 10.0, (16, 4): 20.0, (32, 1): 12.0, (32, 4): 20.0}


def test_random_tables_are_monotone_and_never_below_the_measurement() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        grid = {(n, b): float(ms) for n in (4, 8, 16) for b, ms in zip((1, 2, 8), generator.random(3), strict=True)}
        latency = LatencyTable(cell(0, n, b, ms) for (n, b), ms in grid.items())
        assert all(latency.safe_ms(0, b, n) >= ms for (n, b), ms in grid.items())
        full = np.array([[latency.safe_ms(0, b, n) for b in range(1, 9)] for n in range(1, 17)])
        assert (np.diff(full, axis=0) >= 0).all()
        assert (np.diff(full, axis=1) >= 0).all()


def test_levels_are_not_made_monotone() -> None:
    latency = LatencyTable([cell(-2, 8, 1, 9.0), cell(0, 8, 1, 5.0)])
    assert (latency.safe_ms(-2, 1, 8), latency.safe_ms(0, 1, 8)) == (9.0, 5.0)


def test_missing_cells_are_refused_and_counted() -> None:
    cells = [cell(g, n, b, 1.0) for g in (-2, 0) for n in (8, 16) for b in (1, 4)]
    with pytest.raises(ConfigError, match="lacks 2 of its cells"):
        LatencyTable(cells[1:-1])
    with pytest.raises(ConfigError, match="lacks all of its cells"):
        LatencyTable([])


def test_medians_and_p99s_are_kept_apart_and_drift_apart() -> None:
    latency = table(b1=10.0, b4=40.0)
    assert (latency.typical_ms(0, 4, 8), latency.safe_ms(0, 4, 8)) == (20.0, 40.0)
    latency.drift.typical, latency.drift.tail = 1.5, 2.0
    assert (latency.typical_ms(0, 4, 8), latency.safe_ms(0, 4, 8)) == (30.0, 120.0)
    assert latency.all_safe_ms(8)[0].tolist() == [30.0, 30.0, 60.0, 90.0, 120.0]
    assert latency.all_typical_ms(8)[0].tolist() == [7.5, 7.5, 15.0, 22.5, 30.0]
    assert latency.all_costs_ms(8).tolist() == [7.5]


def test_what_is_observed_is_compared_with_its_own_cell() -> None:
    latency = table(b1=10.0, b4=40.0)
    latency.observe(0, 4, 8, 19.0)
    assert latency.drift.typical == 1.0
    latency.observe(0, 1, 7, 6.0)
    assert latency.drift.typical > 1.0
    assert latency.drift.tail == 1.0
    latency.observe(0, 1, 8, 100.0)
    assert latency.drift.tail > 1.0
