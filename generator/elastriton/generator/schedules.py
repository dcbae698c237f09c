"""Which layer merges how many tokens: `schedule: search` of an encoder.

ToMe merges the same number r in every layer, and the level -r is named after it. But a merge has a price of its own
beside what it saves, and early merges cost more accuracy than late ones (DiffRate, arXiv 2305.17997, learns that).
The search keeps name and time of constant r, and looks for the list of numbers that changes answers least in that time:

1. Measure the plain and the constant levels: the cost of a list is its share of the plain FLOPs, and a price for each
   layer that merges, which is higher at small batches.
2. Propose lists that cost no more than constant r: which layers merge, and whether they do so alike, early or late.
3. Judge them by how far answers to the fit part of the tasks' data move from the plain level's (Kullback-Leibler): all
   on a part of it, the closest on the whole. Candidates are those that move no task's answers further than what stands.
4. Measure the closest candidates in turns with constant r: the closest one that is nowhere slower stands. The budget is
   cut or raised by as much as the times missed constant r's, batch size by batch size (and raised by the margin where
   no list came closer), and 2 to 4 are done again. Where no list ever stands, constant r does.

Not by the loss: on a hard task its noise on some hundred samples is several times what lists differ by, and it sees how
sure answers are as much as which they are. The divergence compares answers sample by sample, and needs no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import le, truediv
from statistics import fmean

from elastriton.core.levels import TokenLevel, flops, token_counts
from elastriton.generator.measure import Advance

MARGIN = 0.98
ROUNDS = 4
CANDIDATES = 3
"""Measured in each round for each level."""
FIRST_LOOK = 3
"""The first look at all proposals is at every third sample; the closer quarter of them is seen on all."""

Shares = tuple[float, ...]
"""Parts of another level's time, one for each batch size that is timed."""

Judge = Callable[[TokenLevel, int], tuple[float, ...]]
"""Each task's mean divergence of a level's answers from the plain level's, on every n-th sample of its fit part."""

Timer = Callable[[Sequence[TokenLevel]], list[tuple[float, ...]]]
"""The median ms of each level, by batch size; the levels take turns."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The predicted time of a list in shares of the plain level's: FLOPs, and a price for each merging layer."""

    tokens: int
    depth: int
    width: int
    patch: int
    protected: int = 1
    prices: Shares = (0.0,)

    def __call__(self, level: TokenLevel) -> Shares:
        """The cost of a merging level; the plain one costs 1."""
        layers = self._merging_layers(level)
        return tuple(self._flops_share(level) + price * layers for price in self.prices)

    def fitted(self, levels: Sequence[TokenLevel], shares: Sequence[Shares]) -> Cost:
        """The same with the prices of a merging layer that explain the measured `shares` of the plain time."""
        prices = [
            [(share - self._flops_share(level)) / self._merging_layers(level) for share in by_batch]
            for level, by_batch in zip(levels, shares, strict=True)
        ]
        return replace(self, prices=tuple(max(0.0, fmean(column)) for column in zip(*prices, strict=True)))

    def effective(self, wanted: Sequence[float]) -> tuple[int, ...]:
        """What the layers really merge of the `wanted` numbers; the last one merges nothing, as nobody reads it."""
        counts = token_counts(TokenLevel(-1, (*map(round, wanted[:-1]), 1)), self.tokens, self.depth, self.protected)
        return (*(before - after for before, after in pairwise(counts[:-1])), 0)

    def _flops_share(self, level: TokenLevel) -> float:
        own, plain = (flops(one, self.tokens, self.depth, self.width, self.patch) for one in (level, TokenLevel(0)))
        return own / plain

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
    cost = cost.fitted(constants, [_shares(times_ms, plain_ms) for times_ms in constant_ms])
    budgets = {level: tuple(MARGIN * share for share in cost(level)) for level in constants}
    found = {level: level for level in constants}
    tried: set[TokenLevel] = set()
    for _ in range(ROUNDS):
        candidates = {}
        for constant, budget in budgets.items():
            advance(f"schedules for level {constant.gamma}")
            proposals = [level for level in propose(constant.gamma, budget, cost) if level not in tried]
            candidates[constant] = closer(proposals, found[constant], judge)[:CANDIDATES]
        levels = [level for some in candidates.values() for level in some]
        advance(f"latency of {len(levels)} schedules")
        times_ms = dict(zip((*constants, *levels), timer([*constants, *levels]), strict=True)) if levels else {}
        for constant, some in candidates.items():
            slower = [_shares(times_ms[level], times_ms[constant]) for level in some]
            standing = (level for level, shares in zip(some, slower, strict=True) if max(shares) <= 1.0)
            found[constant] = next(standing, found[constant])
            missed = map(fmean, zip(*slower, strict=True)) if some else (MARGIN for _ in budgets[constant])
            budgets[constant] = tuple(map(truediv, budgets[constant], missed))
        tried.update(levels)
    return tuple(found.values())


def propose(gamma: int, budget: Shares, cost: Cost) -> list[TokenLevel]:
    """Lists within the budget that merge as little as it allows, each set of layers and each shape once.

    Merging begins in any layer and goes on in every one behind it, every second or third, or in none, to the end or for
    two layers: each merge has its price. The k-th of these layers merges in proportion to 1/k, 1 or k. All but the last
    layer may merge, whose tokens nobody reads.
    """
    lists = dict.fromkeys(_lists(budget, cost))
    return [TokenLevel(gamma, merge, keep_norm=True) for merge in lists]


def closer(levels: Sequence[TokenLevel], standing: TokenLevel, judge: Judge) -> list[TokenLevel]:
    """The levels that are closer to the plain one than `standing` is, and no task's answers further; closest first.

    They are looked for among those that look closest on some of the samples.
    """
    looked = sorted(levels, key=lambda level: fmean(judge(level, FIRST_LOOK)))
    bar = judge(standing, 1)
    fair = [
        level
        for level in looked[: max(CANDIDATES, len(looked) // 4)]
        if judge(level, 1) != bar and all(map(le, judge(level, 1), bar))
    ]
    return sorted(fair, key=lambda level: fmean(judge(level, 1)))


def _lists(budget: Shares, cost: Cost) -> Iterator[tuple[int, ...]]:
    for start in range(cost.depth - 1):
        for stride in (1, 2, 3, cost.depth):
            every = range(start, cost.depth - 1, stride)
            for layers in dict.fromkeys((every, every[:2])):
                for power in (-1, 0, 1) if len(layers) > 1 else (0,):
                    if merge := _mildest([number**power for number in range(1, len(layers) + 1)], layers, budget, cost):
                        yield merge


def _mildest(shape: Sequence[float], layers: Sequence[int], budget: Shares, cost: Cost) -> tuple[int, ...] | None:
    """The list that merges in `layers` in proportion to `shape`, as little as the budget allows, if any does."""
    share = dict(zip(layers, shape, strict=True))
    for most in range(1, cost.tokens // 2 + 1):
        merge = cost.effective([most * share.get(layer, 0.0) / max(shape) for layer in range(cost.depth)])
        if any(merge) and all(map(le, cost(TokenLevel(-1, merge)), budget)):
            return merge
    return None


def _shares(times_ms: Sequence[float], others_ms: Sequence[float]) -> Shares:
    return tuple(map(truediv, times_ms, others_ms))
