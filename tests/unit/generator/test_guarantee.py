"""The promise: each p-value against an independent computation, and its validity where the hypothesis just holds."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from elastriton.core.confidence import confidence
from elastriton.core.errors import ConfigError
from elastriton.generator.guarantee import (
    MOST_LABELS,
    accuracy_needed,
    betting_p_value,
    binomial_p_value,
    fixed_sequence,
    hoeffding_bentkus_p_value,
    labels_needed,
    pareto_order,
    upper_bound,
)

LEVELS = np.array([0.01, 0.05, 0.1, 0.2, 0.5])


@pytest.mark.parametrize(("errors", "n", "alpha"), [(0, 1, 0.3), (40, 1000, 0.05), (7, 408, 0.02), (50, 50, 0.9)])
def test_the_binomial_p_value_is_scipy_s_exact_test(errors: int, n: int, alpha: float) -> None:
    expected = stats.binomtest(errors, n, alpha, alternative="less").pvalue
    assert binomial_p_value(errors, n, alpha) == pytest.approx(expected, rel=1e-7)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 120), st.floats(1e-6, 0.999))
def test_the_binomial_p_value_is_uniform_or_larger_at_the_boundary(n: int, alpha: float) -> None:
    """P(p <= u) <= u, summed over all outcomes there are."""
    p_values = np.array([binomial_p_value(errors, n, alpha) for errors in range(n + 1)])
    chances = stats.binom.pmf(np.arange(n + 1), n, alpha)
    for level in LEVELS:
        assert chances[p_values <= level].sum() <= level + 1e-9


def uniform_or_larger(p_values: list[float]) -> bool:
    """Whether no level is undercut more often than three standard errors allow."""
    n = len(p_values)
    shares = (np.array(p_values)[:, None] <= LEVELS).mean(axis=0)
    return bool((shares <= LEVELS + 3 * np.sqrt(LEVELS * (1 - LEVELS) / n)).all())


@pytest.mark.parametrize("n", [30, 400])
def test_the_hoeffding_bentkus_p_value_is_uniform_or_larger_at_the_boundary(n: int) -> None:
    generator = np.random.default_rng(0)
    draws = generator.beta(0.5, 4.5, size=(1000, n))
    assert uniform_or_larger([hoeffding_bentkus_p_value(losses, 0.1) for losses in draws])
    binary = generator.random((1000, n)) < 0.1
    assert uniform_or_larger([hoeffding_bentkus_p_value(losses, 0.1) for losses in binary])


@pytest.mark.parametrize(("harm", "help_"), [(0.05, 0.03), (0.02, 0.0), (0.4, 0.38)])
def test_the_betting_p_value_is_uniform_or_larger_at_the_boundary(harm: float, help_: float) -> None:
    """Differences of 1, -1 and 0, whose mean is exactly epsilon = harm - help."""
    generator = np.random.default_rng(1)
    draws = generator.choice([1.0, -1.0, 0.0], p=[harm, help_, 1.0 - harm - help_], size=(2000, 400))
    assert uniform_or_larger([betting_p_value(differences, harm - help_, 0.1) for differences in draws])


def test_hoeffding_bentkus_is_the_smaller_of_its_two_bounds() -> None:
    losses = np.repeat([0.25, 0.0], [120, 180])
    n, mean, alpha = 300, 0.1, 0.14
    divergence = mean * math.log(mean / alpha) + (1 - mean) * math.log((1 - mean) / (1 - alpha))
    hoeffding, bentkus = math.exp(-n * divergence), math.e * stats.binom.cdf(30, n, alpha)
    assert hoeffding_bentkus_p_value(losses, alpha) == pytest.approx(min(hoeffding, bentkus), rel=1e-7)


def test_the_exact_test_is_sharper_than_hoeffding_bentkus_and_that_than_hoeffding() -> None:
    errors, n, alpha = 40, 1000, 0.05
    losses = np.repeat([1.0, 0.0], [errors, n - errors])
    exact, both = binomial_p_value(errors, n, alpha), hoeffding_bentkus_p_value(losses, alpha)
    assert exact < both < math.exp(-2 * n * (alpha - errors / n) ** 2)


def test_a_sum_that_is_whole_but_for_rounding_counts_as_whole() -> None:
    losses, n = [0.1] * 30, 30
    assert math.ceil(np.cumsum(losses)[-1]) == 4
    hoeffding = math.exp(-n * float(stats.entropy([0.1, 0.9], [0.5, 0.5])))
    expected = min(hoeffding, math.e * stats.binom.cdf(3, n, 0.5))
    assert hoeffding_bentkus_p_value(losses, 0.5) == pytest.approx(expected, rel=1e-7)


def wealth(differences: list[float], epsilon: float, delta: float) -> Iterator[float]:
    """The gambler's wealth, item by item, as the paper writes it."""
    total, squares, variance, money = 0.0, 0.0, 0.25, 1.0
    for i, difference in enumerate(differences, start=1):
        bet = min(0.75 / (1 - epsilon), math.sqrt(2 * math.log(1 / delta) / (len(differences) * variance)))
        money *= 1 + bet * (epsilon - difference)
        total += difference
        squares += (difference - total / (i + 1)) ** 2
        variance = (0.25 + squares) / (i + 1)
        yield money


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(0, 0.9), st.floats(0.01, 0.9))
def test_the_betting_p_value_is_one_over_the_most_wealth(items: list[float], epsilon: float, delta: float) -> None:
    expected = min(1.0, 1.0 / max(wealth(items, epsilon, delta)))
    assert betting_p_value(items, epsilon, delta) == pytest.approx(expected, rel=1e-7)


