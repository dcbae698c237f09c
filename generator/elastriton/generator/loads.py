"""Arrivals for replays and simulations: seeded synthetic processes and recorded traces, at exactly the rate asked for.

Shapes are drawn first and then stretched in time, so that `n` requests take n ÷ rate seconds: a load is what its name
says, and a shape's bursts keep their form. Of a recording, each seed takes another contiguous window.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elastriton.core.errors import ConfigError

Floats = NDArray[np.float64]
BURST, BURST_SHARE, BURST_REQUESTS = 2.5, 0.25, 250.0
STEP = (0.5, 2.0, 0.5)
SWING, PERIODS = 0.8, 3.0
_MORE_DIGITS = re.compile(r"(?<=\.\d{6})\d+")  # of a second than Python reads


@dataclass(frozen=True)
class Load:
    """Arrival times in seconds from 0, and by how much a recorded trace was stretched (below 1: compressed)."""

    arrivals_s: Floats
    stretch: float | None = None


def poisson(n: int, rng: np.random.Generator) -> Floats:
    """Independent arrivals."""
    return rng.exponential(size=n).cumsum()


def mmpp(n: int, rng: np.random.Generator) -> Floats:
    """Two-state Markov-modulated Poisson: bursts of 2.5 x the mean for a quarter of the time, 0.5 x otherwise."""
    calm = (1.0 - BURST * BURST_SHARE) / (1.0 - BURST_SHARE)
    burst_time = BURST_REQUESTS / BURST  # in mean gaps between requests
    rates, times = (calm, BURST), (burst_time * (1.0 / BURST_SHARE - 1.0), burst_time)
    state, now, ends = 0, 0.0, rng.exponential(times[0])
    arrivals = np.empty(n)
    for index in range(n):
        gap = rng.exponential()
        while now + gap / rates[state] > ends:
            gap -= (ends - now) * rates[state]
            now, state = ends, 1 - state
            ends = now + rng.exponential(times[state])
        now += gap / rates[state]
        arrivals[index] = now
    return arrivals


def step(n: int, rng: np.random.Generator) -> Floats:
    """Poisson at 0.5 x, then 2 x, then 0.5 x the mean, a third of the time each."""
    times = np.arange(len(STEP) + 1) / len(STEP)
    return _modulated(n, rng, times, np.concatenate([[0.0], np.cumsum(STEP)]))


def sinusoid(n: int, rng: np.random.Generator) -> Floats:
    """Poisson whose rate swings by 80 % around the mean, three times."""
    times = np.linspace(0.0, 1.0, 3001)
    angle = 2.0 * np.pi * PERIODS
    return _modulated(n, rng, times, times + SWING * (1.0 - np.cos(angle * times)) / angle)


def _modulated(n: int, rng: np.random.Generator, times: Floats, expected: Floats) -> Floats:
    """Arrivals on [0, 1] whose expected count up to `times` is proportional to `expected`: a Poisson process of n."""
    return np.interp(np.sort(rng.random(n)), expected / expected[-1], times)


SYNTHETIC: dict[str, Callable[[int, np.random.Generator], Floats]] = {
    "poisson": poisson,
    "mmpp": mmpp,
    "step": step,
    "sinusoid": sinusoid,
}


def make_load(trace: str, n: int, rate_per_s: float, seed: int) -> Load:
    """About `n` requests (fewer where a recording is shorter) at a mean of `rate_per_s`.

    `trace` is one of SYNTHETIC, or a .csv file with one request per row and its time in a column TIMESTAMP, as the
    Azure LLM inference traces have it. Raises ConfigError for anything else.
    """
    rng = np.random.default_rng([seed, 0])
    if trace in SYNTHETIC:
        return Load(_stretched(SYNTHETIC[trace](n, rng), rate_per_s)[0])
    recorded = _recorded(Path(trace))
    n = min(n, len(recorded))
    start = int(rng.integers(len(recorded) - n + 1))
    arrivals_s = recorded[start : start + n] - (recorded[start - 1] if start else recorded[0])
    if arrivals_s[-1] == 0.0:
        raise ConfigError(
            f"{n} requests of trace {trace}, from its row {start}, all have one time; replay more of them"
        )
    return Load(*_stretched(arrivals_s, rate_per_s))


def _stretched(arrivals: Floats, rate_per_s: float) -> tuple[Floats, float]:
    factor = len(arrivals) / rate_per_s / float(arrivals[-1])
    return arrivals * factor, factor


@cache
def _recorded(file: Path) -> Floats:
    if not file.is_file():
        raise ConfigError(f"trace {file} is none of {', '.join(SYNTHETIC)}, and no file")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            stamps = [datetime.fromisoformat(_MORE_DIGITS.sub("", row["TIMESTAMP"])) for row in csv.DictReader(lines)]
        seconds = [(stamp - stamps[0]).total_seconds() for stamp in stamps]  # all with a time zone, or none
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ConfigError(f"trace {file} is no .csv with a column TIMESTAMP: {type(error).__name__}: {error}") from None
    if len(set(seconds)) < 2:
        raise ConfigError(f"trace {file} has {len(set(seconds))} different times; it needs two at least")
    return np.sort(np.array(seconds))
