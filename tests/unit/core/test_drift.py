"""Learning how much longer batches take than measured."""

from __future__ import annotations

import numpy as np
import pytest

from elastriton.core.drift import Drift

P50_MS, P99_MS = 10.0, 12.0


def follow(drift: Drift, factor: float, batches: int, sigma: float = 0.1, seed: int = 0) -> float:
    """Let batches take `factor` times what was measured, with lognormal noise; the share within the expected p99."""
    in_time = 0
    for took_ms in factor * P50_MS * np.random.default_rng(seed).lognormal(0.0, sigma, batches):
        in_time += took_ms <= P99_MS * drift.safe
        drift.observe(float(took_ms), P50_MS, P99_MS)
    return in_time / batches


@pytest.mark.parametrize("factor", [1.0, 1.7, 3.0])
@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_ninety_nine_of_a_hundred_batches_end_within_the_expected_p99(factor: float, sigma: float) -> None:
    drift = Drift()
    follow(drift, factor, 2000, sigma, seed=1)
    assert follow(drift, factor, 5000, sigma) >= 0.99
    assert drift.typical == pytest.approx(factor, rel=0.15)


def test_a_busy_machine_is_believed_within_a_few_batches_and_forgotten_as_fast() -> None:
    drift = Drift()
    follow(drift, 2.0, 40)
    assert drift.typical == pytest.approx(2.0, rel=0.15)
    follow(drift, 1.0, 40)
    assert drift.typical <= 1.1
    assert drift.safe <= 1.6


def test_a_quiet_moment_is_not_taken_for_a_faster_machine() -> None:
    drift = Drift()
    follow(drift, 0.3, 500)
    assert drift.safe == drift.typical == 1.0


def test_a_machine_that_stands_still_does_not_stop_everything() -> None:
    drift = Drift()
    follow(drift, 1e6, 500)
    assert drift.safe == Drift.MAX_TYPICAL * Drift.MAX_TAIL
