"""Every setting that a cascade could be served with, and what each does with cached answers: arrays, no models.

A setting is a chain of small models with their thresholds, a pruning rule, and the weight of the ensemble.
generator/certify.py chooses among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from elastriton.core.cascade import accepts, blend
from elastriton.core.confidence import FloatArray, IntArray, Score, confidence
from elastriton.core.latency import LatencyTable
from elastriton.core.profile import CascadeProfile, EncoderProfile, TaskProfile
from elastriton.generator.cached import Answers, Cached
from elastriton.generator.config import CascadeConfig
from elastriton.runtime.small import answer

STEPS = {1: 40, 2: 9}
"""Thresholds tried for each small model of a chain, by the chain's length."""
MIN_FIT = 20
WORTH = 0.95
"""A pruning rule that leaves more of the large model's time than this is no candidate: each further one may look safer
than it is, and the first such one to fail ends the certificate's sequence."""


@dataclass(frozen=True)
class Setting:
    """One candidate: small models in turn, each with its threshold, a pruning rule, and the ensemble's weight."""

    chain: tuple[int, ...]
    thresholds: tuple[float, ...]
    rule: int | None
    small_weight: float = 0.0


@dataclass(frozen=True)
class Course:
    """What a setting does with some samples: the `loss` [n], the cost [n], and who answered, -1 for the large model."""

    loss: NDArray[np.float64]
    cost_ms: NDArray[np.float64]
    answered_by: NDArray[np.int64]
    words_cut: NDArray[np.float64]
    values: FloatArray

    @property
    def early(self) -> NDArray[np.bool_]:
        """Which samples a small model answered."""
        return self.answered_by >= 0


class Cascades:
    """A task's cached answers, ready to play any setting."""

    def __init__(self, cached: Cached, task: TaskProfile, encoder: EncoderProfile, score: Score, hop_ms: float) -> None:
        """`hop_ms` is what a request to the large model costs beyond the models themselves."""
        if task.cascade is None:
            raise ValueError("the task's profile has no cascade")
        profile: CascadeProfile = task.cascade
        self.regression = task.objective == "regression"
        self.truth = cached.truth
        self.score: Score = "uncertainty" if self.regression else score
        self.range = spread(cached.truth[: task.n_fit])
        large = LatencyTable(encoder.latency)
        self.large = self._values(cached.large, task.temperature)
        self.large_ms = item_ms(large, cached.large.tokens) + hop_ms
        self.small, self.sure = [], []
        for answers, model in zip(cached.small, profile.small, strict=True):
            read = np.isfinite(answers.logits).all(axis=-1)  # what it cannot read is the large model's alone
            values = self._values(answers, model.temperature)
            sure = confidence(answers.logits, self.score, model.temperature, model.power)
            self.small.append(np.where(read[:, None], values, self.large))
            self.sure.append(np.where(read, sure, -np.inf))
        self.small_ms = [
            item_ms(LatencyTable(s.latency), a.tokens) for a, s in zip(cached.small, profile.small, strict=True)
        ]
        self.pruned = {key: self._values(a, task.temperature) for key, a in cached.pruned.items()}
        self.pruned_ms = {key: item_ms(large, a.tokens) + hop_ms for key, a in cached.pruned.items()}
        self.words_cut = cached.words_cut

    def losses(self, values: FloatArray, rows: IntArray) -> NDArray[np.float64]:
        """The losses [n] of the values [n, classes] for the samples `rows`."""
        return losses(values, self.truth[rows], self.range)

    def play(self, setting: Setting, rows: IntArray) -> Course:
        """What becomes of the samples `rows` under a setting."""
        last = setting.chain[-1]
        key = (last, setting.rule) if setting.rule is not None else None
        large = self.large[rows] if key is None else self.pruned[key][rows]
        cost_ms = (self.large_ms if key is None else self.pruned_ms[key])[rows]
        values = blend(self.small[last][rows], large, setting.small_weight)
        answered_by = np.full(len(rows), -1)
        for number, threshold in reversed(list(zip(setting.chain, setting.thresholds, strict=True))):
            sure = accepts(self.sure[number][rows], threshold)
            values = np.where(sure[:, None], self.small[number][rows], values)
            answered_by = np.where(sure, number, answered_by)
            cost_ms = np.where(sure, 0.0, cost_ms) + self.small_ms[number][rows]
        cut = np.zeros(len(rows)) if key is None else np.where(answered_by < 0, self.words_cut[key][rows], 0.0)
        return Course(self.losses(values, rows), cost_ms, answered_by, cut, values)

    def settings(self, fit: IntArray, depth: int) -> Iterator[Setting]:
        """Every candidate, its weight fitted on the samples that it re-routes of `fit`."""
        for length in range(1, depth + 1):
            for chain in combinations(range(len(self.small)), length):
                rules = [None, *self._worthwhile(chain[-1], fit)]
                grids = [self._grid(self.sure[i][fit], STEPS[length]) for i in chain]
                for thresholds, rule in product(product(*grids), rules):
                    plain = Setting(chain, tuple(map(float, thresholds)), rule)
                    yield plain
                    weight = self._weight(plain, fit)
                    if weight > 0.0:
                        yield Setting(chain, plain.thresholds, rule, weight)

    def _worthwhile(self, last: int, fit: IntArray) -> list[int]:
        """The pruning rules behind small model `last` that save some of the large model's time."""
        whole_ms = self.large_ms[fit].mean()
        return [rule for (i, rule), ms in self.pruned_ms.items() if i == last and ms[fit].mean() <= WORTH * whole_ms]

    def _grid(self, sure: FloatArray, steps: int) -> FloatArray:
        """Thresholds: one below all confidences, and quantiles of them."""
        quantiles = np.unique(np.quantile(sure[np.isfinite(sure)], np.linspace(0, 1, steps)))
        return np.asarray([quantiles[0] - 1.0, *quantiles])

    def _weight(self, setting: Setting, fit: IntArray) -> float:
        """The small model's weight with the least log loss (regression: squared error) on re-routed samples."""
        rows = fit[~self.play(setting, fit).early]
        if len(rows) < MIN_FIT:
            return 0.0
        last = setting.chain[-1]
        small = self.small[last][rows]
        large = self.large[rows] if setting.rule is None else self.pruned[last, setting.rule][rows]

        def loss(weight: float) -> float:
            values = blend(small, large, weight)
            if self.regression:
                return float(((values[:, 0] - self.truth[rows]) ** 2).mean())
            return float(-np.log(np.maximum(values[np.arange(len(rows)), self.truth[rows]], 1e-9)).mean())

        best = minimize_scalar(loss, bounds=(0.0, 0.9), method="bounded")
        return round(float(best.x), 3) if best.fun < loss(0.0) else 0.0

    def _values(self, answers: Answers, temperature: float) -> FloatArray:
        return answer(answers.logits, "regression" if self.regression else "classification", temperature)


