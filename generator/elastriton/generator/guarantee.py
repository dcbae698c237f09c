"""Tests that turn "accuracy >= target on this data" into "with probability >= 1 - delta, on all data like it".

Learn-then-Test (arXiv 2110.01052): a setting is certified by rejecting the hypothesis that its risk is too high.
Settings are ordered on other data, the safest first, and tested in that order (`fixed_sequence`): no correction is due
and no monotone risk is asked for. With several knobs the order runs along a Pareto front (arXiv 2210.07913).

| promise | loss of an item | p-value |
|---|---|---|
| accuracy >= 1 - alpha | 0 or 1 | `binomial_p_value` |
| mean loss <= alpha | in [0, 1] | `hoeffding_bentkus_p_value` |
| accuracy >= the large model's - epsilon | loss of the cascade - loss of the large model | `betting_p_value` |

The one assumption: items are drawn independently, from what will be served.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from elastriton.core.errors import ConfigError

MOST_LABELS = 2**18
"""Where `labels_needed` gives up: more labels than anybody will make."""


def binomial_p_value(errors: int, n: int, alpha: float) -> float:
    """Exact p-value of "the error rate is > alpha" after `errors` in `n` items: P(Binomial(n, alpha) <= errors)."""
    _require("alpha", alpha, 0.0, 1.0)
    if not 0 <= errors <= n:
        raise ConfigError(f"{errors} errors in {n} items; pass counts with 0 <= errors <= n")
    return float(special.bdtr(errors, n, alpha))


def hoeffding_bentkus_p_value(losses: ArrayLike, alpha: float) -> float:
    """P-value of "the mean loss is > alpha" from losses [n] in [0, 1] (Bates et al., arXiv 2101.02703).

    For losses of 0 and 1 `binomial_p_value` is exact, and smaller.
    """
    _require("alpha", alpha, 0.0, 1.0)
    values = _items("losses", losses, 0.0)
    n = len(values)
    if n == 0:
        return 1.0
    total = math.fsum(values)  # rounded once, so that a whole sum stays whole under the ceiling
    mean = min(total / n, alpha)
    hoeffding = math.exp(-n * (special.rel_entr(mean, alpha) + special.rel_entr(1.0 - mean, 1.0 - alpha)))
    bentkus = math.e * float(special.bdtr(math.ceil(total), n, alpha))
    return min(1.0, hoeffding, bentkus)


def betting_p_value(differences: ArrayLike, epsilon: float, delta: float) -> float:
    """P-value of "the mean is > epsilon" from differences [n] in [-1, 1]: the cascade's loss - the large model's.

    A gambler bets on each item, before seeing it, that it falls below epsilon. Under the hypothesis the wealth is a
    supermartingale that starts at 1, so 1 / its maximum is a p-value (Waudby-Smith and Ramdas, arXiv 2010.09686).
    `delta` is the level that the sizes of the bets are tuned for.

    The items must be in random order (those of `splits` are): bets would profit from sorted ones. No items: 1.0.
    """
    _require("epsilon", epsilon, 0.0, 1.0)
    _require("delta", delta, 0.0, 1.0, open_below=True)
    values = _items("differences", differences, -1.0)
    n = len(values)
    if n == 0:
        return 1.0
    count = np.arange(2, n + 2)
    mean = np.cumsum(values) / count
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / count
    known = np.concatenate([[0.25], variance[:-1]])  # what is known of the variance before each item
    bets = np.minimum(0.75 / (1.0 - epsilon), np.sqrt(2.0 * math.log(1.0 / delta) / (n * known)))
    log_wealth = np.cumsum(np.log1p(bets * (epsilon - values)))
    return min(1.0, math.exp(-float(log_wealth.max())))


def fixed_sequence(p_values: Iterable[float], delta: float) -> int:
    """How many hypotheses, from the first on, are rejected: all before the first p-value > delta.

    The chance that any true one is among them is <= delta, if their order was fixed before seeing the data of the
    p-values. The setting to deploy is the last rejected; with 0, none is certified. Lazy p-values are asked no further.
    """
    _require("delta", delta, 0.0, 1.0, open_below=True)
    rejected = 0
    for p_value in p_values:
        if not p_value <= delta:
            break
        rejected += 1
    return rejected


def pareto_order(risk: Sequence[float], cost: Sequence[float]) -> tuple[int, ...]:
    """The indices of the settings that no other beats in both risk and cost, by rising risk and so falling cost.

    For Pareto testing: test them in this order, on samples that had no say in it.
    Of settings with equal risk and cost the first is kept.
    """
    front: list[int] = []
    for index in sorted(range(len(risk)), key=lambda i: (risk[i], cost[i])):
        if not front or cost[index] < cost[front[-1]]:
            front.append(index)
    return tuple(front)


def upper_bound(errors: int, n: int, delta: float) -> float:
    """The error rate that the true one exceeds with probability <= delta (Clopper and Pearson, 1934); 1.0 for n = 0."""
    _require("delta", delta, 0.0, 1.0, open_below=True)
    if not 0 <= errors <= n:
        raise ConfigError(f"{errors} errors in {n} items; pass counts with 0 <= errors <= n")
    return 1.0 if errors == n else float(stats.beta.ppf(1.0 - delta, errors + 1, n - errors))


def labels_needed(error_rate: float, alpha: float, delta: float) -> int | None:
    """The least number of labels at which an empirical `error_rate`, rounded up to whole errors, certifies alpha.

    None where error_rate >= alpha, or where MOST_LABELS would not do.
    """
    _require("delta", delta, 0.0, 1.0, open_below=True)
    _require("alpha", alpha, 0.0, 1.0)
    if error_rate >= alpha:
        return None
    start = 1
    while start < MOST_LABELS:
        n = np.arange(start, 2 * start)
        errors = np.ceil(n * error_rate - 1e-9)  # 100 x 0.07 is 7 errors, not 8
        passing = special.bdtr(errors, n, alpha) <= delta
        if passing.any():
            return int(n[passing.argmax()])
        start *= 2
    return None


def accuracy_needed(n: int, target: float, delta: float) -> float | None:
    """The smallest empirical accuracy on `n` labels that certifies accuracy >= target; None where not even 1.0 does."""
    _require("delta", delta, 0.0, 1.0, open_below=True)
    alpha = 1.0 - target
    _require("1 - target", alpha, 0.0, 1.0)
    errors = int(stats.binom.ppf(delta, n, alpha))
    while errors >= 0 and binomial_p_value(errors, n, alpha) > delta:
        errors -= 1
    return None if errors < 0 else 1.0 - errors / n


def _require(name: str, value: float, low: float, high: float, *, open_below: bool = False) -> None:
    if not (low < value < high or (value == low and not open_below)):
        raise ConfigError(f"{name} is {value}; pass a number in {'(' if open_below else '['}{low:g}, {high:g})")


def _items(name: str, values: ArrayLike, low: float) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    inside = (array >= low) & (array <= 1.0)
    if array.ndim != 1 or not inside.all():
        seen = f"shape {array.shape}" if array.ndim != 1 else f"{array[~inside][0]}"
        raise ConfigError(f"{name} hold {seen}; pass one number in [{low:g}, 1] per item: divide by the largest loss")
    return array
