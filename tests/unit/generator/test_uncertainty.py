"""The distance that a small regression model expects between its value and the large one's."""

from __future__ import annotations

import numpy as np
import pytest

from elastriton.generator.uncertainty import expected_distance


def test_a_linear_distance_is_found_again_whatever_the_scale_of_the_features() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 3)) * [0.01, 1.0, 100.0] + [5.0, 0.0, -30.0]
    distance = 2.0 + features @ [30.0, 0.5, -0.004]
    weight, bias = expected_distance(features, distance)
    assert weight.dtype == np.float32
    assert weight.shape == (3,)
    expected = features @ weight + bias
    assert np.corrcoef(expected, distance)[0, 1] > 0.999
    assert expected.mean() == pytest.approx(distance.mean(), abs=1e-3)
    assert expected.std() == pytest.approx(distance.std() / 1.1, rel=0.05), "shrunk by the ridge of 0.1"


def test_a_constant_feature_says_nothing() -> None:
    features = np.column_stack([np.ones(50), np.arange(50.0)])
    weight, bias = expected_distance(features, np.arange(50.0))
    assert np.isfinite([*weight, bias]).all()
    assert weight[0] == 0.0
