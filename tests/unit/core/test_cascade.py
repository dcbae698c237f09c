from __future__ import annotations

import numpy as np
import pytest

from elastriton.core.cascade import accepts, blend

SMALL = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]], np.float32)
LARGE = np.array([[0.7, 0.3], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2]], np.float32)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.55, [1, 1, 1, 1]), (0.6, [1, 1, 1, 0]), (0.61, [1, 0, 1, 0]), (0.0, [1, 1, 1, 1]), (1.1, [0, 0, 0, 0])],
)
def test_an_item_is_accepted_from_the_threshold_on(threshold: float, expected: list[int]) -> None:
    sure = np.array([0.9, 0.6, 0.8, 0.55])
    np.testing.assert_array_equal(accepts(sure, threshold), np.array(expected, bool))


def test_an_uncertainty_is_a_negative_confidence() -> None:
    np.testing.assert_array_equal(accepts(np.array([-0.1, -0.5, -np.inf]), -0.2), [True, False, False])


def test_blend_weighs_both_levels() -> None:
    np.testing.assert_allclose(blend(SMALL[0], LARGE[0], 0.25), [0.75, 0.25], atol=1e-6)
    np.testing.assert_array_equal(blend(SMALL[1], LARGE[1], 0.0), LARGE[1])
    np.testing.assert_array_equal(blend(SMALL[1], LARGE[1], 1.0), SMALL[1])


def test_blend_takes_a_weight_for_each_row() -> None:
    weights = np.array([[0.0], [1.0], [0.5], [0.25]], np.float32)
    blended = blend(SMALL, LARGE, weights)
    np.testing.assert_allclose(blended[:2], [LARGE[0], SMALL[1]])
    np.testing.assert_allclose(blended[2], [0.25, 0.75], atol=1e-6)
    np.testing.assert_allclose(blended.sum(axis=-1), 1.0, atol=1e-6)