def test_nothing_seen_proves_nothing() -> None:
    assert binomial_p_value(0, 0, 0.1) == hoeffding_bentkus_p_value([], 0.1) == betting_p_value([], 0.1, 0.1) == 1.0
    assert upper_bound(0, 0, 0.1) == 1.0
    assert accuracy_needed(0, 0.9, 0.1) is None


def test_the_fixed_sequence_stops_at_the_first_failure_and_asks_no_further() -> None:
    def p_values() -> Iterator[float]:
        yield from (0.01, 0.1, 0.11)
        raise AssertionError("asked beyond the first failure")

    assert fixed_sequence(p_values(), 0.1) == 2
    assert fixed_sequence([0.5, 0.0], 0.1) == 0
    assert fixed_sequence([0.1, math.nan, 0.0], 0.1) == 1
    assert fixed_sequence([0.0, 0.0], 0.1) == 2
    assert fixed_sequence([], 0.1) == 0


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30)


@given(points)
def test_the_pareto_front_is_what_no_other_beats(settings: list[tuple[int, int]]) -> None:
    risk, cost = [float(r) for r, _ in settings], [float(c) for _, c in settings]
    front = pareto_order(risk, cost)
    unbeaten = {
        (r, c) for r, c in settings if not any(r2 <= r and c2 <= c and (r2, c2) != (r, c) for r2, c2 in settings)
    }
    assert {settings[i] for i in front} == unbeaten
    assert len(front) == len(unbeaten)
    assert [settings.index(settings[i]) for i in front] == list(front)
    assert [risk[i] for i in front] == sorted(risk[i] for i in front)


@given(st.integers(1, 400), st.data(), st.floats(0.01, 0.3))
@settings(deadline=None)
def test_the_upper_bound_is_scipy_s_and_dual_to_the_test(n: int, data: st.DataObject, delta: float) -> None:
    errors = data.draw(st.integers(0, n))
    bound = upper_bound(errors, n, delta)
    interval = stats.binomtest(errors, n, alternative="less").proportion_ci(1 - delta, method="exact")
    assert bound == pytest.approx(interval.high, abs=1e-9)
    if bound < 0.999:
        assert binomial_p_value(errors, n, bound + 1e-6) <= delta <= binomial_p_value(errors, n, bound - 1e-6)


TABLE = [
    *[(0.85, 277, 0.05, 88.8), (0.85, 40430, 0.10, 85.2), (0.85, 408, 0.05, 88.0), (0.90, 872, 0.05, 91.7)],
    *[(0.90, 872, 0.10, 91.4), (0.92, 1500, 0.05, 93.2), (0.92, 5463, 0.10, 92.5), (0.95, 277, 0.05, 97.5)],
    *[(0.95, 3000, 0.10, 95.5), (0.95, 9832, 0.05, 95.4), (0.97, 408, 0.10, 98.3), (0.97, 872, 0.05, 98.1)],
    *[(0.99, 277, 0.10, 100.0), (0.99, 408, 0.05, 100.0), (0.99, 1500, 0.05, 99.5), (0.99, 40430, 0.05, 99.1)],
]
"""Target, labels, delta, and the accuracy (%) that is enough: cells of the published table of this project's notes."""


