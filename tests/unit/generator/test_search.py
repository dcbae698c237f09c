"""Settings of a cascade, played on made-up answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.core.confidence import confidence, softmax
from elastriton.core.latency import LatencyTable
from elastriton.generator.cached import Answers, Cached, load_cached, save_cached
from elastriton.generator.config import CascadeConfig
from elastriton.generator.search import MIN_FIT, Cascades, Setting, bound, hopeless, least_ms

HOP_MS = 2.0
RELATIVE = CascadeConfig(models=("m",), max_drop=0.02)
ABSOLUTE = CascadeConfig(models=("m",), target_accuracy=0.85)

Make = Callable[..., Any]


def cascades(made: Any, score: Any = "max") -> Cascades:
    return Cascades(made.cached, made.task, made.encoder, score, HOP_MS)


def one_by_one(made: Any, setting: Setting, row: int, score: Any) -> tuple[float, float, int, float, Any]:
    """Loss, cost, who answered, words cut and values of one sample, as the service would go about it."""
    cached, regression = made.cached, made.task.objective == "regression"
    cost_ms, answered_by, cut, values = 0.0, -1, 0.0, None
    for number, threshold in zip(setting.chain, setting.thresholds, strict=True):
        logits, tokens = cached.small[number].logits[row : row + 1], int(cached.small[number].tokens[row])
        cost_ms += LatencyTable(made.task.cascade.small[number].latency).typical_ms(0, 1, tokens)
        small = logits[0, :1] if regression else softmax(logits)[0]
        if confidence(logits, "uncertainty" if regression else score)[0] >= np.float32(threshold):
            answered_by, values = number, small
            break
    if values is None:
        last = setting.chain[-1]
        large = cached.large if setting.rule is None else cached.pruned[last, setting.rule]
        said = large.logits[row] if regression else softmax(large.logits[row : row + 1])[0]
        values = setting.small_weight * small + (1 - setting.small_weight) * said
        cost_ms += LatencyTable(made.encoder.latency).typical_ms(0, 1, int(large.tokens[row])) + HOP_MS
        cut = 0.0 if setting.rule is None else float(cached.words_cut[last, setting.rule][row])
    if regression:
        loss = min(1.0, abs(float(values[0]) - float(cached.truth[row])) / float(np.ptp(cached.truth)))
    else:
        loss = float(values.argmax() != cached.truth[row])
    return loss, cost_ms, answered_by, cut, values


@pytest.mark.parametrize(
    ("setting", "score", "regression"),
    [
        (Setting((0,), (0.7,), None), "max", False),
        (Setting((1,), (0.5,), 1, 0.4), "margin", False),
        (Setting((0, 1), (0.9, 0.6), None, 0.3), "max", False),
        (Setting((0, 2), (0.812, 0.808), 0, 0.8), "pnorm", False),
        (Setting((0,), (-0.8,), 0, 0.3), "max", True),
        (Setting((1, 2), (-0.5, -1.0), None, 0.2), "max", True),
    ],
)
def test_playing_a_setting_is_what_becomes_of_every_sample(
    synthetic: Make, setting: Setting, score: Any, regression: bool
) -> None:
    made = synthetic(200, 0, small=3, rules=2, regression=regression)
    rows = np.random.default_rng(1).permutation(200)[:150]
    course = cascades(made, score).play(setting, rows)
    expected = [one_by_one(made, setting, row, score) for row in rows]
    for got, want in zip(
        (course.loss, course.cost_ms, course.answered_by, course.words_cut, course.values),
        zip(*expected, strict=True),
        strict=True,
    ):
        np.testing.assert_allclose(got, np.stack(want), atol=1e-5)
    assert len(set(course.answered_by.tolist())) == len(setting.chain) + 1, "every level answers something"
    np.testing.assert_array_equal(course.early, course.answered_by >= 0)


def test_settings_are_all_chains_rules_and_thresholds(synthetic: Make) -> None:
    made = synthetic(200, 0, small=3, rules=2)
    fit = np.arange(60)
    found = list(cascades(made).settings(fit, depth=2))
    assert {setting.chain for setting in found} == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}
    assert {setting.rule for setting in found} == {None, 0, 1}
    assert {setting.chain for setting in cascades(made).settings(fit, depth=1)} == {(0,), (1,), (2,)}
    sure = cascades(made).sure[0][fit]
    thresholds = {setting.thresholds[0] for setting in found if setting.chain == (0,)}
    assert min(thresholds) < sure.min(), "some setting answers everything early, whatever comes"
    assert max(thresholds) == sure.max()
    assert len(thresholds) > 20


def test_a_rule_that_was_not_run_after_a_small_model_is_no_setting(synthetic: Make) -> None:
    made = synthetic(200, 0, small=2, rules=2)
    fewer = replace(made.cached, pruned={key: made.cached.pruned[key] for key in ((0, 0), (0, 1), (1, 0))})
    found = list(cascades(made._replace(cached=fewer)).settings(np.arange(60), depth=2))
    assert {(setting.chain[-1], setting.rule) for setting in found} == {
        (0, None), (0, 0), (0, 1), (1, None), (1, 0),
    }  # fmt: skip


def test_a_rule_that_saves_no_time_is_no_setting(synthetic: Make) -> None:
    made = synthetic(200, 0, small=1, rules=2)
    whole = replace(made.cached.pruned[0, 1], tokens=made.cached.large.tokens)
    idle = replace(made.cached, pruned={**made.cached.pruned, (0, 1): whole})
    found = cascades(made._replace(cached=idle)).settings(np.arange(60), depth=1)
    assert {setting.rule for setting in found} == {None, 0}


@pytest.mark.parametrize("regression", [False, True])
def test_weights_are_the_best_for_what_is_re_routed_of_the_fit_part(synthetic: Make, regression: bool) -> None:
    made = synthetic(600, 3, small=2, rules=1, regression=regression)
    ours, fit = cascades(made), np.arange(200)
    weighted = [setting for setting in ours.settings(fit, depth=1) if setting.small_weight > 0.0]
    assert weighted
    for setting in weighted[::10]:
        (number,) = setting.chain
        rows = np.array([row for row in fit if ours.sure[number][row] < setting.thresholds[0]])
        assert len(rows) >= MIN_FIT
        small = ours.small[number][rows]
        large = ours.large[rows] if setting.rule is None else ours.pruned[number, setting.rule][rows]

        def loss(weight: float, small: Any = small, large: Any = large, rows: Any = rows) -> float:
            values, truth = weight * small + (1 - weight) * large, made.cached.truth[rows]
            if regression:
                return float(np.mean((values[:, 0] - truth) ** 2))
            return float(-np.mean(np.log(values[np.arange(len(rows)), truth])))

        best = min(np.linspace(0.0, 0.9, 91), key=loss)
        assert setting.small_weight == pytest.approx(best, abs=0.02)
        assert loss(setting.small_weight) < loss(0.0)


def test_no_weight_is_fitted_on_a_handful_of_samples(synthetic: Make) -> None:
    made = synthetic(200, 4)
    ours, fit = cascades(made), np.arange(60)
    for setting in ours.settings(fit, depth=1):
        if setting.small_weight > 0.0:
            assert (~ours.play(setting, fit).early).sum() >= MIN_FIT


@pytest.mark.parametrize("regression", [False, True])
def test_what_a_small_model_cannot_read_is_the_large_model_s_alone(synthetic: Make, regression: bool) -> None:
    made = synthetic(200, 5, regression=regression)
    logits = made.cached.small[0].logits.copy()
    logits[::4] = np.nan
    long = replace(made.cached, small=(Answers(logits, made.cached.small[0].tokens),))
    ours = cascades(made._replace(cached=long))
    rows = np.arange(0, 200, 4)
    for setting in ours.settings(np.arange(60), depth=1):
        assert np.isfinite(setting.thresholds).all()
        course = ours.play(setting, rows)
        assert not course.early.any()
        np.testing.assert_allclose(course.values, ours.large[rows], rtol=1e-6)
        assert (
            not ours.play(setting, np.arange(1, 200, 4)).early.all()
            or setting.thresholds[0] <= ours.sure[0][1::4].min()
        )


def pruned_only(made: Any, logits: Any) -> Cached:
    cached: Cached = made.cached
    return replace(cached, pruned={(0, 0): Answers(logits, cached.large.tokens)})


@pytest.mark.parametrize("config", [RELATIVE, ABSOLUTE])
@pytest.mark.parametrize("regression", [False, True])
def test_only_pruning_that_surely_costs_too_much_is_hopeless(
    synthetic: Make, config: CascadeConfig, regression: bool
) -> None:
    made = synthetic(400, 6, regression=regression)
    large = made.cached.large.logits
    broken = large + 5.0 if regression else np.roll(large, 1, axis=1)
    assert not hopeless(pruned_only(made, large), config, 200)
    assert hopeless(pruned_only(made, broken), config, 200)
    late = large.copy()
    late[200:] = broken[200:]
    assert not hopeless(pruned_only(made, late), config, 200), "only the first part is looked at"


def test_a_little_loss_within_the_noise_is_not_hopeless(synthetic: Make) -> None:
    made = synthetic(400, 7)
    a_few = made.cached.large.logits.copy()
    a_few[:6] = np.roll(a_few[:6], 1, axis=1)
    assert not hopeless(pruned_only(made, a_few), RELATIVE, 200)


def test_cached_answers_come_back_as_they_were(synthetic: Make, tmp_path: Path) -> None:
    for regression in (False, True):
        made = synthetic(50, 8, small=2, rules=2, regression=regression).cached
        save_cached(made, tmp_path)
        back = load_cached(tmp_path)
        assert (back.items, len(back), back.pruned.keys()) == (made.items, 50, made.pruned.keys())
        assert back.truth.dtype == made.truth.dtype
        np.testing.assert_array_equal(back.truth, made.truth)
        pairs = [(back.large, made.large), *zip(back.small, made.small, strict=True)]
        pairs += [(back.pruned[key], made.pruned[key]) for key in made.pruned]
        for one, other in pairs:
            np.testing.assert_array_equal(one.logits, other.logits)
            np.testing.assert_array_equal(one.tokens, other.tokens)
        for key, cut in made.words_cut.items():
            np.testing.assert_array_equal(back.words_cut[key], cut)


def test_the_least_time_of_a_pair_is_that_of_its_best_threshold() -> None:
    generator = np.random.default_rng(0)
    sure = generator.random(200)
    small = (generator.random(200) > 0.3 + 0.7 * sure).astype(np.float64)
    large = (generator.random(200) > 0.95).astype(np.float64)
    for config, base in ((RELATIVE, 0.0), (ABSOLUTE, float(large.mean()))):
        early = [0.0]
        for threshold in sure:
            kept = sure >= threshold
            if (np.where(kept, small, large) - large).mean() + base <= bound(config):
                early.append(float(kept.mean()))
        assert least_ms((small, large), sure, (2.0, 10.0), config) == pytest.approx(2.0 + (1.0 - max(early)) * 10.0)
