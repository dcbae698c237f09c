"""Buckets: the few shapes that an encoder runs in where each shape has a price of its own, as CUDA graphs have.

A batch is padded to the next bucket. Samples repeat the first one, so that every row is a valid input; tokens are
zeros with a mask of 0, as in texts.pad, and change nothing for a text (bert.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from elastriton.core.errors import InvalidInput

if TYPE_CHECKING:
    from elastriton.runtime.executor import Arrays


@dataclass(frozen=True)
class Buckets:
    """Batch sizes, ascending, and for texts lengths in tokens, ascending; images have no lengths."""

    batches: tuple[int, ...]
    lengths: tuple[int, ...] = ()

    @classmethod
    def up_to(cls, max_batch: int, lengths: Sequence[int] = ()) -> Buckets:
        """The powers of two below `max_batch` and `max_batch` itself; `lengths` as they were measured."""
        powers = (2**i for i in range((max_batch - 1).bit_length()))
        return cls((*powers, max_batch), tuple(sorted(set(lengths))))

    def shapes(self) -> list[tuple[int, int]]:
        """Every (batch, length), the largest first: what the small ones need then fits where the large ones were."""
        return [(batch, length) for length in (self.lengths or (0,))[::-1] for batch in self.batches[::-1]]

    def steps(self) -> tuple[int, ...]:
        """The batch sizes to measure: every bucket and the first size behind it, since time is flat between these."""
        return tuple(sorted({*self.batches, *(batch + 1 for batch in self.batches[:-1])}))

    def pad(self, inputs: Arrays) -> Arrays:
        """The inputs of one batch, padded to the smallest bucket that holds them.

        Raises InvalidInput where none does.
        """
        batch = len(next(iter(inputs.values())))
        missing = _smallest(self.batches, batch, "the batch has {} samples") - batch
        width = inputs["input_ids"].shape[1] if self.lengths else 0
        padding = _smallest(self.lengths, width, "the longest text has {} tokens") - width if self.lengths else 0
        padded = {
            name: np.pad(array, ((0, 0), (0, padding))) if padding and array.ndim == 2 else array  # prompts have four
            for name, array in inputs.items()
        }
        if not missing:
            return padded
        return {name: np.concatenate([array, array[:1].repeat(missing, axis=0)]) for name, array in padded.items()}


def _smallest(sizes: tuple[int, ...], wanted: int, what: str) -> int:
    for size in sizes:
        if size >= wanted:
            return size
    raise InvalidInput(f"{what.format(wanted)}, at most {sizes[-1]} are allowed")
