"""The arrival rate of the peers."""

from __future__ import annotations

import pytest
from rate import ArrivalRate


def test_the_rate_of_a_steady_stream() -> None:
    rate = ArrivalRate((0.5, 2.0))
    for i in range(2000):
        rate.arrived(i * 0.01)
    assert rate.per_s(19.99) == pytest.approx(100.0, rel=0.03)


def test_a_burst_is_seen_at_once_and_remembered_for_a_while() -> None:
    rate = ArrivalRate((0.1, 2.0))
    for i in range(100):
        rate.arrived(i * 0.001)
    assert rate.per_s(0.1) > 300.0
    assert 30.0 < rate.per_s(0.7) < 60.0
    assert rate.per_s(60.0) < 1e-6
    assert ArrivalRate().per_s(1.0) == 0.0
