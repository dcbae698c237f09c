from __future__ import annotations

import numpy as np
import pytest

from elastriton.core.cascade import Operating, accepts, blend, choose, sweep

SMALL = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]], np.float32)
LARGE = np.array([[0.7, 0.3], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2]], np.float32)
LABELS = np.array([0, 1, 0, 0])


def test_a_row_is_accepted_from_the_threshold_on() -> None:
    np.testing.assert_array_equal(accepts(SMALL, 0.55), [True, True, True, True])
    np.testing.assert_array_equal(accepts(SMALL, 0.6), [True, True, True, False])
    np.testing.assert_array_equal(accepts(SMALL, 0.61), [True, False, True, False])


def test_a_threshold_above_one_accepts_nothing_and_zero_everything() -> None:
    certain = np.array([[1.0, 0.0]], np.float32)
    assert not accepts(certain, 1.1).any()
    assert accepts(certain, 1.0).all()
    assert accepts(SMALL, 0.0).all()


def test_blend_weighs_both_levels() -> None:
    np.testing.assert_allclose(blend(SMALL[0], LARGE[0], 0.25), [0.75, 0.25], atol=1e-6)
    np.testing.assert_array_equal(blend(SMALL[1], LARGE[1], 0.0), LARGE[1])
    np.testing.assert_array_equal(blend(SMALL[1], LARGE[1], 1.0), SMALL[1])
    assert blend(SMALL[0].astype(np.float64), LARGE[0], 0.5).dtype == np.float32


def test_sweep_counts_early_returns_and_right_answers() -> None:
    # the small model is right on sample 0 only; the large one on samples 0, 1 and 3
    assert sweep(SMALL, LARGE, LABELS, [0.0, 0.6, 0.7, 0.85, 1.1]) == (
        Operating(0.0, early_return=1.0, accuracy=0.25),
        Operating(0.6, early_return=0.75, accuracy=0.5),
        Operating(0.7, early_return=0.5, accuracy=0.75),
        Operating(0.85, early_return=0.25, accuracy=0.75),
        Operating(1.1, early_return=0.0, accuracy=0.75),
    )


def test_sweep_agrees_with_counting_one_by_one() -> None:
    generator = np.random.default_rng(0)
    small, large = generator.dirichlet(np.ones(3), (2, 200)).astype(np.float32)
    labels = generator.integers(0, 3, 200)
    for point in sweep(small, large, labels, np.linspace(0.3, 1.0, 15).tolist()):
        answers = [
            (s if s.max() >= np.float32(point.threshold) else t).argmax() for s, t in zip(small, large, strict=True)
        ]
        early = [s.max() >= np.float32(point.threshold) for s in small]
        assert point.accuracy == pytest.approx(np.mean(np.array(answers) == labels))
        assert point.early_return == pytest.approx(np.mean(early))


POINTS = (Operating(0.5, 0.9, 0.80), Operating(0.7, 0.6, 0.88), Operating(0.9, 0.3, 0.91), Operating(1.1, 0.0, 0.90))


@pytest.mark.parametrize(("max_drop", "threshold"), [(0.0, 0.9), (0.0201, 0.7), (0.101, 0.5), (1.0, 0.5)])
def test_choose_returns_most_early_within_the_allowed_drop(max_drop: float, threshold: float) -> None:
    assert choose(POINTS, max_drop).threshold == threshold


def test_without_a_drop_the_safest_point_is_always_allowed() -> None:
    points = (Operating(0.5, 0.9, 0.80), Operating(1.1, 0.0, 0.90))
    assert choose(points, 0.0) == points[1]
    assert choose(points[::-1], 0.0) == points[1]


def test_the_drop_is_measured_from_never_returning_early_not_from_the_best() -> None:
    points = (Operating(0.5, 0.9, 0.90), Operating(0.8, 0.5, 0.99), Operating(1.1, 0.0, 0.90))
    assert choose(points, 0.0).threshold == 0.5


def test_of_equal_early_returns_the_higher_threshold_is_taken() -> None:
    points = (Operating(0.5, 0.9, 0.9), Operating(0.6, 0.9, 0.9), Operating(1.1, 0.0, 0.9))
    assert choose(points, 0.0).threshold == 0.6
