"""The promise of `elastriton plan`, on made-up answers whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import ConfigError
from elastriton.core.promise import CascadeChoice
from elastriton.generator import certify, search
from elastriton.generator.certify import choose_cascade
from elastriton.generator.config import AuditConfig, CascadeConfig
from elastriton.generator.guarantee import betting_p_value, upper_bound
from elastriton.generator.search import Cascades, Setting, bound

Make = Callable[..., Any]

RELATIVE = CascadeConfig(models=("m",), max_drop=0.04, delta=0.1)
ABSOLUTE = CascadeConfig(models=("m",), target_accuracy=0.84, delta=0.1)


def choose(made: Any, config: CascadeConfig, seed: int = 0) -> CascadeChoice:
    return choose_cascade(made.cached, made.task, made.encoder, config, hop_ms=2.0, seed=seed)


def setting_of(choice: CascadeChoice, made: Any) -> Setting:
    chain, thresholds = zip(*choice.small, strict=True)
    rule = made.task.cascade.rules.index(choice.pruning) if choice.pruning else None
    return Setting(chain, thresholds, rule, choice.small_weight)


@pytest.mark.parametrize("config", [RELATIVE, ABSOLUTE], ids=["max_drop", "target_accuracy"])
def test_the_promise_is_kept_where_the_empirical_threshold_breaks_it(
    synthetic: Make, monkeypatch: pytest.MonkeyPatch, config: CascadeConfig
) -> None:
    """New samples each time: the share of broken promises is <= delta + 3 s.e.; a naive choice breaks far more."""
    monkeypatch.setitem(search.STEPS, 1, 9)
    monkeypatch.setattr(certify, "_metrics", lambda *_: {})  # the intervals take most of the time, and play no part
    population = synthetic(20_000, 10_000)
    truly = Cascades(population.cached, population.task, population.encoder, "max", 2.0)
    everything = np.arange(20_000)
    large_loss = truly.losses(truly.large, everything).mean()

    def breaks(setting: Setting) -> bool:
        risk = truly.play(setting, everything).loss.mean() - (large_loss if config.max_drop is not None else 0.0)
        return bool(risk > bound(config))

    trials, broken, naive, early = 200, 0, 0, 0
    for trial in range(trials):
        made = synthetic(700, trial)
        choice = choose(made, config, seed=trial)
        if choice.small:
            early += 1
            broken += breaks(setting_of(choice, made))
        ours = Cascades(made.cached, made.task, made.encoder, "max", 2.0)
        rows = np.arange(made.task.n_fit, 700)
        base = ours.losses(ours.large[rows], rows).mean() if config.max_drop is not None else 0.0
        tried = [(s, ours.play(s, rows)) for s in ours.settings(np.arange(made.task.n_fit), 1)]
        fit = [(c.cost_ms.mean(), s) for s, c in tried if c.loss.mean() - base <= bound(config)]
        naive += bool(fit) and breaks(min(fit, key=lambda one: one[0])[1])
    limit = config.delta + 3 * math.sqrt(config.delta * (1 - config.delta) / trials)
    assert broken / trials <= limit
    assert naive / trials > limit
    assert early / trials > 0.5, "a promise that is never made is easily kept"


def test_a_promise_states_its_evidence(synthetic: Make) -> None:
    made = synthetic(2000, 0, small=2, rules=1)
    config = RELATIVE.model_copy(update={"depth": 2, "audit": AuditConfig(share=0.3, tolerance=0.01, fall_back=True)})
    choice = choose(made, config)
    promise = choice.promise
    assert promise is not None
    assert (promise.kind, promise.bound, promise.delta, promise.n) == ("max_drop", 0.04, 0.1, 1120)
    assert promise.p_value <= promise.delta
    assert promise.tested >= 1
    assert promise.mean_ms < promise.large_ms
    assert len(set(promise.splits.values())) == 3
    assert promise.splits.keys() == {"fit", "order", "certify"}
    assert "loss beyond the large model's at most 0.04 with probability 0.9 (n = 1120" in choice.note
    accuracy = promise.metrics["accuracy"]
    assert accuracy.low < accuracy.value < accuracy.high
    assert accuracy.value == pytest.approx(1.0 - promise.loss)

    ours = Cascades(made.cached, made.task, made.encoder, "max", 2.0)
    certified = 600 + np.random.default_rng(0).permutation(1400)[280:]
    course = ours.play(setting_of(choice, made), certified)
    large = ours.losses(ours.large[certified], certified)
    assert promise.loss == pytest.approx(course.loss.mean())
    assert promise.large_loss == pytest.approx(large.mean())
    assert promise.early_return == pytest.approx(course.early.mean())
    assert promise.mean_ms == pytest.approx(course.cost_ms.mean())

    assert choice.audit is not None
    labels = course.values.argmax(-1) != ours.large[certified].argmax(-1)
    differing = upper_bound(int(labels[course.early].sum()), int(course.early.sum()), 0.1)
    assert choice.audit.reference == pytest.approx(differing + 0.01)
    assert (choice.audit.share, choice.audit.fall_back) == (0.3, True)


def test_a_regression_is_promised_by_its_absolute_error(synthetic: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(search.STEPS, 1, 9)
    made = synthetic(800, 0, regression=True)
    for config in (RELATIVE, ABSOLUTE):
        choice = choose(made, config)
        assert choice.promise is not None
        assert choice.score == "uncertainty"
        assert choice.promise.metrics.keys() == {"pearson", "spearman", "mae"}
        truth = made.cached.truth
        mae = choice.promise.metrics["mae"].value
        assert choice.promise.loss == pytest.approx(mae / np.ptp(truth), rel=0.02)


def test_a_sample_in_two_parts_is_refused(synthetic: Make) -> None:
    made = synthetic(300, 0)
    items = (*made.cached.items[:-1], made.cached.items[0])
    with pytest.raises(ConfigError, match="1 item"):
        choose(made._replace(cached=replace(made.cached, items=items)), RELATIVE)


def test_too_few_samples_are_refused(synthetic: Make) -> None:
    with pytest.raises(ConfigError, match="leave a split empty: give more labelled data"):
        choose(synthetic(2, 0), RELATIVE)


def large_only(choice: CascadeChoice) -> str:
    assert (choice.small, choice.promise, choice.pruning, choice.audit) == ((), None, None, None)
    assert choice.note.startswith("large model alone: ")
    return choice.note


def test_with_few_labels_the_note_says_how_many_it_takes(synthetic: Make) -> None:
    strict = RELATIVE.model_copy(update={"max_drop": 0.005})
    note = large_only(choose(synthetic(300, 0), strict))
    assert "with 168 labels; even without a difference it takes 615 labels to certify max_drop 0.005" in note


def test_with_a_small_model_that_only_guesses_the_note_says_so(synthetic: Make) -> None:
    made = synthetic(1500, 0)
    guesses = np.random.default_rng(1).normal(size=(1500, 3)).astype(np.float32) * 5
    useless = replace(made.cached, small=(replace(made.cached.small[0], logits=guesses),))
    config = RELATIVE.model_copy(update={"max_drop": 0.005})
    note = large_only(choose(made._replace(cached=useless), config))
    assert "no early return costs less than max_drop 0.005 for sure" in note


def test_with_a_target_above_the_large_model_no_number_of_labels_would_do(synthetic: Make) -> None:
    note = large_only(choose(synthetic(1500, 0), ABSOLUTE.model_copy(update={"target_accuracy": 0.97})))
    assert "would certify 0.97; no number of labels would" in note


def test_with_a_target_just_below_the_large_model_the_note_says_how_many_labels(synthetic: Make) -> None:
    note = large_only(choose(synthetic(200, 0), ABSOLUTE.model_copy(update={"target_accuracy": 0.87})))
    assert "would certify 0.87; with " in note
    assert note.endswith("labels it would")


def test_a_cascade_that_saves_no_time_is_not_served(synthetic: Make) -> None:
    note = large_only(choose(synthetic(1500, 0, small_ms=30.0), RELATIVE))
    assert "the cheapest certified cascade takes" in note


def test_what_all_samples_speak_against_is_not_promised_for_a_lucky_start() -> None:
    """The betting test is passed as soon as its wealth suffices, whatever comes behind."""
    goal = certify.Goal(CascadeConfig(models=("m",), max_drop=0.01, delta=0.1), exact=True)
    lucky = np.concatenate([np.full(60, -1.0), np.zeros(300), np.full(70, 1.0)])
    large = np.zeros(len(lucky))
    assert lucky.mean() > 0.01
    assert betting_p_value(lucky, 0.01, 0.1) < 0.1
    assert goal.p_value(lucky, large) == 1.0
    assert goal.p_value(lucky[:-10], large[:-10]) < 0.1