@pytest.mark.parametrize(("target", "n", "delta", "percent"), TABLE)
def test_the_accuracy_that_is_enough(target: float, n: int, delta: float, percent: float) -> None:
    needed = accuracy_needed(n, target, delta)
    assert needed is not None
    assert round(100 * needed, 1) == percent
    errors = round(n * (1 - needed))
    assert binomial_p_value(errors, n, 1 - target) <= delta < binomial_p_value(errors + 1, n, 1 - target)


def test_where_not_even_no_error_is_enough_there_is_no_accuracy() -> None:
    assert accuracy_needed(277, 0.99, 0.05) is None
    assert accuracy_needed(10_000, 1.0, 0.05) is None


@pytest.mark.parametrize(
    ("error_rate", "alpha", "delta"), [(0.0, 0.05, 0.05), (0.03, 0.05, 0.1), (0.07, 0.1, 0.05), (0.04, 0.05, 0.1)]
)
def test_the_labels_needed_are_the_least_that_pass(error_rate: float, alpha: float, delta: float) -> None:
    def passes(n: int) -> bool:
        errors = next(k for k in range(n + 1) if k >= n * error_rate - 1e-9)
        return binomial_p_value(errors, n, alpha) <= delta

    n = labels_needed(error_rate, alpha, delta)
    assert n is not None
    assert passes(n)
    assert not any(passes(fewer) for fewer in range(1, n))


def test_no_number_of_labels_helps_a_model_that_is_too_bad_or_too_close() -> None:
    assert labels_needed(0.05, 0.05, 0.1) is None
    assert labels_needed(0.06, 0.05, 0.1) is None
    assert labels_needed(0.05, 1.0 - 0.95, 0.1) is None  # above 0.05 by a rounding error only
    assert labels_needed(0.0499, 0.05, 0.1) is None
    assert binomial_p_value(int(0.0499 * MOST_LABELS), MOST_LABELS, 0.05) > 0.1


@pytest.mark.parametrize("temperature", [0.6, 1.7, 3.0])
def test_with_two_classes_the_temperature_moves_the_threshold_and_not_the_routed_set(temperature: float) -> None:
    generator = np.random.default_rng(2)
    margins = generator.permutation(np.linspace(0.01, 6.0, 500)) * generator.choice([-1.0, 1.0], 500)
    logits = np.stack([margins, np.zeros(500)], axis=-1) + generator.normal(size=(500, 1))
    for threshold in (0.55, 0.75, 0.9, 0.99):
        mapped = 1.0 / (1.0 + ((1.0 - threshold) / threshold) ** (1.0 / temperature))
        plain, scaled = confidence(logits), confidence(logits, temperature=temperature)
        np.testing.assert_array_equal(plain >= threshold, scaled >= mapped)
        assert 0 < (plain >= threshold).sum() < 500


def test_with_three_classes_the_temperature_changes_who_is_routed() -> None:
    logits = np.array([[2.0, 1.0, -9.0], [2.0, 0.6, 0.6]])
    sharp, flat = confidence(logits, temperature=0.3), confidence(logits, temperature=5.0)
    assert sharp[0] < sharp[1]
    assert flat[0] > flat[1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: binomial_p_value(5, 3, 0.1), "5 errors in 3 items"),
        (lambda: binomial_p_value(1, 3, 1.0), r"alpha is 1.0; pass a number in \[0, 1\)"),
        (lambda: hoeffding_bentkus_p_value([0.5, 1.5], 0.1), "losses hold 1.5; pass one number in"),
        (lambda: hoeffding_bentkus_p_value([-0.5], 0.1), "losses hold -0.5"),
        (lambda: hoeffding_bentkus_p_value([math.nan], 0.1), "losses hold nan"),
        (lambda: betting_p_value([[0.5]], 0.1, 0.1), r"differences hold shape \(1, 1\)"),
        (lambda: betting_p_value([-2.0], 0.1, 0.1), r"differences hold -2.0; pass one number in \[-1, 1\]"),
        (lambda: betting_p_value([0.0], 1.0, 0.1), "epsilon is 1.0"),
        (lambda: betting_p_value([0.0], 0.1, 0.0), r"delta is 0.0; pass a number in \(0, 1\)"),
        (lambda: fixed_sequence([0.0], 1.0), "delta is 1.0"),
        (lambda: upper_bound(-1, 3, 0.1), "-1 errors in 3 items"),
        (lambda: accuracy_needed(100, 1.1, 0.1), "1 - target is -0.1"),
    ],
)
def test_what_makes_no_promise_is_refused(call: object, says: str) -> None:
    assert callable(call)
    with pytest.raises(ConfigError, match=says):
        call()
