"""A replay as a picture: offered load, answers by token level, and utility over time, beside other replays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastriton.core.errors import ConfigError
from elastriton.generator.replay import Sent, summarise

BINS = 60
KINDS = (".png", ".svg", ".pdf")


def save(path: Path, sent: Sequence[Sent], setting: Mapping[str, Any]) -> None:
    """Write the figures of a replay and every request of it as JSON; `setting` says what was replayed."""
    content = {**setting, "summary": asdict(summarise(sent)), "requests": [asdict(one) for one in sent]}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def load(path: Path) -> list[Sent]:
    """The requests of a saved replay. Raises ConfigError where the file is none."""
    try:
        return [Sent(**one) for one in json.loads(path.read_text(encoding="utf-8"))["requests"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no replay written by --json: {type(error).__name__}: {error}") from None


def load_all(paths: Sequence[Path]) -> dict[str, list[Sent]]:
    """Saved replays by the names of their files; by their paths, where several have one name."""
    stems = [path.stem for path in paths]
    return {path.stem if stems.count(path.stem) == 1 else str(path): load(path) for path in paths}


def check_kind(path: Path) -> None:
    """Raises ConfigError where `draw_report` cannot draw a file of this name."""
    if path.suffix not in KINDS:
        raise ConfigError(f"{path} is of no known kind; draw one of {', '.join(KINDS)}")


def draw_report(path: Path, replays: Mapping[str, Sequence[Sent]]) -> None:
    """Draw the first replay's load and levels, and the utility of all of them, as PNG, SVG or PDF by the suffix."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    name, first = next(iter(replays.items()))
    end_s = max(one.at_s for sent in replays.values() for one in sent)
    edges = np.linspace(0.0, end_s, BINS + 1)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (offered, levels, utility) = plt.subplots(3, 1, figsize=(8, 7.2), sharex=True, layout="constrained")
        offered.stairs(_rate(first, [1.0] * len(first), edges), edges, color="#333333", label="offered")
        answered = _rate(first, [float(one.on_time) for one in first], edges)
        offered.stairs(answered, edges, color="#2a9d8f", fill=True, alpha=0.35, label="answered in time")
        offered.set(ylabel="requests per s", title=name)
        gammas = sorted({one.gamma for one in first if one.gamma is not None})
        colours = mpl.colormaps["coolwarm_r"](np.linspace(0.0, 1.0, max(2, len(gammas))))
        below = np.zeros(BINS)
        for gamma, colour in zip(gammas, colours, strict=False):
            above = below + _rate(first, [float(one.gamma == gamma) for one in first], edges)
            levels.stairs(above, edges, baseline=below, fill=True, color=colour, label=f"γ = {gamma}")
            below = above
        levels.set(ylabel="answers per s, by level")
        for label, sent in replays.items():
            width = 2.0 if label == name else 1.0
            utility.stairs(_rate(sent, [one.utility for one in sent], edges), edges, linewidth=width, label=label)
        utility.set(ylabel="utility per s", xlabel="s since the first request")
        for axes in (offered, levels, utility):
            axes.set_ylim(bottom=0.0)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        figure.savefig(path, dpi=120)
        plt.close(figure)


def _rate(sent: Sequence[Sent], weights: Sequence[float], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of the requests' weights per second, by the time at which they were due."""
    totals: NDArray[np.float64] = np.histogram([one.at_s for one in sent], edges, weights=weights)[0] / np.diff(edges)
    return totals
