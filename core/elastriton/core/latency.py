"""How long a batch takes at a token level: the measured table that every decision rests on."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastriton.core.drift import Drift
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
    """Predicts how long a batch takes, in ms, for any batch size and length between the measured ones.

    Lengths are rounded up to the next measured one and batch sizes are interpolated. The measurements are made
    monotone first: more samples or more tokens never take less time (noise would say otherwise here and there).
    Predictions are multiplied by what `drift` has learnt since: the p99 by `drift.safe`, the median by `drift.typical`.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        """Raises ConfigError where a cell of the grid gamma x length x batch is missing."""
        measured = {(cell.gamma, cell.length, cell.batch): (cell.p50_ms, cell.p99_ms) for cell in cells}
        gammas, lengths, batches = (sorted({key[axis] for key in measured}) for axis in range(3))
        missing = len(gammas) * len(lengths) * len(batches) - len(measured)
        if missing or not measured:
            raise ConfigError(f"the latency table lacks {missing or 'all'} of its cells; measure it again")
        self.gammas: tuple[int, ...] = tuple(gammas)
        self.lengths: tuple[int, ...] = tuple(lengths)
        self.max_batch: int = batches[-1]
        self.drift = Drift()
        self._p50_ms, self._p99_ms = (
            self._rows([[[measured[g, n, b][which] for b in batches] for n in lengths] for g in gammas], batches)
            for which in range(2)
        )
        self._typical_grids, self._safe_grids = (
            [np.array([planes[number] for planes in rows.values()]) for number in range(len(lengths))]
            for rows in (self._p50_ms, self._p99_ms)
        )
        sizes = np.arange(1, self.max_batch + 1)
        self._costs_ms = [(grid[:, 1:] / sizes).min(axis=1) for grid in self._typical_grids]

    def safe_ms(self, gamma: int, batch: int, length: int) -> float:
        """The p99 of `batch` samples whose longest has `length` tokens; sizes beyond the table are errors."""
        return self.drift.safe * self._p99_ms[gamma][self._row(length)][batch]

    def typical_ms(self, gamma: int, batch: int, length: int) -> float:
        """The median of `batch` samples whose longest has `length` tokens; sizes beyond the table are errors."""
        return self.drift.typical * self._p50_ms[gamma][self._row(length)][batch]

    def all_safe_ms(self, length: int) -> NDArray[np.float64]:
        """The p99 by level (in the order of `gammas`) and batch size (from 0), as an array."""
        return self.drift.safe * self._safe_grids[self._row(length)]

    def all_typical_ms(self, length: int) -> NDArray[np.float64]:
        """The median by level (in the order of `gammas`) and batch size (from 0), as an array."""
        return self.drift.typical * self._typical_grids[self._row(length)]

    def bucket(self, length: int) -> int:
        """The measured length that texts of `length` tokens are counted as."""
        return self.lengths[self._row(length)]

    def all_costs_ms(self, length: int) -> NDArray[np.float64]:
        """The executor's typical time per sample by level (in the order of `gammas`), in batches of the best size."""
        costs_ms: NDArray[np.float64] = self.drift.typical * self._costs_ms[self._row(length)]
        return costs_ms

    def observe(self, gamma: int, batch: int, length: int, took_ms: float) -> None:
        """Note how long a batch took."""
        row = self._row(length)
        self.drift.observe(took_ms, self._p50_ms[gamma][row][batch], self._p99_ms[gamma][row][batch])

    def _row(self, length: int) -> int:
        row = bisect_left(self.lengths, length)
        if row == len(self.lengths):
            raise ConfigError(f"length {length} is above {self.lengths[-1]}, the longest measured one")
        return row

    def _rows(self, measured: Sequence[Sequence[Sequence[float]]], batches: list[int]) -> dict[int, list[list[float]]]:
        """Times by level, length and batch size (from 0), monotone in the last two."""
        grid = np.maximum.accumulate(np.maximum.accumulate(np.array(measured), axis=1), axis=2)
        every = np.arange(self.max_batch + 1)
        return {
            gamma: [np.interp(every, batches, row).tolist() for row in plane]
            for gamma, plane in zip(self.gammas, grid, strict=True)
        }
