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
    """A decision of who merges with whom, as functions from [batch, n, c] to [batch, n - r, c].

    Tokens that stay as they are, and those that move, are gathered as whole rows of [batch x n, c]: `kept` [batch, k]
    and `moved` [batch, r] are row numbers. `into` [batch, n_targets, r] is 1 where a moved token joins a target. So the
    merged tokens alone cost arithmetic, and no scatter is needed: on a CPU that is cheaper than the usual form.
    """

    kept: Tensor
    moved: Tensor
    into: Tensor
    protected: int

    def __call__(self, x: Tensor) -> Tensor:
        """The sum of each group, in the order: protected, unmerged sources, targets; `x` itself where none moves."""
        if self.moved.shape[1] == 0:
            return x
        kept, targets, moved = self._parts(x)
        return torch.cat([kept, targets + self.into @ moved], dim=1)

    def weighted(self, x: Tensor, size: Tensor, keep_norm: bool = False) -> tuple[Tensor, Tensor]:
        """The mean of each group, weighted by the `size` [batch, n, 1] >= 1 of its tokens, and the sum of the sizes.

        A mean of vectors that differ is shorter than they are; `keep_norm` makes it as long as the longest of its
        parts, as MLERP does for pairs (ToFu, arXiv 2312.01026).
        """
        if self.moved.shape[1] == 0:
            return x, size
        kept, targets, moved = self._parts(x)
        kept_size, target_size, moved_size = self._parts(size)
        total = target_size + self.into @ moved_size
        share = self.into * moved_size.transpose(-1, -2) / total  # at most 1: sums would overflow float16
        mean = targets * (target_size / total) + share @ moved
        if keep_norm:
            lengths = self.into * moved.norm(dim=-1)[:, None]
            longest = torch.maximum(targets.norm(dim=-1, keepdim=True), lengths.amax(dim=-1, keepdim=True))
            mean = mean * (longest / mean.norm(dim=-1, keepdim=True).clamp_min(1e-6))
        return torch.cat([kept, mean], dim=1), torch.cat([kept_size, total], dim=1)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = x.reshape(-1, x.shape[-1])
        return F.embedding(self.kept, rows), _split(x, self.protected)[1], F.embedding(self.moved, rows)


@dataclass(frozen=True)
class MaskedMerge:
    """The same for texts, all in one 0/1 matrix `gather` [batch, slots, n]: [batch, n, c] -> [batch, slots, c]."""

    gather: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The sum of each group; zeros in empty slots."""
        return self.gather @ x

    def weighted(self, x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of each group, weighted by `size` [batch, n, 1], and the sum of the sizes; 0 in empty slots."""
        total = self.gather @ size
        share = self.gather * size.transpose(-1, -2) / total.clamp(min=1)  # at most 1: sums would overflow float16
        return share @ x, total


def bipartite_soft_matching(metric: Tensor, r: int, protected: int = 1) -> Merge:
    """Match the `r` most similar pairs of tokens and return what merges each pair.

    Tokens alternate between a source set (even positions) and a target set (odd positions). Each source finds its most
    similar target by cosine; the `r` sources that are most similar merge, several perhaps into one target. The first
    `protected` tokens (CLS) take no part and stay first.

    `metric` [batch, n, d] describes the tokens (ToMe: the keys, averaged over heads). The result maps
    [batch, n, c] -> [batch, n - r, c], in the order: protected, unmerged sources, targets.
    """
    b, n, _ = metric.shape
    r = merged(n, r, protected)
    if r == 0:
        nobody = torch.empty(b, 0, dtype=torch.int64, device=metric.device)
        return Merge(nobody, nobody, metric.new_empty(b, 0, 0), protected)
    unit = metric / metric.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    sources, targets = _split(unit, protected)
    similarity, nearest = (sources @ targets.transpose(-1, -2)).max(dim=-1)  # both [batch, n_sources]
    order = similarity.topk(sources.shape[1], dim=-1).indices
    joined = nearest.gather(-1, order[:, :r])  # [batch, r]
    into = joined[:, None, :] == torch.arange(targets.shape[1], device=metric.device)[:, None]

    sample = n * torch.arange(b, device=metric.device)[:, None]  # its first row in [batch x n, c]
    kept = sample + torch.arange(protected, device=metric.device)
    rows = 2 * order + (sample + _first_even(protected))
    if r < sources.shape[1]:
        rest = rows[:, r:].topk(sources.shape[1] - r, dim=-1, largest=False).values  # in the order of positions
        kept = torch.cat([kept, rest], dim=1)
    return Merge(kept, rows[:, :r], into.to(metric.dtype), protected)


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
    return x[:, _first_even(protected) :: 2], x[:, protected + 1 - protected % 2 :: 2]


def _first_even(protected: int) -> int:
    return protected + protected % 2


def add_prompts(x: Tensor, prompts: Tensor, prefix: int = 1) -> Tensor:
    """Insert `prompts` [batch, p, c] behind the `prefix` tokens (CLS) of `x` [batch, n, c] (VPT, arXiv 2203.12119)."""
    return torch.cat([x[:, :prefix], prompts, x[:, prefix:]], dim=1)


def replace_prompts(x: Tensor, prompts: Tensor, prefix: int = 1) -> Tensor:
    """Put fresh `prompts` [batch, p, c] in the place of the last layer's (VPT-deep)."""
    return torch.cat([x[:, :prefix], prompts, x[:, prefix + prompts.shape[1] :]], dim=1)
