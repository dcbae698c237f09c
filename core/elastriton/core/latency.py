"""How long a batch takes at a token level: the measured table that every decision rests on."""

from __future__ import annotations

import math
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
    Every prediction is multiplied by `inflation`, which `observe` keeps at what the machine turns out to need.
    """

    RISE = 0.05
    MAX_INFLATION = 4.0

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
        self.inflation = 1.0
        self._cost_ms: dict[tuple[int, int], float] = {}
        every = np.arange(self.max_batch + 1)
        self._ms: dict[int, list[list[float]]] = {
            gamma: [np.interp(every, batches, row).tolist() for row in plane]
            for gamma, plane in zip(gammas, grid, strict=True)
        }

    def predict_ms(self, gamma: int, batch: int, length: int) -> float:
        """The p99 in ms of `batch` samples whose longest has `length` tokens; sizes beyond the table are errors."""
        return self.inflation * self._measured_ms(gamma, length)[batch]

    def observe(self, predicted_ms: float, took_ms: float) -> None:
        """Note how long a batch took that was predicted to take `predicted_ms` (inflation included).

        The inflation follows the 99th percentile of the error by stochastic approximation (Robbins and Monro, 1951):
        a step up where a batch took longer, a ninety-ninth of it down where it did not. It never falls below 1.
        """
        step = self.RISE if took_ms > predicted_ms else -self.RISE / 99.0
        self.inflation = min(self.MAX_INFLATION, max(1.0, self.inflation * math.exp(step)))

    def _measured_ms(self, gamma: int, length: int) -> list[float]:
        for row, measured in zip(self._ms[gamma], self.lengths, strict=True):
            if length <= measured:
                return row
        raise ConfigError(f"length {length} is above {self.lengths[-1]}, the longest measured one")

    def cost_ms(self, gamma: int, length: int) -> float:
        """The executor's time per sample in ms, in batches of the best size."""
        key = (gamma, length)
        if key not in self._cost_ms:
            row = self._measured_ms(gamma, length)
            self._cost_ms[key] = min(row[batch] / batch for batch in range(1, self.max_batch + 1))
        return self.inflation * self._cost_ms[key]

    def fastest_ms(self, length: int, gammas: Sequence[int]) -> float:
        """The p99 in ms of one sample alone at the fastest of `gammas`."""
        return min(self.predict_ms(gamma, 1, length) for gamma in gammas)
