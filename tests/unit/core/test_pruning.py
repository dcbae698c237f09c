from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastriton.core.pruning import Pruning, kept

WORDS = ["the", "film", "is", "not,", "in", "any", "way,", "a", "Good", "one"]
IMPORTANCE = np.array([0.1, 1.6, 0.2, 0.3, 0.1, 0.2, 0.4, 0.1, 3.0, 1.0])  # the mean is 0.7

importances = st.lists(st.floats(0.0, 10.0, allow_subnormal=False), min_size=0, max_size=30).map(np.array)


def stay(rule: Pruning) -> list[str]:
    return [word for word, keep in zip(WORDS, kept(IMPORTANCE, WORDS, rule), strict=True) if keep]


def test_words_below_the_scaled_mean_go() -> None:
    assert stay(Pruning(scale=1.0, floor=1)) == ["film", "Good", "one"]
    assert stay(Pruning(scale=0.5, floor=1)) == ["film", "way,", "Good", "one"]
    assert stay(Pruning(scale=2.0, floor=1)) == ["film", "Good"]
    assert stay(Pruning(scale=0.0, floor=1)) == WORDS


def test_a_word_at_the_threshold_stays() -> None:
    assert kept(np.array([1.0, 1.0]), ["a", "b"], Pruning(scale=1.0, floor=1)).all()


def test_a_keep_rate_keeps_the_most_important_share() -> None:
    assert stay(Pruning(keep_rate=0.3, floor=1)) == ["film", "Good", "one"]
    assert stay(Pruning(keep_rate=0.31, floor=1)) == ["film", "way,", "Good", "one"]


def test_a_keep_rate_is_not_rounded_up_by_the_last_bit() -> None:
    words = ["w"] * 100
    assert kept(np.arange(100.0), words, Pruning(keep_rate=0.55)).sum() == 55  # 0.55 x 100 > 55 in floats


def test_at_least_the_floor_stays() -> None:
    assert stay(Pruning(scale=100.0, floor=3)) == ["film", "Good", "one"]
    assert stay(Pruning(keep_rate=0.1, floor=2)) == ["film", "Good"]
    assert stay(Pruning(scale=100.0, floor=50)) == WORDS


def test_words_never_to_be_pruned_stay_in_any_case_and_punctuation() -> None:
    assert stay(Pruning(scale=1.0, floor=1, never=("not", "the"))) == ["the", "film", "not,", "Good", "one"]


@given(importances, st.floats(0.0, 3.0), st.integers(1, 8))
def test_by_scale_the_words_that_stay_are_exactly_those_above_it_and_the_floor(
    importance: np.ndarray[tuple[int], np.dtype[np.float64]], scale: float, floor: int
) -> None:
    stays = kept(importance, ["w"] * len(importance), Pruning(scale=scale, floor=floor))
    above = importance >= scale * importance.mean() if len(importance) else np.zeros(0, bool)
    assert stays[above].all()
    assert stays.sum() == max(above.sum(), min(floor, len(importance)))
    if stays.any() and not stays.all():
        assert importance[stays].min() >= importance[~stays].max(), "never a less important word for a more important"


@given(importances, st.floats(0.01, 0.99), st.integers(1, 8))
def test_by_rate_the_share_stays(
    importance: np.ndarray[tuple[int], np.dtype[np.float64]], rate: float, floor: int
) -> None:
    stays = kept(importance, ["w"] * len(importance), Pruning(keep_rate=rate, floor=floor))
    n = len(importance)
    assert stays.sum() == max(math.ceil(rate * n - 1e-9), min(floor, n))
    if stays.any() and not stays.all():
        assert importance[stays].min() >= importance[~stays].max()


@given(importances, st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_a_larger_scale_keeps_no_other_words(
    importance: np.ndarray[tuple[int], np.dtype[np.float64]], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    words = ["w"] * len(importance)
    more = kept(importance, words, Pruning(scale=low, floor=2))
    fewer = kept(importance, words, Pruning(scale=high, floor=2))
    assert not (fewer & ~more).any()


@pytest.mark.parametrize("rule", [Pruning(scale=1.0), Pruning(keep_rate=0.5)])
def test_no_words_are_no_error(rule: Pruning) -> None:
    assert kept(np.zeros(0), [], rule).shape == (0,)
