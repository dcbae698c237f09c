"""What the records of policies.py say: tables of ratios and lost cells, each with a bootstrap interval over seeds.

A cell is a trace at a load; its utilities are summed over seeds. The intervals redraw the seeds 2,000 times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

OURS, BOUND = "ours", "clairvoyant"
VARIANTS = ("joint-unpriced",)  # ours too: not a peer
DRAWS = 2000

Floats = NDArray[np.float64]
Key = tuple[str, float]


class Results:
    """Utilities as an array [cells, seeds] by policy."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.cells: list[Key] = sorted({(record["trace"], record["load"]) for record in records})
        self.seeds = sorted({record["seed"] for record in records})
        names = dict.fromkeys(record["policy"] for record in records)
        self.utility: dict[str, Floats] = {name: np.zeros((len(self.cells), len(self.seeds))) for name in names}
        for record in records:
            cell = self.cells.index((record["trace"], record["load"]))
            self.utility[record["policy"]][cell, self.seeds.index(record["seed"])] = record["utility"]

    @property
    def peers(self) -> list[str]:
        """Everybody but us, our variants and the bound."""
        return [name for name in self.utility if name not in (OURS, BOUND, *VARIANTS)]

    @property
    def varying(self) -> list[int]:
        """The cells of the headline: load-varying traces at a mean load of 1 to 1.5."""
        return [index for index, (trace, load) in enumerate(self.cells) if trace != "poisson" and 1.0 <= load <= 1.5]

    def best_peer(self) -> list[str]:
        """The peer with the most utility, cell by cell."""
        totals = np.array([self.utility[name].sum(axis=1) for name in self.peers])
        return [self.peers[index] for index in totals.argmax(axis=0)]


def interval(statistic: Callable[[NDArray[np.int64]], float], seeds: int) -> tuple[float, float, float]:
    """A statistic of the seeds drawn, over all of them once, and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(seeds, size=seeds)) for _ in range(DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return statistic(np.arange(seeds)), float(low), float(high)


def summarise(records: list[dict[str, Any]]) -> list[Table]:
    """The printed tables."""
    results = Results(records)
    return [_ratios(results), _cells(results)]


def _ratios(results: Results) -> Table:
    table = Table(title="utility of ours ÷ policy, and policy ÷ bound: means over cells [95 % over seeds]")
    for name in ("policy", "all cells", "varying loads, 1–1.5 ×", "worst cell", "policy ÷ bound"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    everywhere = list(range(len(results.cells)))
    for name in results.utility:
        if name == BOUND:
            continue
        ratios = _ratio(results, OURS, name, np.arange(len(results.seeds)))
        worst = int(ratios.argmin())
        table.add_row(
            name,
            _interval(results, OURS, name, everywhere),
            _interval(results, OURS, name, results.varying),
            f"{_interval(results, OURS, name, [worst])} {_named(results.cells[worst])}",
            _interval(results, name, BOUND, everywhere),
        )
    return table


def _cells(results: Results) -> Table:
    table = Table(title="ours ÷ the best peer of each cell (chosen in hindsight), and ours ÷ bound; below 1 in red")
    for name in ("cell", "best peer", "ours ÷ best peer", "ours ÷ bound"):
        table.add_column(name, justify="right" if "÷" in name else "left")
    for index, (cell, peer) in enumerate(zip(results.cells, results.best_peer(), strict=True)):
        ratio = _interval(results, OURS, peer, [index])
        lost = float(_ratio(results, OURS, peer, np.arange(len(results.seeds)))[index]) < 1.0
        shown = f"[red]{ratio}[/]" if lost else ratio
        table.add_row(_named(cell), peer, shown, _interval(results, OURS, BOUND, [index]))
    return table


def _ratio(results: Results, over: str, under: str, seeds: NDArray[np.int64]) -> Floats:
    above, below = (results.utility[name][:, seeds].sum(axis=1) for name in (over, under))
    ratio: Floats = above / np.maximum(below, 1e-9)
    return ratio


def _interval(results: Results, over: str, under: str, cells: list[int]) -> str:
    if not cells:
        return "–"
    middle, low, high = interval(
        lambda seeds: float(_ratio(results, over, under, seeds)[cells].mean()), len(results.seeds)
    )
    return f"{middle:.3f} \\[{low:.3f}, {high:.3f}]"


def _named(cell: Key) -> str:
    return f"{cell[0]} {cell[1]:g}"
