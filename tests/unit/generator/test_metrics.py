"""Metrics against scikit-learn's and scipy's own; the bootstrap against scipy's, and against what it should cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from elastriton.generator.metrics import METRICS, bootstrap_interval


@pytest.mark.parametrize("classes", [2, 5])
def test_matthews_correlation_is_scikit_learn_s(classes: int) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, 300)
    predictions = np.where(generator.random(300) < 0.6, truth, generator.integers(0, classes, 300))
    expected = reference.matthews_corrcoef(truth, predictions)
    assert METRICS["matthews"](predictions, truth) == pytest.approx(expected, rel=1e-9)


def test_matthews_correlation_of_two_classes_is_pearson_s() -> None:
    generator = np.random.default_rng(1)
    truth, predictions = generator.integers(0, 2, (2, 100))
    assert METRICS["matthews"](predictions, truth) == pytest.approx(METRICS["pearson"](predictions, truth))


def test_correlations_are_those_of_numpy_and_of_ranks() -> None:
    generator = np.random.default_rng(2)
    truth = generator.normal(size=200)
    predictions = np.exp(truth) + generator.normal(size=200)
    assert METRICS["pearson"](predictions, truth) == pytest.approx(np.corrcoef(predictions, truth)[0, 1])
    ranks = np.corrcoef(stats.rankdata(predictions), stats.rankdata(truth))[0, 1]
    assert METRICS["spearman"](predictions, truth) == pytest.approx(ranks)
    assert METRICS["mae"](predictions, truth) == pytest.approx(np.mean(np.abs(predictions - truth)))


def test_accuracy_is_the_share_of_right_classes() -> None:
    assert METRICS["accuracy"](np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0])) == 0.75


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
def test_a_constant_correlates_with_nothing(name: str) -> None:
    constant, varied = np.ones(6, int), np.array([0, 1, 0, 1, 1, 2])
    for predictions, truth in ((constant, varied), (varied, constant), (constant, constant)):
        assert METRICS[name](predictions, truth) == 0.0


@pytest.mark.parametrize("name", METRICS)
def test_the_bootstrap_interval_is_close_to_scipy_s(name: str) -> None:
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 4, 150)
    predictions = np.where(generator.random(150) < 0.7, truth, generator.integers(0, 4, 150))
    low, high = bootstrap_interval(METRICS[name], predictions, truth, seed=0, repeats=300)
    theirs = stats.bootstrap(
        (predictions, truth), METRICS[name], n_resamples=300, vectorized=False, paired=True, method="percentile"
    )
    assert low < METRICS[name](predictions, truth) < high
    tolerance = 0.25 * (high - low)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=tolerance)


def test_the_seed_decides_and_a_lower_level_is_narrower() -> None:
    generator = np.random.default_rng(4)
    truth = generator.normal(size=80)
    predictions = truth + generator.normal(size=80)
    wide = bootstrap_interval(METRICS["pearson"], predictions, truth, seed=5, repeats=200)
    assert wide == bootstrap_interval(METRICS["pearson"], predictions, truth, seed=5, repeats=200)
    narrow = bootstrap_interval(METRICS["pearson"], predictions, truth, seed=5, repeats=200, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """It promises nothing, but at n = 200 it should be within a few points of its level."""
    generator = np.random.default_rng(6)
    share, repeats, covered = 0.7, 200, 0
    for seed in range(repeats):
        truth = generator.integers(0, 2, 200)
        predictions = np.where(generator.random(200) < share, truth, 1 - truth)
        low, high = bootstrap_interval(METRICS["accuracy"], predictions, truth, seed, repeats=200)
        covered += low <= share <= high
    assert covered / repeats > 0.85
