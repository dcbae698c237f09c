"""Token levels: the operating points of one resident encoder.

A level gamma is a schedule. gamma < 0 merges tokens in every layer (ToMe, arXiv 2210.09461), gamma = 0 is the plain
encoder, gamma > 0 adds gamma prompt tokens behind CLS (VPT, arXiv 2203.12119).

All images of an encoder have equally many tokens, texts have not. For images -gamma is the number of tokens that each
layer merges; for texts it is the percentage of the text's own tokens, so that a level means the same at every length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from elastriton.core.errors import ConfigError

SPECIAL_TOKENS = 4
"""So many tokens of a text never merge: CLS and its last three separators (a pair for RoBERTa has all four)."""


@dataclass(frozen=True, slots=True)
class TokenLevel:
    """One operating point: layer i merges `merge[i]` tokens (of a text: per cent), `prompts` tokens stand in front.

    A merged token is the weighted mean of its parts (ToMe); with `keep_norm` it is as long as the longest of them.
    """

    gamma: int
    merge: tuple[int, ...] = ()
    prompts: int = 0
    keep_norm: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError where the sign of gamma and the schedule disagree."""
        if self.gamma < 0 and (self.prompts or sum(self.merge) <= 0 or min(self.merge) < 0):
            raise ConfigError(f"level {self.gamma} merges: its schedule must merge something and add no prompts")
        if self.gamma >= 0 and (any(self.merge) or self.prompts != self.gamma):
            raise ConfigError(f"level {self.gamma} merges nothing and adds {self.gamma} prompts, not {self.prompts}")


def constant_level(gamma: int, depth: int) -> TokenLevel:
    """The level of ToMe and VPT: |gamma| tokens merged in each of `depth` layers, or gamma prompts."""
    return TokenLevel(gamma, (-gamma,) * depth) if gamma < 0 else TokenLevel(gamma, prompts=gamma)


def merged(tokens: int, wanted: int, protected: int = 1) -> int:
    """How many of `tokens` a layer really merges: at most half of those that are not protected (ToMe)."""
    return max(0, min(wanted, (tokens - protected) // 2))


def token_counts(level: TokenLevel, tokens: int, depth: int, protected: int = 1) -> tuple[int, ...]:
    """The number of tokens that enters each layer, and that leaves the last: `depth + 1` numbers."""
    counts = [tokens + level.prompts]
    for layer in range(depth):
        wanted = level.merge[layer] if layer < len(level.merge) else 0
        counts.append(counts[-1] - merged(counts[-1], wanted, protected))
    return tuple(counts)


def merged_shares(level: TokenLevel, depth: int) -> tuple[int, ...]:
    """Of a text: how many per cent of its tokens have gone before each layer, and behind the last: `depth + 1` numbers.

    No layer merges more than half of what it has.
    """
    left = [100]
    for layer in range(depth):
        wanted = level.merge[layer] if layer < len(level.merge) else 0
        left.append(max(left[-1] - wanted, (left[-1] + 1) // 2))
    return tuple(100 - share for share in left)


def flops(level: TokenLevel, tokens: int, depth: int, width: int, patch: int) -> float:
    """Multiply-adds x 2 of one image in a vision transformer with MLPs of 4 x `width` and patches of `patch` pixels.

    What the encoder must compute: the last block computes CLS alone, and merging counts nothing.
    """
    return 6.0 * patch**2 * width * (tokens - 1) + _block_flops(token_counts(level, tokens, depth), width)


def text_flops(level: TokenLevel, tokens: int, depth: int, width: int) -> float:
    """The same of one text of `tokens` tokens without padding, embeddings and pooler left out."""
    shares = merged_shares(level, depth - 1)
    return _block_flops([tokens - max(0, tokens - SPECIAL_TOKENS) * share // 100 for share in shares] + [1], width)


def _block_flops(counts: Sequence[int], width: int) -> float:
    """`counts` are as in `token_counts`; what leaves the last layer is CLS alone, whatever they say."""
    total = 0.0
    for enters, leaves in pairwise(counts[:-1]):
        total += (8 * enters + 16 * leaves) * width**2 + 4 * enters**2 * width
    return total + (4 * counts[-2] + 20) * width**2 + 4 * counts[-2] * width