def spread(truth: NDArray[Any]) -> float:
    """The range of a regression's labels; 1 where they are all the same."""
    return float(np.ptp(truth)) or 1.0


def losses(values: FloatArray, truth: NDArray[Any], span: float) -> NDArray[np.float64]:
    """1 for a wrong class; for a regression the absolute error over the `span` of its labels, at most 1."""
    if truth.dtype.kind == "f":
        return np.asarray(np.minimum(1.0, np.abs(values[:, 0] - truth) / span), dtype=np.float64)
    return np.asarray(values.argmax(axis=-1) != truth, dtype=np.float64)


def hopeless(cached: Cached, config: CascadeConfig, n: int) -> bool:
    """Whether pruning alone already costs too much on the first `n` samples, so that larger scales need no run.

    The large model is compared on pruned and whole texts (p < 0.01, one-sided normal test), as if all were re-routed.
    """
    (answers,) = cached.pruned.values()
    truth = cached.truth[:n]
    whole, short = (losses(one.logits[:n], truth, spread(truth)) for one in (cached.large, answers))
    risk = short - whole if config.max_drop is not None else short
    return bool(risk.mean() - bound(config) > 2.33 * (risk.std() / np.sqrt(n) + 1e-9))


def least_ms(
    losses: tuple[FloatArray, FloatArray], sure: FloatArray, ms: tuple[float, float], config: CascadeConfig
) -> float:
    """The least mean time that a small model could reach without pruning, were its promise judged on these samples.

    `losses` [n] and `ms` are those of the small and of the large model, `sure` [n] the small one's confidence. Tabi's
    early stop: where that is no better than what there is already, the pair is not worth running pruned texts for.
    """
    order = np.argsort(-sure, kind="stable")
    small, large = (one[order] for one in losses)
    risk = np.cumsum(small - large) / len(order) + (0.0 if config.max_drop is not None else large.mean())
    kept = np.flatnonzero(risk <= bound(config))
    early = (kept[-1] + 1) / len(order) if len(kept) else 0.0
    return ms[0] + (1.0 - early) * ms[1]


def bound(config: CascadeConfig) -> float:
    """The risk that a cascade must stay below: loss beyond the large model's, or loss."""
    return config.max_drop if config.max_drop is not None else 1.0 - (config.target_accuracy or 0.0)


def item_ms(table: LatencyTable, tokens: IntArray) -> NDArray[np.float64]:
    """The median time of every sample alone, at the plain level."""
    by_length = {n: table.typical_ms(0, 1, min(max(1, n), table.lengths[-1])) for n in set(tokens.tolist())}
    return np.array([by_length[n] for n in tokens.tolist()])
