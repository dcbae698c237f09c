"""The promise kept: 500 times fresh data of a synthetic two-level cascade, split, ordered, certified, and judged.

The data's law is known, so the true risk of every setting is too. A violation is a deployed setting that breaks its
target; the tests allow delta and three standard errors, and show that the empirical choice breaks it far more often.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from elastriton.generator.guarantee import betting_p_value, binomial_p_value, fixed_sequence, pareto_order
from elastriton.generator.splits import splits

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REPEATS, DELTA = 500, 0.1


@dataclass(frozen=True)
class World:
    """Items with a confidence, and each level's error: drawn (0 or 1) and as the chance it was drawn with."""

    confidence: Floats
    small_wrong: Floats
    large_wrong: Floats
    small_risk: Floats
    large_risk: Floats


def absolute_world(n: int, generator: np.random.Generator) -> World:
    """Both levels err less where the small one is confident."""
    confidence = 0.5 + 0.5 * generator.beta(6.0, 1.2, n)
    small, large = 1.02 - confidence, 0.10 - 0.18 * (confidence - 0.5)
    wrong = (generator.random((2, n)) < np.stack([small, large])).astype(float)
    return World(confidence, wrong[0], wrong[1], small, large)


def relative_world(n: int, generator: np.random.Generator) -> World:
    """Both levels err on the same hard items, and the large one now and then for no reason."""
    hardness = generator.beta(0.6, 3.5, n)
    confidence = np.clip(1.0 - 0.7 * hardness + generator.normal(0.0, 0.03, n), 0.5, 1.0)
    luck, slip = generator.random(n), generator.random(n) < 0.01
    small, large = luck <= 0.62 * hardness, (luck <= 0.33 * hardness) ^ slip
    large_risk = 0.33 * hardness * 0.99 + (1.0 - 0.33 * hardness) * 0.01
    return World(confidence, small.astype(float), large.astype(float), 0.62 * hardness, large_risk)


def early(world: World, thresholds: Floats) -> Bools:
    """Who is answered early at each threshold: [thresholds, n]."""
    return np.asarray(world.confidence >= thresholds[:, None])


def losses(world: World, thresholds: Floats) -> Floats:
    return np.where(early(world, thresholds), world.small_wrong, world.large_wrong)


def drops(world: World, thresholds: Floats) -> Floats:
    return np.where(early(world, thresholds), world.small_wrong - world.large_wrong, 0.0)


def part(world: World, items: NDArray[np.int64]) -> World:
    return World(*(getattr(world, name)[items] for name in World.__dataclass_fields__))


P_VALUES: dict[str, Callable[[Floats, float], float]] = {
    "absolute": lambda values, limit: binomial_p_value(int(values.sum()), len(values), limit),
    "relative": lambda values, limit: betting_p_value(values, limit, DELTA),
}
WORLDS = {"absolute": absolute_world, "relative": relative_world}
RISKS = {"absolute": losses, "relative": drops}


def certified(kind: str, world: World, limit: float, seed: int) -> float:
    """The threshold that fit, order and certify lead to; above every confidence where none is certified."""
    n = len(world.confidence)
    parts = splits(n, n // 10, 1 / 3, seed)
    candidates = np.append(np.quantile(part(world, parts.fit).confidence, np.linspace(0.0, 0.98, 25)), 2.0)
    ordering, certifying = part(world, parts.order), part(world, parts.certify)
    seen = RISKS[kind](ordering, candidates)
    front = pareto_order(seen.mean(axis=1).tolist(), (-early(ordering, candidates).mean(axis=1)).tolist())
    ordered = sorted(front, key=lambda index: P_VALUES[kind](seen[index], limit))
    held_out = RISKS[kind](certifying, candidates[ordered])
    count = fixed_sequence((P_VALUES[kind](values, limit) for values in held_out), DELTA)
    return float(candidates[ordered[count - 1]]) if count else math.inf


def empirical(kind: str, world: World, limit: float) -> float:
    """The threshold with the most early returns whose risk on all of the data is within the limit."""
    candidates = np.append(np.quantile(world.confidence, np.linspace(0.0, 0.98, 100)), 2.0)
    allowed = RISKS[kind](world, candidates).mean(axis=1) <= limit
    return float(candidates[allowed.argmax()]) if allowed.any() else math.inf


@dataclass(frozen=True)
class Outcome:
    violations: float
    early_return: float


def true_risks(kind: str, thresholds: Floats) -> tuple[Floats, Floats]:
    """The risk and the early-return share of each threshold under the data's law: sums over a large sorted sample."""
    law = WORLDS[kind](400_000, np.random.default_rng(12345))
    order = np.argsort(-law.confidence)
    gain = np.concatenate([[0.0], np.cumsum((law.small_risk - law.large_risk)[order])]) / len(order)
    returned = np.searchsorted(-law.confidence[order], -thresholds, side="right")
    base = law.large_risk.mean() if kind == "absolute" else 0.0
    return base + gain[returned], returned / len(order)


def judge(kind: str, limit: float, thresholds: list[float]) -> Outcome:
    """How often the thresholds break the limit; a cascade that certified nothing has promised nothing."""
    risk, share = true_risks(kind, np.array(thresholds))
    promised = np.isfinite(thresholds)
    return Outcome(float((promised & (risk > limit)).mean()), float(share.mean()))


@pytest.mark.parametrize(
    ("kind", "n", "limit"),
    [("absolute", 1500, 0.06), ("relative", 2000, 0.01)],
)
def test_the_certified_cascade_keeps_its_promise_and_the_empirical_one_does_not(
    kind: str, n: int, limit: float
) -> None:
    generator = np.random.default_rng(7)
    worlds = [WORLDS[kind](n, generator) for _ in range(REPEATS)]
    ours = judge(kind, limit, [certified(kind, world, limit, seed) for seed, world in enumerate(worlds)])
    naive = judge(kind, limit, [empirical(kind, world, limit) for world in worlds])
    standard_error = math.sqrt(DELTA * (1 - DELTA) / REPEATS)
    assert ours.violations <= DELTA + 3 * standard_error
    assert naive.violations >= DELTA + 10 * standard_error
    assert 0.2 < ours.early_return < naive.early_return  # the promise costs early returns, and leaves some


def test_a_large_model_that_misses_the_target_is_not_certified() -> None:
    """Nothing below the large model's own error can be promised: at most delta of the runs find otherwise."""
    generator = np.random.default_rng(8)
    worlds = [absolute_world(1500, generator) for _ in range(200)]
    best = true_risks("absolute", np.linspace(0.5, 1.01, 500))[0].min()
    promised = [math.isfinite(certified("absolute", world, 0.9 * best, seed)) for seed, world in enumerate(worlds)]
    assert np.mean(promised) <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / len(worlds))
