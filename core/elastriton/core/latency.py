"""How long a batch takes at a token level: the measured table that every decision rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from elastriton.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: `runs` timed runs of `batch` samples of `length` tokens at level `gamma`."""

    gamma: int
    length: int
    batch: int
    p50_ms: float
    p99_ms: float
    runs: int


class LatencyTable:
    """Predicts the p99 of a batch, in ms, for any batch size and length between the measured ones.

    Lengths are rounded up to the next measured one and batch sizes are interpolated. The measurements are made
    monotone first: more samples or more tokens never take less time (noise would say otherwise here and there).
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        """Raises ConfigError where a cell of the grid gamma x length x batch is missing."""
        measured = {(cell.gamma, cell.length, cell.batch): cell.p99_ms for cell in cells}
        gammas, lengths, batches = (sorted({key[axis] for key in measured}) for axis in range(3))
        missing = len(gammas) * len(lengths) * len(batches) - len(measured)
        if missing or not measured:
            raise ConfigError(f"the latency table lacks {missing or 'all'} of its cells; measure it again")
        grid = np.array([[[measured[g, n, b] for b in batches] for n in lengths] for g in gammas])
        grid = np.maximum.accumulate(np.maximum.accumulate(grid, axis=1), axis=2)
        self.gammas: tuple[int, ...] = tuple(gammas)
        self.lengths: tuple[int, ...] = tuple(lengths)
        self.max_batch: int = batches[-1]
        self._cost_ms: dict[tuple[int, int], float] = {}
        every = np.arange(self.max_batch + 1)
        self._ms: dict[int, list[list[float]]] = {
            gamma: [np.interp(every, batches, row).tolist() for row in plane]
            for gamma, plane in zip(gammas, grid, strict=True)
        }

    def predict_ms(self, gamma: int, batch: int, length: int) -> float:
        """The p99 in ms of `batch` samples whose longest has `length` tokens; sizes beyond the table are errors."""
        return self.row_ms(gamma, length)[batch]

    def row_ms(self, gamma: int, length: int) -> list[float]:
        """The p99 in ms by batch size, 0 … max_batch."""
        for row, measured in zip(self._ms[gamma], self.lengths, strict=True):
            if length <= measured:
                return row
        raise ConfigError(f"length {length} is above {self.lengths[-1]}, the longest measured one")

    def cost_ms(self, gamma: int, length: int) -> float:
        """The executor's time per sample in ms, in batches of the best size."""
        key = (gamma, length)
        if key not in self._cost_ms:
            each = (self.predict_ms(gamma, batch, length) / batch for batch in range(1, self.max_batch + 1))
            self._cost_ms[key] = min(each)
        return self._cost_ms[key]

    def fastest_ms(self, length: int, gammas: Sequence[int]) -> float:
        """The p99 in ms of one sample alone at the fastest of `gammas`."""
        return min(self.predict_ms(gamma, 1, length) for gamma in gammas)
