"""Token operations in torch: written once, run eagerly on a GPU and exported to ONNX for the CPU.

A function decides and returns the function that applies the decision, as in ToMe (arXiv 2210.09461). All shapes are
static for a given number of tokens, so that each level is one graph; what differs from text to text is data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from elastriton.core.levels import merged


@dataclass(frozen=True)
class Merge:
    """A decision of who merges with whom, as a function: [batch, n, c] -> [batch, n - r, c], the sum of each group.

    `gather` [batch, kept + n_targets, n_sources] is 1 where a source goes to a slot, and None where nothing merges. The
    sum is one matrix product with it: on a CPU that is cheaper than the gathers and scatters it replaces.
    """

    gather: Tensor | None
    kept: int
    protected: int

    def __call__(self, x: Tensor) -> Tensor:
        """The sum of each group, in the order: protected, unmerged sources, targets."""
        if self.gather is None:
            return x
        sources, targets = _split(x, self.protected)
        moved = self.gather @ sources
        return torch.cat([x[:, : self.protected], moved[:, : self.kept], moved[:, self.kept :] + targets], dim=1)

    def largest(self, x: Tensor) -> Tensor:
        """The largest of each group, in the same order, of `x` [batch, n, 1] >= 0."""
        if self.gather is None:
            return x
        sources, targets = _split(x, self.protected)
        moved = (self.gather * sources.transpose(-1, -2)).amax(dim=-1, keepdim=True)
        largest = torch.maximum(moved[:, self.kept :], targets)
        return torch.cat([x[:, : self.protected], moved[:, : self.kept], largest], dim=1)


@dataclass(frozen=True)
class MaskedMerge:
    """The same for texts, all in one 0/1 matrix `gather` [batch, slots, n]: [batch, n, c] -> [batch, slots, c]."""

    gather: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The sum of each group; zeros in empty slots."""
        return self.gather @ x

    def largest(self, x: Tensor) -> Tensor:
        """The largest of each group of `x` [batch, n, 1] >= 0."""
        return (self.gather * x.transpose(-1, -2)).amax(dim=-1, keepdim=True)


def bipartite_soft_matching(metric: Tensor, r: int, protected: int = 1) -> Merge:
    """Match the `r` most similar pairs of tokens and return the function that sums each pair.

    Tokens alternate between a source set (even positions) and a target set (odd positions). Each source finds its most
    similar target by cosine; the `r` sources that are most similar merge, several perhaps into one target. The first
    `protected` tokens (CLS) take no part and stay first.

    `metric` [batch, n, d] describes the tokens (ToMe: the keys, averaged over heads). The result maps
    [batch, n, c] -> [batch, n - r, c], in the order: protected, unmerged sources, targets.

    The sum is one matrix product with a 0/1 matrix: on a CPU that is cheaper than the gathers and scatters it replaces.
    """
    n = metric.shape[1]
    r = merged(n, r, protected)
    if r == 0:
        return Merge(None, 0, protected)
    sources, targets = _split(F.normalize(metric, dim=-1), protected)
    similarity, nearest = (sources @ targets.transpose(-1, -2)).max(dim=-1)  # both [batch, n_sources]
    n_sources, n_targets = sources.shape[1], targets.shape[1]
    kept = n_sources - r

    chosen = similarity.topk(r, dim=-1).indices  # [batch, r]
    positions = torch.arange(n_sources, device=metric.device)
    merges = (chosen[:, :, None] == positions).any(dim=1)  # [batch, n_sources]
    rank = (~merges).to(torch.int64).cumsum(dim=-1) - 1
    slot = torch.where(merges, kept + nearest, rank)  # where each source goes in [kept sources, targets]
    slots = torch.arange(kept + n_targets, device=metric.device)
    gather = (slot[:, None, :] == slots[:, None]).to(metric.dtype)  # [batch, n_slots, n_sources]
    return Merge(gather, kept, protected)


