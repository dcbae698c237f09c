"""Which layer merges how many tokens: `schedule: search` of an encoder.

ToMe merges the same number r in every layer, and the level -r is named after it. But a merge has a price of its own
beside what it saves, and early merges cost more accuracy than late ones (DiffRate, arXiv 2305.17997, learns that).
The search keeps name and time of constant r, and looks for the list of numbers that changes answers least in that time:

1. Measure the plain and the constant levels: the cost of a list is its share of the plain FLOPs, and a price for each
   layer that merges.
2. Propose lists that cost no more than constant r: which layers merge, and whether they do so alike, early or late.
3. Judge them by how far answers to the fit part of the tasks' data move from the plain level's (Kullback-Leibler): all
   on a part of it, the closest on the whole. The one with the least mean is chosen among those that no task loses by.
4. Measure it in turns with constant r. It stands where it is nowhere slower. The budget is cut or raised by as much as
   the measured time missed constant r's, and 2 to 4 are done again. What never stands leaves constant r.

Not by the loss: on a hard task its noise on some hundred samples is several times what lists differ by, and it sees how
sure answers are as much as which they are. The divergence compares answers sample by sample, and needs no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import le
from statistics import fmean

from elastriton.core.levels import TokenLevel, flops, token_counts
from elastriton.generator.measure import Advance

MARGIN = 0.98
ROUNDS = 4
FIRST_LOOK = 3
"""The first look at all proposals is at every third sample; the closer quarter of them is seen on all."""

Judge = Callable[[TokenLevel, int], tuple[float, ...]]
"""Each task's mean divergence of a level's answers from the plain level's, on every n-th sample of its fit part."""

Timer = Callable[[Sequence[TokenLevel]], list[tuple[float, ...]]]
"""The median ms of each level, by batch size; the levels take turns."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The predicted time of a list as a share of the plain level's: FLOPs, and `merge_share` for each merging layer."""

    tokens: int
    depth: int
    width: int
    patch: int
    protected: int = 1
    merge_share: float = 0.0

    def __call__(self, level: TokenLevel) -> float:
        """The cost of a merging level; the plain one costs 1."""
        return self._flops(level) / self._flops(TokenLevel(0)) + self.merge_share * self._merging_layers(level)

    def fitted(self, levels: Sequence[TokenLevel], shares: Sequence[float]) -> Cost:
        """The same with the price of a merging layer that explains the measured `shares` of the plain time."""
        prices = [
            (share - self._flops(level) / self._flops(TokenLevel(0))) / self._merging_layers(level)
            for level, share in zip(levels, shares, strict=True)
        ]
        price = max(0.0, fmean(prices))
        return Cost(self.tokens, self.depth, self.width, self.patch, self.protected, price)

    def effective(self, wanted: Sequence[float]) -> tuple[int, ...]:
        """What the layers really merge of the `wanted` numbers; the last one merges nothing, as nobody reads it."""
        counts = token_counts(TokenLevel(-1, (*map(round, wanted[:-1]), 1)), self.tokens, self.depth, self.protected)
        return (*(before - after for before, after in pairwise(counts[:-1])), 0)

    def _flops(self, level: TokenLevel) -> float:
        return flops(level, self.tokens, self.depth, self.width, self.patch)

    def _merging_layers(self, level: TokenLevel) -> int:
        return sum(merge > 0 for merge in self.effective(level.merge))


def search(
    constants: Sequence[TokenLevel], cost: Cost, judge: Judge, timer: Timer, advance: Advance
) -> tuple[TokenLevel, ...]:
    """For each constant merging level, the closest one of the same name, at no task's cost and nowhere slower.

    Closest on the fit part; the accuracy on other samples is the profile's to say.
    """
    advance("latency of the constant schedules")
    plain_ms, *constant_ms = timer([TokenLevel(0), *constants])
    cost = cost.fitted(constants, [fmean(_shares(times_ms, plain_ms)) for times_ms in constant_ms])
    budgets = {level: MARGIN * cost(level) for level in constants}
    found = {level: level for level in constants}
    for _ in range(ROUNDS):
        best = {}
        for constant, budget in budgets.items():
            advance(f"schedules for level {constant.gamma}")
            proposals = propose(constant.gamma, budget, cost)
            if (level := closest([found[constant], *proposals], judge)) != found[constant]:
                best[constant] = level
        if not best:
            break
        advance("latency of the best schedules")
        times_ms = timer([*best, *best.values()])
        for (constant, level), old_ms, new_ms in zip(best.items(), times_ms, times_ms[len(best) :], strict=False):
            slower = max(_shares(new_ms, old_ms))
            if slower <= 1.0:
                found[constant] = level
            budgets[constant] /= slower
    return tuple(found.values())


def propose(gamma: int, budget: float, cost: Cost) -> list[TokenLevel]:
    """Lists within the budget that merge as little as it allows, each set of layers and each shape once.

    Merging begins in any layer and goes on in every one behind it, every second or third, or in none, to the end or for
    two layers: each merge has its price. The k-th of these layers merges in proportion to 1/k, 1 or k. All but the last
    layer may merge, whose tokens nobody reads.
    """
    lists = dict.fromkeys(_lists(budget, cost))
    return [TokenLevel(gamma, merge, keep_norm=True) for merge in lists]


def closest(levels: Sequence[TokenLevel], judge: Judge) -> TokenLevel:
    """The level closest to the plain one on all samples, among those that look it on some and that no task loses by.

    The first level is what a task could lose to, and stands where no other one is better.
    """
    first, *others = levels
    looked = sorted(others, key=lambda level: fmean(judge(level, FIRST_LOOK)))
    seen = looked[: max(3, len(looked) // 4)]
    fair = (level for level in seen if all(map(le, judge(level, 1), judge(first, 1))))
    return min((first, *fair), key=lambda level: fmean(judge(level, 1)))


def _lists(budget: float, cost: Cost) -> Iterator[tuple[int, ...]]:
    for start in range(cost.depth - 1):
        for stride in (1, 2, 3, cost.depth):
            every = range(start, cost.depth - 1, stride)
            for layers in dict.fromkeys((every, every[:2])):
                for power in (-1, 0, 1) if len(layers) > 1 else (0,):
                    if merge := _mildest([number**power for number in range(1, len(layers) + 1)], layers, budget, cost):
                        yield merge


def _mildest(shape: Sequence[float], layers: Sequence[int], budget: float, cost: Cost) -> tuple[int, ...] | None:
    """The list that merges in `layers` in proportion to `shape`, as little as the budget allows, if any does."""
    share = dict(zip(layers, shape, strict=True))
    for most in range(1, cost.tokens // 2 + 1):
        merge = cost.effective([most * share.get(layer, 0.0) / max(shape) for layer in range(cost.depth)])
        if any(merge) and cost(TokenLevel(-1, merge)) <= budget:
            return merge
    return None


def _shares(times_ms: Sequence[float], others_ms: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(times_ms, others_ms, strict=True)]
