from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax

from elastriton.core.confidence import (
    POWERS,
    FloatArray,
    IntArray,
    Score,
    aurc,
    confidence,
    fit_power,
    fit_temperature,
    softmax,
)


def sample(seed: int, temperature: float, n: int = 400, classes: int = 5) -> tuple[FloatArray, IntArray]:
    """Logits, and labels drawn from their softmax at `temperature`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=3.0, size=(n, classes))
    gumbel = generator.gumbel(size=logits.shape)
    return logits.astype(np.float32), (logits / temperature + gumbel).argmax(axis=-1)


def loss(logits: FloatArray, labels: IntArray, temperature: float) -> float:
    """Of the labels, 1 / (n + 1) of each spread over all classes."""
    scaled = log_softmax(logits.astype(np.float64) / temperature, axis=-1)
    n = len(labels)
    return float(-(n * scaled[np.arange(n), labels].mean() + scaled.mean()) / (n + 1))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_softmax_is_scipy_s(temperature: float) -> None:
    logits, _ = sample(0, 1.0)
    expected = scipy_softmax(logits.astype(np.float64) / temperature, axis=-1)
    np.testing.assert_allclose(softmax(logits, temperature), expected, atol=1e-6)


def test_a_class_at_minus_infinity_has_probability_zero() -> None:
    probabilities = softmax(np.array([[0.0, -np.inf, 0.0], [-np.inf, 3.0, -np.inf]], np.float32))
    np.testing.assert_array_equal(probabilities, np.array([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]], np.float32))


def test_huge_logits_do_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise"):
        probabilities = softmax(np.array([1e30, -1e30, 1e30], np.float32), temperature=0.01)
    np.testing.assert_array_equal(probabilities, np.array([0.5, 0.0, 0.5], np.float32))


def test_softmax_leaves_its_argument_alone_and_returns_float32() -> None:
    logits = np.array([[1.0, 2.0]])
    assert softmax(logits).dtype == np.float32
    np.testing.assert_array_equal(logits, [[1.0, 2.0]])


def test_confidence_is_the_largest_probability_of_each_row() -> None:
    logits, _ = sample(6, 1.0)
    np.testing.assert_array_equal(confidence(logits, "max", 1.7), softmax(logits, 1.7).max(axis=-1))


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_margin_is_the_distance_between_the_two_largest_probabilities(classes: int) -> None:
    logits, _ = sample(7, 1.0, n=50, classes=classes)
    for row, margin in zip(softmax(logits, 0.7), confidence(logits, "margin", 0.7), strict=True):
        first, second, *_ = sorted(row, reverse=True)
        assert margin == pytest.approx(first - second, abs=1e-6)


@pytest.mark.parametrize("power", [1.0, 2.0, 5.0])
def test_pnorm_is_the_largest_centred_logit_over_their_norm(power: float) -> None:
    logits, _ = sample(8, 1.0, n=50)
    scores = confidence(logits, "pnorm", power=power)
    for row, score in zip(logits.astype(np.float64), scores, strict=True):
        z = row - row.mean()
        assert score == pytest.approx(z.max() / np.linalg.norm(z, power), rel=1e-5)
    np.testing.assert_allclose(confidence(3 * logits + 11, "pnorm", power=power), scores, atol=1e-5)


def test_pnorm_of_equal_logits_is_no_confidence_rather_than_nan() -> None:
    np.testing.assert_array_equal(confidence(np.full((1, 3), 2.0, np.float32), "pnorm"), [0.0])


def test_the_uncertainty_of_a_regression_is_its_expected_error() -> None:
    values = np.array([[100.0, 0.1], [-3.0, 2.0]], np.float32)
    np.testing.assert_array_equal(confidence(values, "uncertainty"), np.array([-0.1, -2.0], np.float32))


@pytest.mark.parametrize("score", ["max", "margin"])
def test_two_classes_are_ranked_alike_at_every_temperature(score: Score) -> None:
    logits, labels = sample(9, 1.0, classes=2)
    order = confidence(logits, score).argsort(kind="stable")
    for temperature in (0.8, 1.3, fit_temperature(logits, labels)):
        calibrated = confidence(logits, score, temperature)
        assert (np.diff(calibrated[order]) >= 0).all(), "so that the same share of texts is routed alike"


def test_aurc_is_the_mean_loss_of_the_surest_k_over_all_k() -> None:
    scores, losses = np.array([0.1, 0.9, 0.5, 0.7]), np.array([1.0, 0.0, 1.0, 0.0])
    assert aurc(scores, losses) == pytest.approx(np.mean([0 / 1, 0 / 2, 1 / 3, 2 / 4]))
    assert aurc(-scores, losses) == pytest.approx(np.mean([1, 1, 2 / 3, 2 / 4]))


def test_the_fitted_power_has_the_least_aurc_of_the_grid() -> None:
    for seed in range(3):
        logits, labels = sample(seed, 2.5)
        wrong = (logits.argmax(-1) != labels).astype(float)
        areas = {power: aurc(confidence(logits, "pnorm", power=power), wrong) for power in POWERS}
        assert areas[fit_power(logits, labels)] == min(areas.values())
        assert min(areas.values()) < max(areas.values())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_minimises_the_likelihood_as_scipy_does(seed: int, temperature: float) -> None:
    logits, labels = sample(seed, temperature)
    options = {"xatol": 1e-10}
    best = minimize_scalar(lambda b: loss(logits, labels, float(np.exp(-b))), bounds=(-5, 5), options=options)
    fitted = fit_temperature(logits, labels)
    assert loss(logits, labels, fitted) <= best.fun + 1e-10
    assert fitted == pytest.approx(float(np.exp(-best.x)), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    logits, labels = sample(1, temperature, n=40_000)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_a_shift_of_the_logits_changes_nothing() -> None:
    logits, labels = sample(2, 1.7)
    shifted = logits + np.linspace(-50, 50, len(logits), dtype=np.float32)[:, None]
    assert fit_temperature(shifted, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-4)


def test_the_argmax_is_the_same_at_every_temperature() -> None:
    logits, _ = sample(3, 1.0)
    for temperature in (0.5, 1.0, 5.0):
        np.testing.assert_array_equal(softmax(logits, temperature).argmax(-1), logits.argmax(-1))


def test_samples_that_are_all_right_make_no_answer_certain() -> None:
    logits = np.array(30 * [[1.2, 0.9]])
    temperature = fit_temperature(logits, np.zeros(30, int))
    assert softmax(logits, temperature)[0, 0] == pytest.approx(1.0 - 1 / 2 / 31), "1 / 31 over two classes"
    many = fit_temperature(np.repeat(logits, 100, axis=0), np.zeros(3000, int))
    assert many < temperature, "the more samples, the surer"


def test_always_wrong_is_as_flat_as_allowed() -> None:
    logits, _ = sample(4, 1.0, classes=2)
    assert fit_temperature(logits, logits.argmin(-1)) == pytest.approx(np.exp(5.0), rel=1e-6)