def masked_soft_matching(metric: Tensor, real: Tensor, mergeable: Tensor, r: Tensor, slots: int) -> MaskedMerge:
    """`bipartite_soft_matching` for texts: with padding, protected tokens anywhere, and a number of merges per sample.

    `real` and `mergeable` bool [batch, n] say which tokens are no padding, and which of these may merge; `r` [batch] is
    at most half of a sample's mergeable ones. Sources and targets alternate among the mergeable tokens alone, so that
    neither padding nor the other samples matter. The result maps [batch, n, c] -> [batch, slots, c], each sample in the
    order: protected, unmerged sources, targets, and zeros in the slots that it does not fill.
    """
    rank = mergeable.to(torch.int64).cumsum(dim=-1) - 1
    odd = rank % 2 == 1
    sources, targets = mergeable & odd, mergeable & ~odd
    unit = F.normalize(metric, dim=-1)
    similarity = unit @ unit.transpose(-1, -2)
    best, nearest = similarity.masked_fill(~targets[:, None, :], -2.0).max(dim=-1)  # both [batch, n]
    order = best.masked_fill(~sources, -3.0).argsort(dim=-1, descending=True)
    merges = order.argsort(dim=-1) < r[:, None]

    protected, kept = (real & ~mergeable).to(torch.int64), (sources & ~merges).to(torch.int64)
    behind = protected.sum(dim=-1, keepdim=True)
    slot = torch.where(targets, behind + kept.sum(dim=-1, keepdim=True) + rank // 2, behind + kept.cumsum(dim=-1) - 1)
    slot = torch.where(protected > 0, protected.cumsum(dim=-1) - 1, slot)
    slot = torch.where(merges, slot.gather(-1, nearest), slot)
    slot = torch.where(real, slot, -1)
    gather = (slot[:, None, :] == torch.arange(slots, device=slot.device)[:, None]).to(metric.dtype)
    return MaskedMerge(gather)


def _split(x: Tensor, protected: int) -> tuple[Tensor, Tensor]:
    """The tokens behind the protected ones, by the parity of their position in the whole sequence."""
    first_even = protected + protected % 2
    first_odd = protected + 1 - protected % 2
    return x[:, first_even::2], x[:, first_odd::2]


def merge_weighted(
    merge: Merge | MaskedMerge, x: Tensor, size: Tensor, keep_norm: bool = False
) -> tuple[Tensor, Tensor]:
    """The mean of merged tokens, weighted by how many tokens each stands for: `x` [b, n, c] and `size` [b, n, 1].

    Sizes are 1 or more; an empty slot has size 0 and stays zero. A mean of vectors that differ is shorter than they
    are; `keep_norm` makes it as long as the longest of its parts, as MLERP does for pairs (ToFu, arXiv 2312.01026).
    In float16 the sums are 1/64 of what they are elsewhere: a long token that stands for many would overflow.
    """
    total = merge(size)
    if x.dtype == torch.float16:
        mean = merge(x * (size / 64)) / (total.clamp(min=1) / 64)
    else:
        mean = merge(x * size) / total.clamp(min=1)
    if keep_norm:
        longest = merge.largest(x.norm(dim=-1, keepdim=True))
        mean = mean * (longest / mean.norm(dim=-1, keepdim=True).clamp_min(1e-6))
    return mean, total


def add_prompts(x: Tensor, prompts: Tensor, prefix: int = 1) -> Tensor:
    """Insert `prompts` [batch, p, c] behind the `prefix` tokens (CLS) of `x` [batch, n, c] (VPT, arXiv 2203.12119)."""
    return torch.cat([x[:, :prefix], prompts, x[:, prefix:]], dim=1)


def replace_prompts(x: Tensor, prompts: Tensor, prefix: int = 1) -> Tensor:
    """Put fresh `prompts` [batch, p, c] in the place of the last layer's (VPT-deep)."""
    return torch.cat([x[:, :prefix], prompts, x[:, prefix + prompts.shape[1] :]], dim=1)
