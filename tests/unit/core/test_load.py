"""The recent arrival rate and the price of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from elastriton.core.load import MOST, ArrivalRate, RecentRate, envelope, expected_price, price_of_time


def test_the_recent_rate_forgets_within_a_few_deadlines_whatever_these_are() -> None:
    for slo_s in (0.03, 0.3, 3.0):
        rate = RecentRate()
        for i in range(2000):
            rate.arrived(i * slo_s / 100, slo_s)
        last_s = 1999 * slo_s / 100
        assert rate.per_s(last_s) == pytest.approx(100 / slo_s, rel=0.05)
        assert rate.per_s(last_s + 2 * slo_s) < 0.06 * 100 / slo_s
    assert RecentRate().per_s(1.0) == 0.0


def test_the_recent_rate_follows_the_deadlines_of_what_arrives() -> None:
    rate = RecentRate()
    for i in range(1000):
        rate.arrived(i * 0.01, 0.1 if i < 500 else 10.0)
    assert rate.per_s(9.99) == pytest.approx(100.0, rel=0.6)
    assert rate.per_s(10.99) > 40.0, "by then the memory is as long as the new deadlines ask for"


@given(
    st.lists(st.tuples(st.floats(0.5, 9.0), st.floats(0.1, 1.0)), min_size=1, max_size=6),
    st.floats(0.05, 3.0),
)
@settings(max_examples=200, deadline=None)
def test_the_price_is_the_dual_of_the_time_share_programme(levels: list[tuple[float, float]], rate: float) -> None:
    cost, worth = zip(*levels, strict=True)
    budget = 1.0 / rate

    def value(time: float) -> float:
        answer = linprog(-np.array(worth), A_ub=[np.ones(len(cost)), cost], b_ub=[rate, time], method="highs")
        return float(-answer.fun)

    if any(abs(budget - c) < 1e-2 for c in cost):
        return  # a kink: both slopes are right
    step = 1e-4
    slope = (value(1.0 + step) - value(1.0 - step)) / (2 * step)
    assert price_of_time(rate, envelope(cost, worth)) == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_no_load_has_no_price() -> None:
    assert price_of_time(0.0, envelope([1.0, 2.0], [0.8, 0.9])) == 0.0
    assert price_of_time(0.4, envelope([1.0, 2.0], [0.8, 0.9])) == 0.0
    assert price_of_time(0.8, envelope([1.0, 2.0], [0.8, 0.9])) == pytest.approx(0.1)
    assert price_of_time(2.0, envelope([1.0, 2.0], [0.8, 0.9])) == pytest.approx(0.8)


def test_the_expected_price_softens_a_leap_and_never_takes_all_that_time_can_earn() -> None:
    cost, worth = [1.0, 2.0], [0.8, 0.9]
    assert price_of_time(0.6, envelope(cost, worth)) == pytest.approx(0.1)
    assert expected_price(0.6, cost, worth) == pytest.approx(0.05)
    assert expected_price(0.45, cost, worth) == 0.0, "what 1.4 x the rate would bring may be a burst that does not come"
    assert expected_price(0.75, cost, worth) == pytest.approx((0.1 + 0.1 + MOST * 0.8) / 3)
    assert expected_price(0.2, cost, worth) == 0.0
    assert expected_price(5.0, cost, worth) == pytest.approx(MOST * 0.8)
    prices = [expected_price(rate, cost, worth) for rate in np.linspace(0.0, 3.0, 61).tolist()]
    assert prices == sorted(prices)


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
