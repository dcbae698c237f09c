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
    assert {(g, n, b): latency.predict_ms(g, b, n) for g, n, b in grid} == grid
    assert (latency.gammas, latency.lengths, latency.max_batch) == ((-2, 0), (8, 16), 4)


def test_batch_sizes_between_the_measured_ones_are_interpolated() -> None:
    latency = table(b1=10.0, b4=40.0, b8=44.0)
    assert [latency.predict_ms(0, batch, 8) for batch in (1, 2, 3, 4, 6, 8)] == [10.0, 20.0, 30.0, 40.0, 42.0, 44.0]


def test_batches_below_the_smallest_measured_one_take_as_long_as_it() -> None:
    assert table(b4=40.0, b8=44.0).predict_ms(0, 1, 8) == 40.0


def test_lengths_are_rounded_up() -> None:
    latency = LatencyTable(cell(0, n, 1, float(n)) for n in (8, 16, 32))
    assert [latency.predict_ms(0, 1, n) for n in (1, 8, 9, 16, 17, 32)] == [8.0, 8.0, 16.0, 16.0, 32.0, 32.0]


def test_a_length_beyond_the_table_is_an_error() -> None:
    with pytest.raises(ConfigError, match="length 9 is above 8"):
        table(b1=1.0).predict_ms(0, 1, 9)


def test_a_batch_beyond_the_table_is_an_error() -> None:
    with pytest.raises(IndexError):
        table(b4=1.0).predict_ms(0, 5, 8)


def test_noise_is_made_monotone_upwards_in_batch_and_length() -> None:
    noisy = {(8, 1): 10.0, (8, 4): 9.0, (16, 1): 8.0, (16, 4): 20.0, (32, 1): 12.0, (32, 4): 11.0}
    latency = LatencyTable(cell(0, n, b, ms) for (n, b), ms in noisy.items())
    cleaned = {(n, b): latency.predict_ms(0, b, n) for n, b in noisy}
    assert cleaned == {(8, 1): 10.0, (8, 4): 10.0, (16, 1): 10.0, (16, 4): 20.0, (32, 1): 12.0, (32, 4): 20.0}


def test_random_tables_are_monotone_and_never_below_the_measurement() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        grid = {(n, b): float(ms) for n in (4, 8, 16) for b, ms in zip((1, 2, 8), generator.random(3), strict=True)}
        latency = LatencyTable(cell(0, n, b, ms) for (n, b), ms in grid.items())
        assert all(latency.predict_ms(0, b, n) >= ms for (n, b), ms in grid.items())
        full = np.array([[latency.predict_ms(0, b, n) for b in range(1, 9)] for n in range(1, 17)])
        assert (np.diff(full, axis=0) >= 0).all()
        assert (np.diff(full, axis=1) >= 0).all()


def test_levels_are_not_made_monotone() -> None:
    latency = LatencyTable([cell(-2, 8, 1, 9.0), cell(0, 8, 1, 5.0)])
    assert (latency.predict_ms(-2, 1, 8), latency.predict_ms(0, 1, 8)) == (9.0, 5.0)


def test_missing_cells_are_refused_and_counted() -> None:
    cells = [cell(g, n, b, 1.0) for g in (-2, 0) for n in (8, 16) for b in (1, 4)]
    with pytest.raises(ConfigError, match="lacks 2 of its cells"):
        LatencyTable(cells[1:-1])
    with pytest.raises(ConfigError, match="lacks all of its cells"):
        LatencyTable([])


def test_the_fastest_level_for_one_sample() -> None:
    cells = [cell(-2, 8, 1, 4.0), cell(-2, 8, 4, 30.0), cell(0, 8, 1, 5.0), cell(0, 8, 4, 6.0)]
    latency = LatencyTable(cells)
    assert latency.fastest_ms(8, [-2, 0]) == 4.0
    assert latency.fastest_ms(8, [0]) == 5.0


def test_inflation_follows_the_99th_percentile_of_the_error() -> None:
    table = LatencyTable([Cell(0, 17, 1, 1.0, 10.0, 50)])
    generator = np.random.default_rng(0)
    late = []
    for turn in range(20_000):
        predicted_ms = table.predict_ms(0, 1, 17)
        took_ms = 12.0 * float(generator.lognormal(0.0, 0.2))
        table.observe(predicted_ms, took_ms)
        if turn > 2000:
            late.append(took_ms > predicted_ms)
    assert 0.985 <= 1.0 - np.mean(late) <= 0.995
    assert table.inflation == pytest.approx(1.2 * np.exp(0.2 * 2.326), rel=0.15)
    assert table.cost_ms(0, 17) == pytest.approx(table.predict_ms(0, 1, 17))


def test_a_machine_that_keeps_its_word_is_not_inflated() -> None:
    table = LatencyTable([Cell(0, 17, 1, 1.0, 10.0, 50)])
    for _ in range(100):
        table.observe(10.0, 9.0)
    assert table.inflation == 1.0
    for _ in range(1000):
        table.observe(10.0, 1e6)
    assert table.inflation == LatencyTable.MAX_INFLATION
