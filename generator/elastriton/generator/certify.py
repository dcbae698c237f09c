"""Find the cheapest cascade that keeps its promise: the cascades' half of `elastriton plan` (Learn-then-Test).

    fit       temperatures (while profiling), the grid of thresholds, the weight of every setting's ensemble
    order     with the fit part: the Pareto front of (risk, cost), safest first  (Pareto testing, arXiv 2210.07913)
    certify   a fixed sequence of tests along it; the cheapest setting that passed is served

Every sample belongs to one part, so that what certifies had no say in what is certified. The risk that orders is an
upper estimate: by the mean alone, settings that were merely lucky come first, and the first failure ends the sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastriton.core.audit import AuditPlan
from elastriton.core.confidence import IntArray
from elastriton.core.profile import EncoderProfile, TaskProfile
from elastriton.core.promise import CascadeChoice, Interval, Promise
from elastriton.generator.cached import Cached
from elastriton.generator.config import CascadeConfig
from elastriton.generator.guarantee import (
    accuracy_needed,
    betting_p_value,
    binomial_p_value,
    fixed_sequence,
    hoeffding_bentkus_p_value,
    labels_needed,
    pareto_order,
    upper_bound,
)
from elastriton.generator.metrics import METRICS, bootstrap_interval
from elastriton.generator.search import Cascades, Course, Setting, bound
from elastriton.generator.splits import certified_splits, split_hash


@dataclass(frozen=True)
class Goal:
    """The promise that a setting is tested for."""

    config: CascadeConfig
    exact: bool
    """Losses are 0 or 1."""

    def risk(self, loss: NDArray[np.float64], large: NDArray[np.float64]) -> float:
        """The mean risk and two standard errors, with one more sample at a distance of 1, from losses [n]."""
        risk = loss - large if self.config.max_drop is not None else loss
        return float(risk.mean() + 2.0 * np.sqrt((risk.var() + 1.0 / len(risk)) / len(risk)))

    def p_value(self, loss: NDArray[np.float64], large: NDArray[np.float64]) -> float:
        """Of the hypothesis that the promise is broken, from the losses [n] of a setting and of the large model."""
        config = self.config
        if config.max_drop is not None:
            drop = loss - large  # the test may be passed early, by luck: what all items speak against is not promised
            return 1.0 if drop.mean() > config.max_drop else betting_p_value(drop, config.max_drop, config.delta)
        alpha = bound(config)
        if self.exact:
            return binomial_p_value(int(loss.sum()), len(loss), alpha)
        return hoeffding_bentkus_p_value(loss, alpha)


def choose_cascade(
    cached: Cached,
    task: TaskProfile,
    encoder: EncoderProfile,
    config: CascadeConfig,
    *,
    hop_ms: float,
    seed: int,
    keep: Callable[[Setting], bool] = lambda _setting: True,
) -> CascadeChoice:
    """The cascade to serve; one without small models, and why, where none is certified or none is cheaper.

    Only settings that `keep` allows are considered.
    Raises ConfigError where two parts of the data share a sample.
    """
    cascades = Cascades(cached, task, encoder, config.score, hop_ms)
    parts, items = certified_splits(cached.items, task.n_fit, seed)
    certify = parts.certify
    goal = Goal(config, exact=not cascades.regression)
    settings = [setting for setting in cascades.settings(parts.fit, config.depth) if keep(setting)]
    large = cascades.losses(cascades.large, np.arange(len(cached)))
    seen = np.concatenate([parts.fit, parts.order])
    tried = [cascades.play(setting, seen) for setting in settings]
    risk = [goal.risk(course.loss, large[seen]) for course in tried]
    cost_ms = [float(course.cost_ms.mean()) for course in tried]
    sequence = pareto_order(risk, cost_ms)
    p_values = [goal.p_value(cascades.play(settings[i], certify).loss, large[certify]) for i in sequence]
    passed = sequence[: fixed_sequence(p_values, config.delta)]
    if not passed:
        return CascadeChoice(_why_not(goal, large[certify], len(certify)))
    best = passed[-1]  # along a Pareto front the cost falls
    large_ms = float(cascades.large_ms[certify].mean())
    course = cascades.play(settings[best], certify)
    if course.cost_ms.mean() >= large_ms:
        return CascadeChoice(f"large model alone: the cheapest certified cascade takes {course.cost_ms.mean():.1f} ms "
                             f"a sample, the large model {large_ms:.1f} ms")  # fmt: skip
    promise = Promise(
        kind="max_drop" if config.max_drop is not None else "target_accuracy",
        bound=bound(config),
        delta=config.delta,
        n=len(certify),
        p_value=p_values[len(passed) - 1],
        tested=min(len(passed) + 1, len(sequence)),
        splits={name: split_hash(part) for name, part in items.items()},
        loss=float(course.loss.mean()),
        large_loss=float(large[certify].mean()),
        early_return=float(course.early.mean()),
        words_pruned=float(course.words_cut[~course.early].mean()) if not course.early.all() else 0.0,
        mean_ms=float(course.cost_ms.mean()),
        large_ms=large_ms,
        metrics=_metrics(cascades, course, certify, seed),
    )
    return _choice(settings[best], promise, cascades, course, task, config, certify)


def _choice(
    setting: Setting,
    promise: Promise,
    cascades: Cascades,
    course: Course,
    task: TaskProfile,
    config: CascadeConfig,
    certify: IntArray,
) -> CascadeChoice:
    rules = task.cascade.rules if task.cascade else ()
    audit = None
    if config.audit is not None:
        early = course.early
        differs = cascades.large[certify].argmax(-1) != course.values.argmax(-1)
        differing = upper_bound(int(differs[early].sum()), int(early.sum()), config.delta)
        reference = min(0.99, differing + config.audit.tolerance)
        audit = AuditPlan(config.audit.share, reference, config.audit.delta, config.audit.fall_back)
    what = "loss at most" if promise.kind == "target_accuracy" else "loss beyond the large model's at most"
    return CascadeChoice(
        note=f"{what} {promise.bound:g} with probability {1 - promise.delta:g} (n = {promise.n}, p = "
        f"{promise.p_value:.3g}); {promise.early_return:.0%} answered early, "
        f"{promise.mean_ms / promise.large_ms:.2f} of the large model's time",
        small=tuple(zip(setting.chain, setting.thresholds, strict=True)),
        score=cascades.score,
        small_weight=setting.small_weight,
        pruning=None if setting.rule is None else rules[setting.rule],
        promise=promise,
        audit=audit,
    )


def _why_not(goal: Goal, large: NDArray[np.float64], n: int) -> str:
    """What is missing for a certificate."""
    config = goal.config
    if config.max_drop is not None:
        least = math.ceil(math.log(1 / config.delta) / (0.75 * config.max_drop))
        reason = f"even without a difference it takes {least} labels to certify max_drop {config.max_drop:g}"
        if n >= least:
            reason = f"no early return costs less than max_drop {config.max_drop:g} for sure; more labels may help"
        return f"large model alone: nothing could be certified with {n} labels; {reason}"
    error = float(large.mean())
    if not goal.exact:
        return (
            f"large model alone: nothing could be certified with {n} labels; its mean loss is {error:.3f}, and "
            f"{bound(config):g} is to be certified"
        )
    needed = accuracy_needed(n, 1.0 - bound(config), config.delta)
    labels = labels_needed(error, bound(config), config.delta)
    return (
        f"large model alone: nothing could be certified with {n} labels; its accuracy is {1 - error:.3f}, and "
        f"{'no accuracy' if needed is None else f'{needed:.3f}'} would certify {1 - bound(config):g}; "
        + ("no number of labels would" if labels is None else f"with {labels} labels it would")
    )


def _metrics(cascades: Cascades, course: Course, rows: IntArray, seed: int) -> dict[str, Interval]:
    truth = cascades.truth[rows]
    if cascades.regression:
        names: Sequence[str] = ("pearson", "spearman", "mae")
        predictions = course.values[:, 0]
    else:
        names = ("accuracy", "matthews") if len(np.unique(truth)) == 2 else ("accuracy",)
        predictions = course.values.argmax(axis=-1)
    found = {}
    for name in names:
        low, high = bootstrap_interval(METRICS[name], predictions, truth, seed)
        found[name] = Interval(low, float(METRICS[name](predictions, truth)), high)
    return found
