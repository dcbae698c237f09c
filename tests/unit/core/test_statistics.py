from __future__ import annotations

import pytest
from scipy.stats import binomtest

from elastriton.core.statistics import percentile_ms, wilson_interval


@pytest.mark.parametrize("n", [1, 2, 10, 137, 1000, 45_000])
def test_wilson_s_interval_is_scipy_s(n: int) -> None:
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_another_confidence_gives_another_interval() -> None:
    expected = binomtest(30, 40).proportion_ci(confidence_level=0.99, method="wilson")
    assert wilson_interval(30, 40, z=2.5758293035489004) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_seen_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_interval_stays_within_probabilities() -> None:
    for n in range(1, 30):
        for k in range(n + 1):
            low, high = wilson_interval(k, n)
            assert 0.0 <= low <= k / n + 1e-12
            assert k / n - 1e-12 <= high <= 1.0


def test_percentiles_are_in_milliseconds() -> None:
    assert percentile_ms([0.001 * i for i in range(101)], 99) == pytest.approx(99.0)
    assert percentile_ms([0.25], 50) == pytest.approx(250.0)
