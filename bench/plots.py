"""Draws bench/results/policies.png: utility ÷ the clairvoyant bound by mean load, one panel per trace.

python bench/plots.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from summary import BOUND, OURS, Results

ROOT = Path(__file__).parents[1]
STYLES = {
    OURS: ("#c1121f", 2.8, "-"),
    "joint-unpriced": ("#c1121f", 1.0, ":"),
    "otas": ("#1d3557", 1.3, "-"),
    "slackfit": ("#2a9d8f", 1.3, "-"),
    "largest-batch": ("#2a9d8f", 1.0, ":"),
    "proteus": ("#7b2cbf", 1.3, "-"),
    "infaas": ("#e07a1f", 1.3, "-"),
    "model-switching": ("#8a6d3b", 1.3, "-"),
    "clockwork": ("#555555", 1.3, "-"),
    "pets": ("#999999", 1.3, "--"),
}
FIXED = ("#4c78a8", 1.3, "--")


def main() -> None:
    """Read the records, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "bench/results/policies.json")
    arguments = parser.parse_args()
    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    results = Results(json.loads(arguments.results.read_text(encoding="utf-8")))
    traces = list(dict.fromkeys(trace for trace, _ in results.cells))
    columns = min(3, len(traces))
    rows = -(-len(traces) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.9 * columns, 2.9 * rows + 0.9), sharex=True, sharey=True, squeeze=False
    )
    for axes, trace in zip(grid.flat, traces, strict=False):
        _panel(axes, results, trace)
    for axes in list(grid.flat)[len(traces) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("utility ÷ clairvoyant bound")
    for axes in grid[-1]:
        axes.set_xlabel("mean load ÷ capacity at level 0")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="lower center", ncols=6, frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    target = arguments.results.with_suffix(".png")
    figure.savefig(target, dpi=150)
    print(f"wrote {target}")


def _panel(axes: Axes, results: Results, trace: str) -> None:
    cells = [index for index, cell in enumerate(results.cells) if cell[0] == trace]
    loads = [results.cells[index][1] for index in cells]
    bound = results.utility[BOUND][cells]
    share = {name: utility[cells] / bound for name, utility in results.utility.items() if name != BOUND}
    fixed = np.array([values.mean(axis=1) for name, values in share.items() if name.startswith("fixed")])
    colour, width, style = FIXED
    axes.plot(loads, fixed.max(axis=0), style, color=colour, lw=width, label="best fixed level, in hindsight")
    axes.fill_between(loads, fixed.min(axis=0), fixed.max(axis=0), color=colour, alpha=0.10, lw=0, label="fixed levels")
    for name in reversed(STYLES):
        if name in share:
            colour, width, style = STYLES[name]
            order = 5 if name == OURS else 2
            axes.plot(loads, share[name].mean(axis=1), style, color=colour, lw=width, label=name, zorder=order)
    ours = share[OURS]
    axes.fill_between(loads, ours.min(axis=1), ours.max(axis=1), color=STYLES[OURS][0], alpha=0.15, lw=0, zorder=1)
    axes.set_title(trace, loc="left", fontweight="bold")
    axes.set_xticks([0.5, 1.0, 1.5, 2.0, 2.5])
    axes.set_xlim(0.1, 2.6)
    axes.set_ylim(0.0, 1.03)
    axes.grid(axis="y", color="#dddddd", lw=0.6)


if __name__ == "__main__":
    main()
